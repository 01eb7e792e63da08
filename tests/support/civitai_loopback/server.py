"""HTTP: requests in, answers out, and the failures between."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from .fault import Fault, Faults
from .routes import Reply, State, answer

__all__ = ["CivitaiServer"]

_PIECES = 10
_PAGES = {
    "bot-check": (403, b"<!DOCTYPE html><html><head><title>Just a moment...</title></head></html>"),
    "login-page": (200, b"<!DOCTYPE html><html><head><title>Login | Civitai</title></head></html>"),
}
# Tests let the client's waits pass in no time; what is slow here stays slow.
_sleep = time.sleep


class CivitaiServer(ThreadingHTTPServer):
    """Answers from ``state``; ``note`` is told method, target, status, account, token and host."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, state: State, faults: Faults, note: Callable[..., None]) -> None:
        self.state = state
        self.faults = faults
        self.note = note
        self.lock = threading.RLock()
        self.failures: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no mistake of this server."""
        if not isinstance(sys.exception(), ConnectionError):
            self.failures.append(traceback.format_exc())


class _Handler(BaseHTTPRequestHandler):
    server: CivitaiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 120

    def log_message(self, *arguments: Any) -> None:
        pass

    def _work(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = unquote(self.path)
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        with self.server.lock:
            fault = self.server.faults.take(self.command, target)
            user = self.server.state.users.get(token, "") if kind == "Bearer" else ""
            reply = self._answer(fault, body, user, unknown=bool(token) and not user)
            self.server.note(
                self.command, self.path, reply.status, user, bool(token), self.headers["Host"],
                self.headers.get("Range"),
            )  # fmt: skip
        self._send(reply, fault)

    do_GET = do_POST = _work  # noqa: N815

    def _answer(self, fault: Fault | None, body: bytes, user: str, *, unknown: bool) -> Reply:
        if fault:
            failure = self._failure(fault)
            if failure:
                return failure
        if unknown:
            return Reply.json({"error": "Unauthorized"}, 401)
        headers = dict(self.headers)
        if fault and fault.kind == "whole":
            headers.pop("Range", None)
        try:
            reply = answer(self.server.state, self.command, self.path, headers, body, user)
        except Exception:
            # A request that no client should send, or a mistake in this server: tests can look.
            self.server.failures.append(f"{self.command} {self.path}\n{traceback.format_exc()}")
            return Reply.json({"error": "Internal Server Error"}, 500)
        return _altered(reply, fault) if fault and reply.status < 300 else reply

    def _failure(self, fault: Fault) -> Reply | None:
        if fault.kind == "429":
            reply = Reply.json({"error": "Too many requests"}, 429)
            if fault.retry_after is not None:
                reply.headers["Retry-After"] = str(fault.retry_after)
            return reply
        if fault.kind == "500":
            return Reply.json({"error": "Internal Server Error"}, 500)
        if fault.kind == "expired":
            return Reply(403, b"<Error><Code>AccessDenied</Code></Error>")
        if fault.kind in _PAGES:
            status, content = _PAGES[fault.kind]
            return Reply(status, content, {"Content-Type": "text/html; charset=UTF-8"})
        if fault.kind == "region":
            return Reply.json({"error": "Not available in your region"}, 451)
        if fault.kind == "hostile":
            headers = {"Content-Type": fault.content_type}
            if fault.location is not None:
                headers["Location"] = fault.location
            return Reply(fault.status, fault.content, headers)
        if fault.kind == "changed-file" and fault.file is not None:
            self.server.state.file(fault.file).content = fault.content
        return None

    def _send(self, reply: Reply, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        lines = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            f"Content-Length: {len(reply.body)}",
            *(f"{name}: {text}" for name, text in reply.headers.items()),
        ]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace")
        with contextlib.suppress(ConnectionError, TimeoutError):
            if kind == "cut":
                self.wfile.write(head + reply.body[: len(reply.body) // 2])
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
            elif fault and kind == "slow":
                self.wfile.write(head)
                step = max(1, -(-len(reply.body) // _PIECES))
                for start in range(0, len(reply.body), step):
                    _sleep(fault.seconds / _PIECES)
                    self.wfile.write(reply.body[start : start + step])
            else:
                self.wfile.write(head + reply.body)


def _altered(reply: Reply, fault: Fault) -> Reply:
    if fault.kind == "wrong-digest":
        middle = len(reply.body) // 2
        flipped = bytes([reply.body[middle] ^ 0xFF])
        reply.body = reply.body[:middle] + flipped + reply.body[middle + 1 :]
    elif fault.kind in ("endless", "loop", "circle", "left-out", "stumble"):
        page = json.loads(reply.body)
        if "items" not in page:
            return reply
        shown = [item["id"] for item in page["items"]]
        if fault.kind == "stumble":
            failed = Reply.json({"error": "Internal Server Error"}, 500)
            return failed if fault.model in shown else reply
        if fault.kind == "left-out":
            page["items"] = [item for item in page["items"] if item["id"] != fault.model]
        else:
            if fault.kind == "endless":
                page["items"] = []
            turn = {"endless": 10_000 + fault.seen, "loop": 0, "circle": fault.seen % 2}
            page["metadata"]["nextCursor"] = f"{turn[fault.kind]}|1"
        reply.body = json.dumps(page).encode()
    return reply
