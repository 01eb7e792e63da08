"""The receiver on a port, with the limits that keep slow or many clients from blocking others."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from uvicorn import Server

__all__ = ["listen", "make_server"]

_CONNECTIONS = 500
_HEAD_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_UNREAD_SECONDS = 0.5
_HEAD_BYTES = 16 * 1024
_GOODBYE_SECONDS = 5
# Connections that wait to be looked at: as many as the files of the process allow.
_FEWEST, _BACKLOG = 64, 1024
_OTHER_FILES = 64
_FILES = 4096
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 60\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free. Raises InputError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"nothing can listen on {host} port {port}: {reason}",
            hint="choose another --port, or --host 127.0.0.1",
        ) from error


def make_server(
    app: Starlette,
    *,
    head_seconds: float = _HEAD_SECONDS,
    answer_seconds: float = _ANSWER_SECONDS,
    connections: int = _CONNECTIONS,
) -> Server:
    """A server for ``app``: ``server.run(sockets=[listen(host, port)])`` serves until a signal.

    A client has ``head_seconds`` for the head of each request, which has at most 16 KB, and
    ``answer_seconds`` from there until it has the answer; how long the body may take is the
    application's to say. At most ``connections`` are open, fewer where the system allows fewer
    files. A new one takes the place of one that has not come to the point: the one that waits
    longest, of the address that has most of them. So idle connections, however many, keep nobody
    out. Nothing of a request is logged. Raises MissingExtraError without the extra ``web``.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("uvicorn", extra="web", purpose="a webhook receiver") from error
    files = _files() - _OTHER_FILES
    most, backlog = min(connections, max(16, files // 3)), min(_BACKLOG, max(_FEWEST, files // 4))
    # Those that were just hung up on still have their files for a moment.
    table = _Connections(most, max(most, min(4 * most, files - 2 * backlog)))
    config = uvicorn.Config(
        app,
        http=_punctual(head_seconds, answer_seconds, table),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=backlog,
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    return uvicorn.Server(config)


def _files() -> int:
    """How many files this process may have open, once it has asked for as many as it needs."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are no files
        return _FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _FILES
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):
            return soft
    return max(soft, wanted)


class _Connections:
    """Who is connected. ``most`` may be; those who wait for nothing but themselves give way.

    A connection waits from its beginning, or its last answer, until the whole head of a request
    is there. What it has sent may still have to be read: in its first half second it gives way only
    where there are ``limit``. Used by the event loop alone.
    """

    def __init__(self, most: int, limit: int) -> None:
        self._most, self._limit = most, limit
        self._open: set[Any] = set()
        # By address, the longest waiting first.
        self._waiting: dict[str, dict[Any, float]] = {}

    def admit(self, connection: Any, now: float) -> bool:
        """Count ``connection``; False where there are ``limit``, all being answered."""
        if len(self._open) >= self._most:
            self._evict(now)
        if len(self._open) >= self._limit:
            return False
        self._open.add(connection)
        return True

    def wait(self, connection: Any, now: float) -> None:
        """From now on it is its turn to say something."""
        if connection in self._open:
            self._waiting.setdefault(connection.address, {})[connection] = now

    def answer(self, connection: Any) -> None:
        """It has asked, and is owed an answer."""
        of_address = self._waiting.get(connection.address, {})
        of_address.pop(connection, None)
        if not of_address:
            self._waiting.pop(connection.address, None)

    def leave(self, connection: Any) -> None:
        """It is gone."""
        self.answer(connection)
        self._open.discard(connection)

    def _evict(self, now: float) -> None:
        if not self._waiting:
            return
        of_address = max(self._waiting.values(), key=lambda it: (len(it), -next(iter(it.values()))))
        longest, since = next(iter(of_address.items()))
        if len(self._open) >= self._limit or since <= now - _UNREAD_SECONDS:
            self.leave(longest)
            longest.transport.abort()


def _network(host: str) -> str:
    """What one party has: an address, and of the sixth version as many as fill 64 bits."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))


def _punctual(
    head_seconds: float, answer_seconds: float, table: _Connections
) -> type[asyncio.Protocol]:
    """uvicorn's protocol, that hangs up on who does not come to the point.

    uvicorn itself waits for ever for the end of a request's head (after the first byte its own
    limit on idle connections no longer counts), and for a client to read its answers; and once all
    connections are taken, it refuses those who ask rather than those who do not.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Punctual(H11Protocol):
        address = ""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._deadline: asyncio.TimerHandle | None = None
            self._owed = False

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self.address = _network(self.client[0]) if self.client else ""
            if table.admit(self, self.loop.time()):
                self._wait()
            else:
                self.transport.write(_FULL)
                self.transport.close()

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            if not self._owed and self.cycle is not None and not self.cycle.response_complete:
                self._owed = True
                table.answer(self)
                self._hang_up_in(answer_seconds)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._owed = False
            # Whoever has had the last answer may not take for ever to read it.
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            table.leave(self)
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

        def _wait(self) -> None:
            # From the first byte on, not from the last: a byte a second is no progress.
            table.wait(self, self.loop.time())
            self._hang_up_in(head_seconds)

        def _hang_up_in(self, seconds: float) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self.loop.call_later(seconds, self.transport.abort)

    return Punctual
