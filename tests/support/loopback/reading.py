"""What is in a repository, without the bytes of its files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs

from .call import Call
from .description import describe, file_info
from .paging import page
from .reply import Refusal, Reply
from .repo import Commit, Repo, timestamp

__all__ = ["commits", "info", "paths_info", "refs", "tree"]


def info(call: Call, repo: Repo, revision: str = "main") -> Reply:
    return Reply.json(
        describe(repo, repo.find(revision), expand=call.many("expand"), blobs=call.flag("blobs"))
    )


def tree(call: Call, repo: Repo, revision: str = "main", *folder: str) -> Reply:
    commit = repo.find(revision)
    where = "/".join(folder).strip("/")
    entries = list(_entries(commit, where, call.flag("recursive")))
    if where and not entries:
        raise _no_entry(where)
    last = _last_commits(repo, commit) if call.flag("expand") else {}
    return page(call, entries, lambda entry: _expanded(entry, last, commit))


def paths_info(call: Call, repo: Repo, revision: str = "main") -> Reply:
    """Of those paths that exist; the rest are left out, as at the Hub."""
    commit = repo.find(revision)
    if "json" in call.headers.get("Content-Type", ""):
        form = call.json()
    else:
        form = parse_qs(call.body.decode())
        form["expand"] = form.get("expand", ["false"])[0]
    paths = form.get("paths", [])
    if len(paths) > 1000:
        raise Refusal(413, "too many parameters")
    known = {entry["path"]: entry for entry in _entries(commit, "", recursive=True)}
    found = [known[path.strip("/")] for path in paths if path.strip("/") in known]
    expand = str(form.get("expand", "")).lower() in ("1", "true")
    last = _last_commits(repo, commit) if expand else {}
    return Reply.json([_expanded(entry, last, commit) for entry in found])


def commits(call: Call, repo: Repo, revision: str = "main") -> Reply:
    def show(commit: Commit) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": commit.author}],
            "date": timestamp(commit.date),
        }
        if "formatted" in call.many("expand"):
            shown["formatted"] = {"title": commit.title, "message": commit.message}
        return shown

    return page(call, repo.history(repo.find(revision)), show)


def refs(call: Call, repo: Repo) -> Reply:
    def under(prefix: str) -> list[dict[str, str]]:
        return [
            {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": oid}
            for ref, oid in sorted(repo.refs.items())
            if ref.startswith(prefix)
        ]

    found = {"branches": under("refs/heads/"), "converts": [], "tags": under("refs/tags/")}
    if call.flag("include_prs"):
        found["pullRequests"] = under("refs/pr/")
    return Reply.json(found)


def _entries(commit: Commit, where: str, recursive: bool) -> Iterator[dict[str, Any]]:
    folders: set[str] = set()
    prefix = f"{where}/" if where else ""
    for path, blob in sorted(commit.files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            if name not in folders:
                folders.add(name)
                yield {"type": "directory", "oid": commit.folders[name], "size": 0, "path": name}
        if recursive or len(parts) == 1:
            yield file_info(path, blob)


def _last_commits(repo: Repo, commit: Commit) -> dict[str, Commit]:
    """For each file, the commit that gave it its present content."""
    found = dict.fromkeys(commit.files, commit)
    for older in repo.history(commit):
        for path, last in found.items():
            same = older.files.get(path)
            if (
                same
                and same.oid == commit.files[path].oid
                and (last is older or last.parents[:1] == (older.oid,))
            ):
                found[path] = older
    return found


def _expanded(entry: dict[str, Any], last: dict[str, Commit], head: Commit) -> dict[str, Any]:
    if not last:
        return entry
    commit = last.get(entry["path"], head)
    shown = {"id": commit.oid, "title": commit.title, "date": timestamp(commit.date)}
    return json.loads(json.dumps(entry)) | {"lastCommit": shown}


def _no_entry(path: str) -> Refusal:
    return Refusal(404, f"{path} does not exist", "EntryNotFound")
