"""A small server that hears from a hub and notes what to look at. It does no work itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from gmi_registry.errors import GmiError, InputError, MissingExtraError
from gmi_registry.webhook.payload import PAYLOAD_LIMIT, Ignored, decide
from gmi_registry.webhook.queue import RepoQueue
from gmi_registry.webhook.secret import Secret

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["PATH", "create_app"]

PATH = "/webhook"
_HEADER = "x-webhook-secret"
_BODY_SECONDS = 10.0
_FULL_SECONDS = 60
_MOST_LOOKS = 32
_CLOSE = {"Connection": "close"}

T = TypeVar("T")


def create_app(
    secret: Secret,
    queue: RepoQueue,
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
        given = request.headers.getlist(_HEADER)
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
