"""Which function answers which address, and the server that calls it."""

from __future__ import annotations

import contextlib
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from . import account, discussion, reading, writing
from .call import Call, State
from .reading import serve
from .records import Blob, Fault, Refusal, Reply, User

_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}

_ALONE: dict[tuple[str, str], Callable[[Call], Reply]] = {
    ("GET", "api/whoami-v2"): account.whoami,
    ("POST", "api/repos/create"): account.create_repo,
    ("DELETE", "api/repos/delete"): account.delete_repo,
    ("POST", "api/validate-yaml"): account.validate_yaml,
    ("GET", "api/settings/webhooks"): account.list_webhooks,
    ("POST", "api/settings/webhooks"): account.create_webhook,
}

# Below /api/{type}s/{owner}/{name}: the next word, and what takes the segments after it.
_BELOW: dict[tuple[str, str], Callable[..., Reply]] = {
    ("GET", ""): reading.info,
    ("GET", "revision"): reading.info,
    ("GET", "tree"): reading.tree,
    ("GET", "commits"): reading.commits,
    ("GET", "refs"): reading.refs,
    ("POST", "paths-info"): reading.paths_info,
    ("GET", "auth-check"): account.auth_check,
    ("POST", "preupload"): writing.preupload,
    ("POST", "commit"): writing.commit,
    ("POST", "branch"): writing.create_branch,
    ("POST", "tag"): writing.create_tag,
    ("GET", "xet-read-token"): writing.read_token,
    ("GET", "xet-write-token"): writing.write_token,
}

# Below .../discussions/{number}.
_DISCUSSED: dict[tuple[str, str], Callable[..., Reply]] = {
    ("GET", ""): discussion.details,
    ("POST", "merge"): discussion.merge,
}

_STORED: dict[tuple[str, str], Callable[..., Reply]] = {
    ("GET", "storage"): reading.storage,
    ("PUT", "upload"): writing.put,
}

_PIECES = 10
# Tests let the client's waits pass in no time; what is slow here stays slow.
_sleep = time.sleep


def answer(call: Call) -> Reply:
    """The answer to a request. Raises Refusal, and whatever a malformed request brings about."""
    method = "GET" if call.method == "HEAD" else call.method
    segments = call.segments
    alone = _ALONE.get((method, "/".join(segments)))
    if alone:
        return alone(call)
    moved = _moved(call)
    if moved:
        return moved
    if segments[0] == "api":
        return _api(call, method, segments[1:])
    stored = _STORED.get((method, segments[0]))
    if stored:
        return stored(call, *segments[1:])
    return _files(call, method, segments)


def _moved(call: Call) -> Reply | None:
    """The redirect to a repository's present name; as the Hub's, without a host and without a body
    that says anything, and before anything else of the request is looked at."""
    below = call.segments[1:] if call.segments[0] == "api" else call.segments
    repo_type = "model"
    if below[0] in _TYPES:
        repo_type, below = _TYPES[below[0]], below[1:]
    elif call.segments[0] == "api":
        return None
    if len(below) < 2:
        return None
    old = "/".join(below[:2]).removesuffix(".git")
    found = call.state.moved(repo_type, old, call.user)
    if found is None:
        return None
    status, new = found
    origin, _, name = new.rpartition("//")
    host, _, name = name.partition("/") if origin else ("", "", name)
    where = call.target.replace(f"/{old}", f"/{name}", 1)
    return Reply(status, b"", {"Location": f"{origin}//{host}{where}" if origin else where})


def _api(call: Call, method: str, segments: list[str]) -> Reply:
    if method == "POST" and segments[0] == "complete_multipart":
        return writing.complete(call, *segments[1:])
    if segments[0] not in _TYPES:
        raise _unknown()
    repo_type = _TYPES[segments[0]]
    if len(segments) == 1 and method == "GET":
        return reading.list_repos(call, repo_type)
    if len(segments) < 3:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    repo = call.state.readable(repo_type, "/".join(segments[1:3]), call.user)
    word, rest = (segments[3] if len(segments) > 3 else ""), segments[4:]
    if word == "discussions":
        return _discussed(call, method, repo, rest)
    handler = _BELOW.get((method, word))
    if handler is None:
        raise _unknown()
    return handler(call, repo, *rest)


def _discussed(call: Call, method: str, repo: Any, rest: list[str]) -> Reply:
    if repo.discussions_disabled:
        raise Refusal(403, "Discussions are disabled for this repo")
    if not rest:
        return discussion.listing(call, repo)
    handler = _DISCUSSED.get((method, rest[1] if len(rest) > 1 else ""))
    if handler is None:
        raise _unknown()
    return handler(call, repo, rest[0])


def _files(call: Call, method: str, segments: list[str]) -> Reply:
    repo_type = _TYPES.get(segments[0], "model") if segments[0] != "models" else "model"
    if segments[0] in ("datasets", "spaces"):
        segments = segments[1:]
    if len(segments) < 4:
        raise _unknown()
    owner, name, word, *rest = segments
    if name.endswith(".git") and [word, *rest[:2]] == ["info", "lfs", "objects"]:
        repo = call.state.readable(repo_type, f"{owner}/{name.removesuffix('.git')}", call.user)
        action = {"batch": writing.batch, "verify": writing.verify}.get(rest[-1])
        if method != "POST" or action is None:
            raise _unknown()
        return action(call, repo)
    if method != "GET" or word not in ("resolve", "raw"):
        raise _unknown()
    repo = call.state.readable(repo_type, f"{owner}/{name}", call.user)
    return reading.resolve(call, repo, *rest)


def _unknown() -> Refusal:
    return Refusal(404, "Sorry, we can't find the page you are looking for.")


class HubServer(ThreadingHTTPServer):
    """Answers from ``state``; ``note`` is told method, target, status, account and host."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, state: State, note: Callable[..., None]) -> None:
        self.state = state
        self.note = note
        self.failures: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Kept-alive connections of a client that went away without a word.
    timeout = 120

    def log_message(self, *arguments: Any) -> None:
        pass

    def _work(self) -> None:
        state = self.server.state
        body = self._body()
        self._allowance: dict[str, str] = {}
        target = unquote(self.path)
        with state.lock:
            user = state.users.get(self._token() or "")
            fault = state.faults.take(self.command, target)
            call = Call(state, self.command, self.path, self.headers, body, user)
            reply = self._answer(call, fault)
            reply.headers |= self._allowance
            self.server.note(
                self.command, self.path, reply.status, user.name if user else None,
                self.headers.get("Host", ""),
            )  # fmt: skip
        self._send(reply, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _work  # noqa: N815

    def _token(self) -> str | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if kind == "Bearer" else None

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, call: Call, fault: Fault | None) -> Reply:
        try:
            if fault and not fault.has_effect:
                return _failure(fault)
            if fault:
                _before(call, fault)
            if call.user is None and self._token() is not None:
                raise Refusal(401, "Invalid credentials in Authorization header")
            if call.state.quota:
                self._allowance = call.state.quota.count(
                    call.segments[0], call.user.name if call.user else ""
                )
            reply = answer(call)
        except Refusal as refusal:
            reply = refusal.reply
        except Exception:
            # A request that no client should send, or a mistake in this server: tests can look.
            self.server.failures.append(f"{call.method} {call.target}\n{traceback.format_exc()}")
            reply = Reply.json({"error": "Internal Error"}, 500)
        if fault and fault.kind in ("429", "500"):
            return _failure(fault)
        return _altered(call, reply, fault) if fault else reply

    def _send(self, reply: Reply, fault: Fault | None) -> None:
        kind = fault.kind if fault else None
        if kind == "cut" and (self.command == "HEAD" or len(reply.body) < 2):
            self._hang_up()
            return
        reason = HTTPStatus(reply.status).phrase
        lines = [f"HTTP/1.1 {reply.status} {reason}", f"Content-Length: {len(reply.body)}"]
        lines += [f"{name}: {text}" for name, text in reply.headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", errors="replace")
        body = b"" if self.command == "HEAD" else reply.body
        with contextlib.suppress(ConnectionError, TimeoutError):
            if kind == "cut":
                self.wfile.write(head + body[: len(body) // 2])
                self._hang_up()
            elif fault and kind == "slow":
                self.wfile.write(head)
                step = max(1, -(-len(body) // _PIECES))
                for start in range(0, max(1, len(body)), step):
                    _sleep(fault.seconds / _PIECES)
                    self.wfile.write(body[start : start + step])
            else:
                self.wfile.write(head + body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _failure(fault: Fault) -> Reply:
    if fault.kind == "429":
        reply = Reply.json({"error": "We had to rate limit you, you hit the quota"}, 429)
        reply.headers |= {
            "RateLimit": f'"api";r=0;t={fault.retry_after}',
            "RateLimit-Policy": '"fixed window";"api";q=500;w=300',
        }
        return reply
    if fault.kind == "500":
        return Reply.json({"error": "Internal Error - We're working hard to fix this!"}, 500)
    return Reply(500)


def _before(call: Call, fault: Fault) -> None:
    """What somebody else does just before this request is looked at."""
    stranger = User("somebody-else", "")
    if fault.kind == "stale-parent":
        repo = call.state.repos[call.segments[1].removesuffix("s"), "/".join(call.segments[2:4])]
        call.state.change(repo, fault.files, "In between", stranger.name)
    elif fault.kind == "changed-file":
        segments = [part for part in call.segments if part not in ("datasets", "spaces")]
        repo_id, path = "/".join(segments[:2]), "/".join(segments[4:])
        if segments[0] == "storage":
            repo_id = "/".join(segments[1:3])
        for repo in call.state.repos.values():
            blob = repo.find("main").files.get(path) if repo.id == repo_id else None
            if blob:
                content = blob.content[::-1] if fault.content is None else fault.content
                call.state.change(repo, {path: content}, "In between", stranger.name)


def _altered(call: Call, reply: Reply, fault: Fault) -> Reply:
    if reply.status >= 400:
        return reply
    if fault.kind == "wrong-digest" and reply.body:
        middle = len(reply.body) // 2
        flipped = bytes([reply.body[middle] ^ 0xFF])
        return replace(reply, body=reply.body[:middle] + flipped + reply.body[middle + 1 :])
    if fault.kind == "hostile-content":
        blob = Blob(fault.content or b"", lfs=False)
        hostile = serve(call, blob)
        hostile.headers |= {
            "ETag": f'"{blob.oid}"',
            "X-Repo-Commit": reply.headers.get("X-Repo-Commit", ""),
        }
        return hostile
    return reply
