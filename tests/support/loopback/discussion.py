"""Discussions and pull requests."""

from __future__ import annotations

from typing import Any

from .call import Call, State
from .records import Refusal, Reply
from .repo import Commit, Discussion, Repo, timestamp

__all__ = [
    "details", "listing", "merge", "open_pull_request", "record_commit",
]  # fmt: skip


def open_pull_request(
    state: State,
    repo: Repo,
    base: Commit,
    author: str,
    title: str,
    text: str,
) -> Discussion:
    number = len(repo.discussions) + 1
    made = Discussion(number, title, author, state.now(), "open", base=base.oid)
    repo.discussions[number] = made
    latest = {"raw": text, "html": text, "updatedAt": timestamp(state.now())}
    data = {"edited": False, "hidden": False, "latest": latest | {"author": {"name": author}}}
    _event(state, made, "comment", author, data | {"history": []})
    repo.refs[made.ref] = base.oid
    return made


def record_commit(state: State, pull: Discussion, commit: Commit) -> None:
    data = {"subject": commit.title, "oid": commit.oid}
    _event(state, pull, "commit", commit.author, data)


def listing(call: Call, repo: Repo) -> Reply:
    """One page: ``p`` counts from 0. Newest first."""
    found = sorted(repo.discussions.values(), key=lambda item: -item.num)
    kind, status, author = call.one("type"), call.one("status"), call.one("author")
    if kind in ("pull_request", "discussion"):
        found = [item for item in found if (item.base is not None) == (kind == "pull_request")]
    if status in ("open", "closed"):
        found = [item for item in found if (item.status == "open") == (status == "open")]
    if author:
        found = [item for item in found if item.author == author]
    size = min(50, call.state.page_size)
    start = call.count("p", 0) * size
    return Reply.json(
        {
            "count": len(found),
            "start": start,
            "discussions": [_shown(repo, item) for item in found[start : start + size]],
        }
    )


def details(call: Call, repo: Repo, number: str) -> Reply:
    item = _found(repo, number)
    shown = _shown(repo, item) | {"events": item.events}
    if item.base is not None:
        changes: dict[str, Any] = {"base": "refs/heads/main"}
        if item.merge_commit:
            changes["mergeCommitId"] = item.merge_commit
        shown["changes"] = changes
        shown["filesWithConflicts"] = _conflicts(repo, item)
        shown["diff"] = _diff(repo, item)
    return Reply.json(shown)


def merge(call: Call, repo: Repo, number: str) -> Reply:
    """A commit on main with both parents: main's files, and what the pull request changed."""
    item = _found(repo, number)
    writer = call.state.may_write(repo, call.user)
    if item.base is None or item.status != "open":
        raise Refusal(400, f"Pull request is {item.status}, so it cannot be merged")
    if _conflicts(repo, item):
        raise Refusal(409, "The pull request has conflicts")
    base, head, main = repo.find(item.base), repo.find(item.ref), repo.find("main")
    tree = dict(main.files)
    for path in _changed(base, head):
        tree.pop(path, None)
        if path in head.files:
            tree[path] = head.files[path]
    title = f"{item.title} (#{item.num})"
    made = Commit((main.oid, head.oid), title, "", writer.name, call.state.now(), tree)
    repo.add("refs/heads/main", made)
    item.status, item.merge_commit = "merged", made.oid
    _event(call.state, item, "status-change", writer.name, {"status": "merged"})
    return Reply.json({"mergeCommitId": made.oid})


def _found(repo: Repo, number: str) -> Discussion:
    item = repo.discussions.get(int(number)) if number.isdigit() else None
    if item is None:
        raise Refusal(404, "Discussion not found")
    return item


def _event(
    state: State, item: Discussion, kind: str, author: str, data: dict[str, Any]
) -> dict[str, Any]:
    made = {
        "id": f"{item.num:016x}{len(item.events):08x}",
        "type": kind,
        "createdAt": timestamp(state.now()),
        "author": {"name": author},
        "data": data,
    }
    item.events.append(made)
    return made


def _shown(repo: Repo, item: Discussion) -> dict[str, Any]:
    return {
        "num": item.num,
        "title": item.title,
        "author": {"name": item.author},
        "createdAt": timestamp(item.created),
        "status": item.status,
        "repo": {"name": repo.id, "type": repo.type},
        "isPullRequest": item.base is not None,
    }


def _changed(base: Commit, head: Commit) -> set[str]:
    paths = base.files.keys() | head.files.keys()
    return {path for path in paths if _oid(base, path) != _oid(head, path)}


def _oid(commit: Commit, path: str) -> str | None:
    blob = commit.files.get(path)
    return blob.oid if blob else None


def _conflicts(repo: Repo, item: Discussion) -> list[str]:
    """Files that both sides changed, to something else each."""
    if item.base is None or item.status == "merged":
        return []
    base, head, main = repo.find(item.base), repo.find(item.ref), repo.find("main")
    both = _changed(base, head) & _changed(base, main)
    return sorted(path for path in both if _oid(head, path) != _oid(main, path))


def _diff(repo: Repo, item: Discussion) -> str:
    base, head = repo.find(item.base or ""), repo.find(item.ref)
    return "".join(f"diff --git a/{path} b/{path}\n" for path in sorted(_changed(base, head)))
