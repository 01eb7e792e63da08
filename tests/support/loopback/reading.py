"""What is read: files, commits, trees, and listings of repositories."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, quote

from .call import Call, page
from .records import Blob, Refusal, Reply
from .repo import Commit, Repo, describe, file_info, tags_of, timestamp

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(call: Call, repo: Repo, revision: str, *parts: str) -> Reply:
    """A small file itself; for a large one the way to the storage, which is another host."""
    call.state.open_gate(repo, call.user)
    commit = repo.find(revision)
    path = "/".join(parts)
    blob = commit.files.get(path)
    if blob is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
    reply = serve(call, blob) if not blob.lfs else Reply(302)
    reply.headers |= {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"'}
    if not blob.lfs:
        name = path.rpartition("/")[2]
        reply.headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(name)};"
        return reply
    state = call.state
    reply.headers |= {
        "X-Linked-Etag": f'"{blob.sha256}"',
        "X-Linked-Size": str(blob.size),
        "Location": f"{state.storage}/storage/{repo.id}/{blob.sha256}/{quote(path)}",
    }
    if blob.xet_hash:
        prefix = f"{state.endpoint}/api/{repo.type}s/{repo.id}"
        reply.headers |= {
            "X-Xet-Hash": blob.xet_hash,
            "Link": f'<{prefix}/xet-read-token/{commit.oid}>; rel="xet-auth"',
        }
    return reply


def storage(call: Call, owner: str, name: str, sha256: str, *path: str) -> Reply:
    """A large file by its digest. The address is its own permission, as a signed one is."""
    repos = (repo for repo in call.state.repos.values() if repo.id == f"{owner}/{name}")
    blob = next((repo.objects[sha256] for repo in repos if sha256 in repo.objects), None)
    if blob is None:
        raise Refusal(404, "Not found")
    reply = serve(call, blob)
    reply.headers["ETag"] = f'"{sha256}"'
    return reply


def serve(call: Call, blob: Blob) -> Reply:
    """The content, or the part of it that a Range header asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
    wanted = _RANGE.fullmatch(call.headers.get("Range", ""))
    if not wanted or not any(wanted.groups()):
        return Reply(200, blob.content, headers)
    first, last = wanted.groups()
    start = int(first) if first else max(0, blob.size - int(last))
    stop = min(blob.size, int(last) + 1) if first and last else blob.size
    if start >= stop:
        raise Refusal(416, "Range Not Satisfiable", Content_Range=f"bytes */{blob.size}")
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{blob.size}"
    return Reply(206, blob.content[start:stop], headers)


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


def list_repos(call: Call, repo_type: str) -> Reply:
    """Repositories that match every filter; by id among equals, so that pages are stable."""
    found = [
        (repo, repo.find("main"))
        for (kind, _), repo in sorted(call.state.repos.items())
        if kind == repo_type and "refs/heads/main" in repo.refs and _may_see(call, repo)
    ]
    found = [pair for pair in found if _matches(call, pair[1])]
    found.sort(key=lambda pair: pair[0].likes, reverse=True)
    expand = call.many("expand")
    detail = "full" if call.flag("full") else "listed"
    return page(call, found, lambda pair: describe(*pair, expand=expand, detail=detail))


def _may_see(call: Call, repo: Repo) -> bool:
    return not repo.private or bool(call.user and call.user.owns(repo.namespace))


def _matches(call: Call, commit: Commit) -> bool:
    wanted = [part for text in call.many("filter") for part in text.split(",") if part]
    return not wanted or set(wanted) <= set(tags_of(commit))
