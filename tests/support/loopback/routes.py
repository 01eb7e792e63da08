"""Which function answers which address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import account, committing, content, discussion, lfs, listing, reading, reference, xet
from .call import Call
from .reply import Refusal, Reply

__all__ = ["answer"]

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
    ("PUT", "settings"): account.settings,
    ("POST", "preupload"): committing.preupload,
    ("POST", "commit"): committing.commit,
    ("POST", "branch"): reference.create_branch,
    ("DELETE", "branch"): reference.delete_branch,
    ("POST", "tag"): reference.create_tag,
    ("DELETE", "tag"): reference.delete_tag,
    ("GET", "xet-read-token"): xet.read_token,
    ("GET", "xet-write-token"): xet.write_token,
}

# Below .../discussions/{number}.
_DISCUSSED: dict[tuple[str, str], Callable[..., Reply]] = {
    ("GET", ""): discussion.details,
    ("POST", "comment"): discussion.comment,
    ("POST", "title"): discussion.rename,
    ("POST", "status"): discussion.change_status,
    ("POST", "merge"): discussion.merge,
}

_STORED: dict[tuple[str, str], Callable[..., Reply]] = {
    ("GET", "storage"): content.storage,
    ("PUT", "upload"): lfs.put,
}


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
        return lfs.complete(call, *segments[1:])
    if segments[0] not in _TYPES:
        raise _unknown()
    repo_type = _TYPES[segments[0]]
    if len(segments) == 1 and method == "GET":
        return listing.list_repos(call, repo_type)
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
        return discussion.create(call, repo) if method == "POST" else discussion.listing(call, repo)
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
        action = {"batch": lfs.batch, "verify": lfs.verify}.get(rest[-1])
        if method != "POST" or action is None:
            raise _unknown()
        return action(call, repo)
    if method != "GET" or word not in ("resolve", "raw"):
        raise _unknown()
    repo = call.state.readable(repo_type, f"{owner}/{name}", call.user)
    return content.resolve(call, repo, *rest)


def _unknown() -> Refusal:
    return Refusal(404, "Sorry, we can't find the page you are looking for.")
