"""The receiver on a port, with the limits that keep slow or many clients from blocking others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from uvicorn import Server

__all__ = ["listen", "make_server"]

_CONNECTIONS = 500
_HEAD_SECONDS = 10.0
_HEAD_BYTES = 16 * 1024
_GOODBYE_SECONDS = 5
_BACKLOG = 256


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


def make_server(app: Starlette, *, head_seconds: float = _HEAD_SECONDS) -> Server:
    """A server for ``app``: ``server.run(sockets=[listen(host, port)])`` serves until a signal.

    At most 500 connections are open. A client has ``head_seconds`` for the head of each request,
    which has at most 16 KB; the body is the application's to limit. Nothing of a request is logged.
    Raises MissingExtraError without the extra ``web``.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingExtraError("uvicorn", extra="web", purpose="a webhook receiver") from error
    config = uvicorn.Config(
        app,
        http=_punctual(head_seconds),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=_GOODBYE_SECONDS,
        h11_max_incomplete_event_size=_HEAD_BYTES,
    )
    return uvicorn.Server(config)


def _punctual(head_seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, that hangs up on who does not come to the point.

    uvicorn itself waits for ever for the end of a request's head: after the first byte its own
    limit on idle connections no longer counts.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Punctual(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                self._wait()
            else:
                self._stop()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _wait(self) -> None:
            # From the first byte on, not from the last: a byte a second is no progress.
            if self._deadline is None:
                hang_up: Callable[[], None] = self.transport.abort
                self._deadline = self.loop.call_later(head_seconds, hang_up)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Punctual
