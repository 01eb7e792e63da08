"""Uploads and commits."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from .blob import Blob, goes_to_lfs
from .call import Call
from .discussion import open_pull_request, record_commit
from .reply import Refusal, Reply
from .repo import Commit, Repo
from .shards import find_stored

__all__ = ["commit", "preupload"]


def preupload(call: Call, repo: Repo, revision: str = "main") -> Reply:
    """Which files go to the large file storage, and what is there under their names."""
    if call.flag("create_pr"):
        call.state.writer(call.user)
    else:
        call.state.may_write(repo, call.user, repo.ref_of(revision) or "")
    head = repo.find(revision)
    answers = []
    for item in call.json()["files"]:
        sample = base64.b64decode(item["sample"])
        lfs = goes_to_lfs(item["path"], item["size"], sample, head.attributes)
        answer: dict[str, Any] = {
            "path": item["path"],
            "uploadMode": "lfs" if lfs else "regular",
            "shouldIgnore": False,
        }
        present = head.files.get(item["path"])
        if present:
            answer["oid"] = present.etag
        answers.append(answer)
    return Reply.json({"files": answers, "commitOid": head.oid})


def commit(call: Call, repo: Repo, revision: str = "main") -> Reply:
    """All of it or nothing. A parent that is no longer the head is refused with 412.

    A pull request starts from the parent that is named, stale or not.
    """
    state = call.state
    lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if header is None or not header.get("summary"):
        raise Refusal(400, "A commit needs a header with a summary")
    parent = header.get("parentCommit")
    title, message = header["summary"], header.get("description", "")
    if call.flag("create_pr"):
        author = state.writer(call.user)
        if repo.discussions_disabled:
            raise Refusal(403, "Discussions are disabled for this repo")
        base = repo.find(parent or revision)
        made = _built(call, repo, base, lines, author.name, title, message)
        pull = open_pull_request(state, repo, base, author.name, title, message)
        repo.add(pull.ref, made)
        record_commit(state, pull, made)
        return _committed(call, repo, made, pull.num)
    ref = repo.ref_of(revision)
    if ref is None or ref.startswith("refs/tags/"):
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    author = state.may_write(repo, call.user, ref)
    base = repo.find(ref)
    if parent and not base.oid.startswith(parent.lower()):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    made = repo.add(ref, _built(call, repo, base, lines, author.name, title, message))
    number = ref.removeprefix("refs/pr/")
    if number != ref:
        record_commit(state, repo.discussions[int(number)], made)
    return _committed(call, repo, made, None)


def _built(
    call: Call, repo: Repo, base: Commit, lines: list[Any], author: str, title: str, message: str
) -> Commit:
    tree = dict(base.files)
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            tree[_checked(value["path"])] = Blob(_decoded(value), lfs=False)
        elif line["key"] == "lfsFile":
            tree[_checked(value["path"])] = _large(call, repo, value)
        elif line["key"] == "deletedFile":
            if tree.pop(value["path"], None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif line["key"] == "deletedFolder":
            prefix = value["path"].rstrip("/") + "/"
            gone = [path for path in tree if path.startswith(prefix)]
            if not gone:
                raise Refusal(404, "A folder with this name doesn't exist", "EntryNotFound")
            for path in gone:
                del tree[path]
        elif line["key"] != "header":
            raise Refusal(400, f"Unknown operation {line['key']}")
    return Commit((base.oid,), title, message, author, call.state.now(), tree)


def _checked(path: str) -> str:
    parts = path.split("/")
    if not path or any(part in ("", ".", "..", ".git") for part in parts):
        raise Refusal(400, f"Invalid path: {path}")
    return path


def _decoded(value: dict[str, str]) -> bytes:
    if value.get("encoding") != "base64":
        return value["content"].encode()
    try:
        return base64.b64decode(value["content"], validate=True)
    except binascii.Error:
        raise Refusal(400, f"{value['path']} is not base64") from None


def _large(call: Call, repo: Repo, value: dict[str, Any]) -> Blob:
    blob = repo.objects.get(value["oid"])
    if blob is None and call.state.xet_dir is not None:
        blob = find_stored(call.state.xet_dir, value["oid"])
    if blob is None:
        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
    repo.objects[value["oid"]] = blob
    if value.get("size") not in (None, blob.size):
        raise Refusal(400, f"{value['path']} has {blob.size} bytes, not {value['size']}")
    return blob


def _committed(call: Call, repo: Repo, made: Commit, pull: int | None) -> Reply:
    prefix = "" if repo.type == "model" else f"{repo.type}s/"
    address = f"{call.state.endpoint}/{prefix}{repo.id}"
    answer: dict[str, Any] = {
        "success": True,
        "commitOid": made.oid,
        "commitUrl": f"{address}/commit/{made.oid}",
        "hookOutput": "",
    }
    if pull is not None:
        answer["pullRequestUrl"] = f"{address}/discussions/{pull}"
    return Reply.json(answer)
