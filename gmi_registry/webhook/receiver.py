"""A small server that hears from a hub and notes what to look at. It does no work itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

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
_CLOSE = {"Connection": "close"}


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
        from starlette.concurrency import run_in_threadpool
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
            noted = await run_in_threadpool(queue.put, decision.repo, decision.sha)
        except GmiError:
            return _later("the queue cannot be written")
        if noted == "full":
            return _later("the queue is full")
        if noted in ("ours", "set aside"):
            return JSONResponse({"ignored": noted})
        return JSONResponse({noted: decision.repo}, 202)

    async def health(request: Request) -> Response:
        try:
            counts = await run_in_threadpool(queue.counts)
        except GmiError:
            return _later("the queue cannot be read")
        found: dict[str, int | bool] = {
            "waiting": counts.waiting,
            "working": counts.taken,
            "set_aside": counts.aside,
            "capacity": queue.capacity,
        }
        if worker_alive is not None:
            found["worker"] = worker_alive()
        return JSONResponse(found)

    def _refused(status: int, reason: str) -> Response:
        # What is still on its way is not waited for.
        return JSONResponse({"error": reason}, status, _CLOSE)

    def _later(reason: str) -> Response:
        return JSONResponse({"error": reason}, 503, {"Retry-After": str(_FULL_SECONDS)})

    return Starlette(
        routes=[Route(PATH, deliver, methods=["POST"]), Route("/health", health, methods=["GET"])]
    )


async def _body(request: Request) -> bytes | None:
    """The body, or None once it is too long."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > PAYLOAD_LIMIT:
            return None
    return bytes(body)
