"""The hub as tests hold it: start, fill, look, break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.loopback_server import LoopbackServer

from .call import State
from .records import Fault, Quota, User
from .repo import Commit, Repo
from .server import HubServer

__all__ = ["LoopbackHub", "Request"]


@dataclass(frozen=True)
class Request:
    """One request. ``path`` has its query; ``token_user`` is None without a (known) token.

    ``host`` tells the Hub (127.0.0.1) from its storage of large files (localhost).
    """

    method: str
    path: str
    status: int
    token_user: str | None
    host: str = ""


class LoopbackHub(LoopbackServer):
    """A Hub on 127.0.0.1, from ``with`` to the end of its block.

    ``page_size`` is the most that one page of a listing holds. Uploads over ``multipart_chunk``
    bytes are asked for in parts. ``xet_dir``, an empty folder, turns Xet storage on. ``quota``
    limits the requests, and says so in the RateLimit headers of every answer.
    """

    def __init__(
        self,
        *,
        page_size: int = 1000,
        multipart_chunk: int | None = None,
        xet_dir: Path | None = None,
        quota: Quota | None = None,
    ) -> None:
        super().__init__(State(page_size, multipart_chunk))
        self.state.xet_dir = xet_dir
        self.state.quota = quota
        self.requests: list[Request] = []

    def make_server(self) -> HubServer:
        return HubServer(self.state, self._note)

    def add_user(self, user: User) -> User:
        with self.state.lock:
            self.state.users[user.token] = user
        return user

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes] | None = None,
        *,
        repo_type: str = "model",
        private: bool = False,
        gated: Any = False,
        downloads: int = 0,
        likes: int = 0,
    ) -> str:
        """A repository with these files, and no others, in its first commit; its SHA.

        Tags come from the front matter of README.md. ``gated`` is ``"auto"``, ``"manual"`` or a
        truth value (True is ``"auto"``).
        """
        gate = "auto" if gated is True else gated
        with self.state.lock:
            repo = self.state.create(
                repo_type, repo_id, private=private, gated=gate, downloads=downloads, likes=likes
            )
            owner = repo.namespace
            return self.state.change(repo, files or {}, "initial commit", owner).oid

    def rename(self, old: str, new: str, *, repo_type: str = "model", status: int = 307) -> None:
        """Rename or transfer a repository: all its former names are redirected to ``new``."""
        with self.state.lock:
            self.state.rename(repo_type, old, new, status)

    def redirect(
        self, old: str, target: str, *, repo_type: str = "model", status: int = 307
    ) -> None:
        """Send requests for ``old`` on to ``target``, a name or one behind a host,
        ``http://127.0.0.1:1/owner/name``, whatever is there."""
        with self.state.lock:
            self.state.moves[repo_type, old.casefold()] = status, target

    def grant(self, repo_id: str, user_name: str, *, repo_type: str = "model") -> None:
        """Let somebody read the files of a gated repository."""
        with self.state.lock:
            self.repo(repo_id, repo_type).granted.add(user_name)

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | None],
        message: str = "A change",
        *,
        repo_type: str = "model",
        author: str = "somebody-else",
        ref: str = "refs/heads/main",
    ) -> str:
        """A commit by somebody else, made on the server; None removes a file. Its SHA."""
        with self.state.lock:
            repo = self.repo(repo_id, repo_type)
            return self.state.change(repo, files, message, author, ref).oid

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        return self.state.repos[repo_type, repo_id]

    def files(
        self, repo_id: str, revision: str = "main", *, repo_type: str = "model"
    ) -> dict[str, bytes]:
        """Every file's content at a revision."""
        with self.state.lock:
            found = self.repo(repo_id, repo_type).find(revision).files
            return {path: blob.content for path, blob in sorted(found.items())}

    def history(
        self, repo_id: str, revision: str = "main", *, repo_type: str = "model"
    ) -> list[Commit]:
        """Commits, newest first."""
        with self.state.lock:
            repo = self.repo(repo_id, repo_type)
            return repo.history(repo.find(revision))

    def clear(self) -> None:
        """As it was when it was started, but for its accounts and settings."""
        with self.state.lock:
            self.state.clear()
            self.requests.clear()

    def clear_requests(self) -> None:
        with self.state.lock:
            self.requests.clear()

    def inject(self, fault: Fault) -> Fault:
        """Let the next requests that match meet ``fault``; those injected first come first."""
        with self.state.lock:
            self.state.faults.add(fault)
        return fault

    def clear_faults(self) -> None:
        with self.state.lock:
            self.state.faults.clear()

    def _note(self, *fields: Any) -> None:
        self.requests.append(Request(*fields))
