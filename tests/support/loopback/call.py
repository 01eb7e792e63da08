"""One request, the state of the hub that it is for, and a page of an answer."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from .records import DEFAULT_ATTRIBUTES, Faults, Quota, Refusal, Reply, User
from .repo import Commit, Repo

_START = datetime(2025, 1, 1, tzinfo=UTC)

Item = TypeVar("Item")


class State:
    """Accounts, repositories, webhooks. ``lock`` is held while a request is worked on.

    The clock starts at a fixed moment and steps one second a commit, so that equal calls make
    equal commits.
    """

    def __init__(self, page_size: int, multipart_chunk: int | None) -> None:
        self.endpoint = ""
        self.storage = ""
        self.page_size = page_size
        self.multipart_chunk = multipart_chunk
        self.xet_dir: Path | None = None
        self.quota: Quota | None = None
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        # Type and former name, in lower case, to status and present name (with a host, perhaps).
        self.moves: dict[tuple[str, str], tuple[int, str]] = {}
        self.webhooks: list[dict[str, Any]] = []
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults = Faults()
        self._now = _START

    def clear(self) -> None:
        """Begin again without repositories, webhooks and faults; accounts and settings stay."""
        self.repos.clear()
        self.moves.clear()
        self.webhooks.clear()
        self.parts.clear()
        self.faults.clear()
        self._now = _START

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def create(self, repo_type: str, repo_id: str, **fields: Any) -> Repo:
        """A repository without commits."""
        repo = Repo(repo_id, repo_type, self.now(), **fields)
        self.repos[repo_type, repo_id] = repo
        # Whoever takes a name that was given up ends the redirect.
        self.moves.pop((repo_type, repo_id.casefold()), None)
        return repo

    def rename(self, repo_type: str, old: str, new: str, status: int = 307) -> None:
        """Give a repository another name, to which all its former ones lead from now on."""
        repo = self.repos.pop((repo_type, old))
        repo.id = new
        self.repos[repo_type, new] = repo
        for former, (kind, name) in list(self.moves.items()):
            if former[0] == repo_type and name == old:
                self.moves[former] = kind, new
        self.moves.pop((repo_type, new.casefold()), None)
        self.moves[repo_type, old.casefold()] = status, new

    def moved(self, repo_type: str, repo_id: str, user: User | None) -> tuple[int, str] | None:
        """Status and name of the repository that is meant by a former name, or by another case.

        None for one that has this very name, and for what this account may not know of.
        """
        if (repo_type, repo_id) in self.repos:
            return None
        found = self.moves.get((repo_type, repo_id.casefold()))
        if found is None:
            found = next(
                (
                    (307, name)
                    for kind, name in self.repos
                    if kind == repo_type and name.casefold() == repo_id.casefold()
                ),
                None,
            )
        repo = None if found is None else self.repos.get((repo_type, found[1]))
        hidden = repo is not None and repo.private and not (user and user.owns(repo.namespace))
        return None if hidden else found

    def start(self, repo: Repo, author: str) -> Commit:
        """The first commit, as a repository made through the API has."""
        blob = repo.blob(".gitattributes", DEFAULT_ATTRIBUTES, None)
        commit = Commit((), "initial commit", "", author, self.now(), {".gitattributes": blob})
        return repo.add("refs/heads/main", commit)

    def change(
        self,
        repo: Repo,
        files: Mapping[str, bytes | None],
        title: str,
        author: str,
        ref: str = "refs/heads/main",
    ) -> Commit:
        """A commit on top of ``ref``; None removes a file."""
        head = repo.commits.get(repo.refs.get(ref, ""))
        tree = dict(head.files) if head else {}
        attributes = files.get(".gitattributes") or (head.attributes if head else None)
        for path, content in files.items():
            if content is None:
                tree.pop(path, None)
            else:
                tree[path] = repo.blob(path, content, attributes)
        parents = (head.oid,) if head else ()
        return repo.add(ref, Commit(parents, title, "", author, self.now(), tree))

    def readable(self, repo_type: str, repo_id: str, user: User | None) -> Repo:
        """The repository, if it is there and this account may know of it. Raises Refusal.

        As at the Hub, what is private is told from what is not there by nobody: 401 to those
        without a token, 404 to the rest.
        """
        repo = self.repos.get((repo_type, repo_id))
        if repo and (not repo.private or (user and user.owns(repo.namespace))):
            return repo
        if user is None:
            raise Refusal(401, "Invalid username or password.", "RepoNotFound")
        raise Refusal(404, "Repository not found", "RepoNotFound")

    def open_gate(self, repo: Repo, user: User | None) -> None:
        """Raise Refusal unless this account may read the files of a gated repository.

        Names, sizes and digests of the files stay visible to all; no file's bytes do.
        """
        if not repo.gated or (user and (user.owns(repo.namespace) or user.name in repo.granted)):
            return
        where = f"Access to {repo.type} {repo.id} is restricted"
        if user is None:
            raise Refusal(
                401, f"{where}. You must have access to it and be authenticated.", "GatedRepo"
            )
        raise Refusal(403, f"{where} and you are not in the authorized list.", "GatedRepo")

    def writer(self, user: User | None) -> User:
        """Somebody whose token may change things. Raises Refusal."""
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user.role != "write":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        return user

    def may_write(self, repo: Repo, user: User | None, ref: str = "refs/heads/main") -> User:
        """Somebody who may move ``ref``: a pull request's author may push to it. Raises Refusal."""
        writer = self.writer(user)
        number = ref.removeprefix("refs/pr/")
        pull = repo.discussions.get(int(number)) if ref != number and number.isdigit() else None
        if writer.owns(repo.namespace) or (pull and pull.author == writer.name):
            return writer
        raise Refusal(
            403,
            "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request",
        )


@dataclass
class Call:
    """``target`` is the path with its query, as it came; ``user`` is None without a token."""

    state: State
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    user: User | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.target)
        # Split before unquoting: a revision may hold slashes, which come quoted.
        self.segments = [unquote(part) for part in parts.path.strip("/").split("/")]
        self.query = parse_qs(parts.query, keep_blank_values=True)

    def many(self, name: str) -> list[str]:
        return self.query.get(name, []) + self.query.get(f"{name}[]", [])

    def one(self, name: str) -> str | None:
        return next(iter(self.many(name)), None)

    def flag(self, name: str) -> bool:
        return (self.one(name) or "").lower() in ("1", "true")

    def count(self, name: str, default: int) -> int:
        text = self.one(name)
        if text is None:
            return default
        if not text.isdigit():
            raise Refusal(400, f'"{name}" must be a number')
        return int(text)

    def json(self) -> Any:
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise Refusal(400, "Invalid JSON body") from None


def page(call: Call, items: Sequence[Item], show: Callable[[Item], Any]) -> Reply:
    """At most ``limit`` of ``items`` from the query's cursor on; only they are shown."""
    start = _offset(call.one("cursor"))
    stop = start + max(1, min(call.count("limit", call.state.page_size), call.state.page_size))
    reply = Reply.json([show(item) for item in items[start:stop]])
    if stop < len(items):
        query = {name: values for name, values in call.query.items() if name != "cursor"}
        query["cursor"] = [base64.urlsafe_b64encode(str(stop).encode()).decode()]
        address = f"{call.state.endpoint}{urlsplit(call.target).path}?{urlencode(query, True)}"
        reply.headers["Link"] = f'<{address}>; rel="next"'
    return reply


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(cursor))
    except (binascii.Error, ValueError):
        raise Refusal(400, "Invalid cursor") from None
