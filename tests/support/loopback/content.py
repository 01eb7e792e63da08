"""The bytes of files: GET and HEAD of /{id}/resolve, and of the storage behind it."""

from __future__ import annotations

import re
from urllib.parse import quote

from .blob import Blob
from .call import Call
from .reply import Refusal, Reply
from .repo import Repo

__all__ = ["resolve", "storage"]

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
