"""Branches and tags."""

from __future__ import annotations

from .call import Call
from .reply import Refusal, Reply
from .repo import Repo

__all__ = ["create_branch", "create_tag", "delete_branch", "delete_tag"]


def create_branch(call: Call, repo: Repo, *parts: str) -> Reply:
    call.state.may_write(repo, call.user)
    start = repo.find(call.json().get("startingPoint") or "main")
    return _add(repo, f"refs/heads/{'/'.join(parts)}", start.oid)


def delete_branch(call: Call, repo: Repo, *parts: str) -> Reply:
    call.state.may_write(repo, call.user)
    name = "/".join(parts)
    if name == "main":
        raise Refusal(403, "Cannot delete the main branch")
    return _remove(repo, f"refs/heads/{name}", name)


def create_tag(call: Call, repo: Repo, revision: str) -> Reply:
    """The address names what is tagged, the body the tag."""
    call.state.may_write(repo, call.user)
    return _add(repo, f"refs/tags/{call.json()['tag']}", repo.find(revision).oid)


def delete_tag(call: Call, repo: Repo, name: str) -> Reply:
    call.state.may_write(repo, call.user)
    return _remove(repo, f"refs/tags/{name}", name)


def _add(repo: Repo, ref: str, oid: str) -> Reply:
    if ref in repo.refs:
        raise Refusal(409, "Reference already exists")
    repo.refs[ref] = oid
    return Reply.json({})


def _remove(repo: Repo, ref: str, name: str) -> Reply:
    if repo.refs.pop(ref, None) is None:
        raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return Reply.json({})
