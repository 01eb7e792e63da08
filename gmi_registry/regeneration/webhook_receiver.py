"""A small server that hears from a hub and notes which models to compare; it does no more."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gmi_registry.errors import GmiError, InputError, MissingExtraError
from gmi_registry.regeneration.store import DeliveryQueue
from gmi_registry.sanitize import add_secret, fault_place
from gmi_registry.spec.reference import ModelRef

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from uvicorn import Server

PAYLOAD_LIMIT = 64 * 1024
"""Bytes. What a hub sends is a twentieth of it."""

_MAIN = "refs/heads/main"
_SCOPE = "repo.content"
_SHA = re.compile(r"[0-9a-f]{40}")
_NO_COMMIT = "0" * 40
_Word = Annotated[str, Field(max_length=200)]


@dataclass(frozen=True)
class Change:
    """The branch main of the model ``repo`` (``owner/name``) is at the commit ``sha`` now.

    It was when this was sent: deliveries come late, twice and out of order, so ``sha`` serves to
    know our own commits by, and what is to be done is for the model as it is when it is looked at.
    """

    repo: str
    sha: str


@dataclass(frozen=True)
class Ignored:
    """Nothing to look at; ``reason`` is one line without anything that the sender wrote."""

    reason: str


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Event(_Part):
    action: _Word
    scope: _Word


class _Repo(_Part):
    type: _Word
    name: _Word


class _Ref(_Part):
    ref: Annotated[str, Field(max_length=1000)]
    newSha: _Word | None = None  # noqa: N815, as it is sent


class _Payload(_Part):
    event: _Event
    repo: _Repo
    updatedRefs: list[_Ref] = []  # noqa: N815

    @field_validator("updatedRefs", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return [] if value is None else value


def decide(body: bytes | str) -> Change | Ignored:
    """What a delivery asks for.

    Another kind of event, repository or branch is ignored, and so is a branch that was deleted.
    Raises InputError for what is no payload of a hub: too long, no JSON, parts that are missing, a
    name that no model can have.
    """
    if len(body) > PAYLOAD_LIMIT:
        raise _unreadable("it is too long")
    try:
        found = _Payload.model_validate_json(body)
    except (ValidationError, ValueError) as error:
        raise _unreadable(_where(error)) from None
    if found.repo.type != "model":
        return Ignored("not a model")
    if not _concerns_files(found.event):
        return Ignored("no change of files")
    heads = [ref.newSha for ref in found.updatedRefs if ref.ref == _MAIN]
    if not heads:
        return Ignored("not the branch main")
    sha = heads[-1]
    if sha is None or sha == _NO_COMMIT:
        return Ignored("the branch main was deleted")
    if not _SHA.fullmatch(sha):
        raise _unreadable("a commit is 40 hex digits")
    try:
        repo = ModelRef("hf", found.repo.name).id
    except InputError:
        raise _unreadable("no model can be called so") from None
    return Change(repo, sha)


def _concerns_files(event: _Event) -> bool:
    # A hub may narrow a scope one day; whatever happens in it is then an update of the wider one.
    return event.scope.startswith(f"{_SCOPE}.") or (
        event.scope == _SCOPE and event.action == "update"
    )


def _where(error: Exception) -> str:
    """The place of the first fault. Its value is the sender's, and goes into no log."""
    if not isinstance(error, ValidationError):
        return "it is not a text"
    place = fault_place(error)
    return f"{place} is missing or wrong" if place else "it is not a JSON object"


def _unreadable(reason: str) -> InputError:
    return InputError(
        f"the payload of a webhook cannot be read: {reason}",
        hint="send what a hub sends: event, repo and updatedRefs, as one JSON object",
    )


SECRET_VARIABLE = "GMI_WEBHOOK_SECRET"

_SHORTEST = 16
_LONGEST = 256


class Secret:
    """A secret that both sides have: 16 to 256 printable ASCII letters, without blanks.

    It goes through a header as it is, and a short one can be guessed by whoever may try often
    enough. Raises InputError for anything else.
    """

    def __init__(self, text: str, *, name: str = SECRET_VARIABLE) -> None:
        add_secret(text)
        if not (
            _SHORTEST <= len(text) <= _LONGEST and all("!" <= letter <= "~" for letter in text)
        ):
            raise InputError(
                f"the secret in {name} must be {_SHORTEST} to {_LONGEST} printable ASCII letters, "
                "without blanks",
                hint=_how_to_make(name),
            )
        self._text = text
        self._digest = hashlib.sha256(text.encode("ascii")).digest()

    @classmethod
    def of_environment(cls, name: str = SECRET_VARIABLE) -> Secret:
        """The secret in the variable ``name``. Raises InputError where there is none."""
        text = os.environ.get(name)
        if not text:
            raise InputError(f"{name} holds no secret", hint=_how_to_make(name))
        return cls(text, name=name)

    def matches(self, given: str) -> bool:
        """Whether ``given`` is the secret, in a time that tells nothing of either."""
        # Digests are of one length: comparing the texts would tell how long the secret is.
        found = hashlib.sha256(given.encode("utf-8", "surrogatepass")).digest()
        return hmac.compare_digest(found, self._digest)

    def reveal(self) -> str:
        """The text, for the one call that hands it to the hub."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"


def _how_to_make(name: str) -> str:
    return f"export {name}=$(openssl rand -hex 32), and keep it: both sides need the same"


PATH = "/webhook"
_SECRET_HEADER = "x-webhook-secret"
_BODY_SECONDS = 10.0
_FULL_SECONDS = 60
_MOST_LOOKS = 32
_CLOSE = {"Connection": "close"}

T = TypeVar("T")


def create_app(
    secret: Secret,
    queue: DeliveryQueue,
    *,
    body_seconds: float = _BODY_SECONDS,
    worker_alive: Callable[[], bool] | None = None,
) -> Starlette:
    """An ASGI application with ``POST /webhook`` and ``GET /health``.

    A delivery is answered as soon as it is written down: 202 where a model waits for it, 200 where
    there is nothing to do; 401 without the secret, 413 for over 64 KB, 408 where the body takes
    more than ``body_seconds``, 400 for what is no payload, 503 with ``Retry-After`` where the
    queue is full or cannot be written. No body is read before the secret is known to be right.
    ``/health`` counts what waits, and names nothing; ``worker_alive`` is asked for it.

    Raises MissingExtraError without the extra ``web``.
    """
    try:
        from starlette.applications import Starlette
        from starlette.requests import ClientDisconnect
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise MissingExtraError("starlette", extra="web", purpose="a webhook receiver") from error

    async def deliver(request: Request) -> Response:
        given = request.headers.getlist(_SECRET_HEADER)
        if len(given) != 1 or not secret.matches(given[0]):
            return _refused(401, "the secret is missing or wrong")
        # Told beforehand, a body that is too long need not be read at all.
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > PAYLOAD_LIMIT:
            return _refused(413, f"a payload has at most {PAYLOAD_LIMIT} bytes")
        try:
            async with asyncio.timeout(body_seconds):
                body = await _body(request)
        except TimeoutError:
            return _refused(408, "the body took too long")
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return _refused(413, f"a payload has at most {PAYLOAD_LIMIT} bytes")
        try:
            decision = decide(body)
        except InputError as error:
            return _refused(400, error.message)
        if isinstance(decision, Ignored):
            return JSONResponse({"ignored": decision.reason})
        try:
            noted = await turns.take(partial(queue.put, decision.repo, decision.sha))
        except GmiError:
            return _later("the queue cannot be written")
        if noted == "full":
            return _later("the queue is full")
        if noted in ("ours", "set aside"):
            return JSONResponse({"ignored": noted})
        return JSONResponse({noted: decision.repo}, 202)

    async def health(request: Request) -> Response:
        if looks.waiting >= _MOST_LOOKS:
            return _later("too many ask", _CLOSE)
        try:
            counts = await looks.take(queue.counts)
        except GmiError:
            return _later("the queue cannot be read", _CLOSE)
        found: dict[str, int | bool] = {
            "waiting": counts.waiting,
            "working": counts.taken,
            "set_aside": counts.aside,
            "capacity": queue.capacity,
        }
        if worker_alive is not None:
            found["worker"] = worker_alive()
        return JSONResponse(found, headers=_CLOSE)

    def _refused(status: int, reason: str) -> Response:
        # What is still on its way is not waited for.
        return JSONResponse({"error": reason}, status, _CLOSE)

    def _later(reason: str, more: dict[str, str] | None = None) -> Response:
        headers = {"Retry-After": str(_FULL_SECONDS), **(more or {})}
        return JSONResponse({"error": reason}, 503, headers)

    # Nobody needs a secret to ask how many wait: those who do keep no delivery from its turn.
    turns, looks = _Turns(), _Turns()
    return Starlette(
        routes=[Route(PATH, deliver, methods=["POST"]), Route("/health", health, methods=["GET"])],
        exception_handlers={404: _nothing, 405: _nothing},
    )


class _Turns:
    """Calls of a thread one after the other, in the order in which they were asked for.

    They wait here rather than for the file, which patience for many at once would not do for. Where
    one fails, those that wait fail with it: each would wait as long for the same fault.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._failure: tuple[int, GmiError] | None = None
        self._asked = self.waiting = 0

    async def take(self, call: Callable[[], T]) -> T:
        from starlette.concurrency import run_in_threadpool

        self._asked += 1
        self.waiting += 1
        number = self._asked
        try:
            async with self._lock:
                if self._failure is not None and number <= self._failure[0]:
                    raise self._failure[1]
                try:
                    return await run_in_threadpool(call)
                except GmiError as error:
                    self._failure = self._asked, error
                    raise
        finally:
            self.waiting -= 1


async def _nothing(request: Request, error: Exception) -> Response:
    """For who has the wrong address: nothing, and no second request on the same connection."""
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse

    assert isinstance(error, HTTPException)
    headers = {**(error.headers or {}), **_CLOSE}
    return PlainTextResponse(error.detail, status_code=error.status_code, headers=headers)


async def _body(request: Request) -> bytes | None:
    """The body, or None once it is too long."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > PAYLOAD_LIMIT:
            return None
    return bytes(body)


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
    """How many files this process may have open, once it has requested as many as it needs."""
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
