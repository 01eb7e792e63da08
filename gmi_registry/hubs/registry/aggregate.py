"""The aggregated index in the registry: many specifications as a few files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gmi_registry.hubs.huggingface.change import Start
from gmi_registry.hubs.registry.dataset import Dataset
from gmi_registry.hubs.registry.shelf import Shelf
from gmi_registry.hubs.registry.submission import change_files

__all__ = ["INDEX_FOLDER", "AggregateFiles", "push_aggregate"]

INDEX_FOLDER = "index/v1"
"""Where the index lies, below the root of the dataset."""

_LARGEST = 2 * 1024**3
"""Bytes of a file whose size nothing has told yet."""


class AggregateFiles:
    """The files of the index at one commit, each fetched when it is asked for, and kept.

    ``shelf`` remembers at which commit each was fetched, so that one that stays the same is never
    asked for again.
    """

    def __init__(self, dataset: Dataset, commit: str, shelf: Shelf) -> None:
        self.name = f"{dataset.id}@{commit[:7]}"
        self._dataset = dataset
        self._commit = commit
        self._shelf = shelf
        self._known = shelf.index_commits()[1]

    def fetch(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """The file called ``name`` below :data:`INDEX_FOLDER`, of at most ``size`` bytes.

        With ``sha256`` the name stands for one content; who asks checks it. Raises
        SpecNotFoundError where the commit has no such file, and as :meth:`.Dataset.fetch`.
        """
        path = f"{INDEX_FOLDER}/{name}"
        limit = _LARGEST if size is None else size
        older = self._known.get(name) if sha256 is not None else None
        if older is not None:
            kept = self._dataset.cached(path, older)
            if kept is not None:
                return kept
        found = self._dataset.fetch(path, self._commit, limit=limit)
        self._known = self._known | ({} if sha256 is None else {name: self._commit})
        self._shelf.keep_index_commits(self._commit, self._known)
        return found

    def has(self, name: str) -> bool:
        """Whether the file is on this disk, at this commit or an older one."""
        path = f"{INDEX_FOLDER}/{name}"
        commits = {self._commit, self._known.get(name, self._commit)}
        return any(self._dataset.cached(path, commit) is not None for commit in commits)


def push_aggregate(dataset: Dataset, files: Mapping[str, Path], *, create_pr: bool = False) -> str:
    """Make the index folder of the registry hold ``files``, by name, and nothing else.

    One commit, or one pull request; returns its address, or that of the folder where all is there
    already. Only what differs is sent. Raises as :meth:`.Registry.push_spec`.
    """

    def missing(revision: str) -> dict[str, bytes | Path | None]:
        there = dataset.tree(revision, INDEX_FOLDER)
        wanted = {f"{INDEX_FOLDER}/{name}": path for name, path in files.items()}
        gone: dict[str, bytes | Path | None] = {path: None for path in there if path not in wanted}
        new = {
            path: place
            for path, place in wanted.items()
            if path not in there or not there[path].holds(place)
        }
        return gone | new

    done = change_files(
        dataset,
        missing,
        title=f"Index: {len(files)} files",
        text="The aggregated index, by which a search asks for no model one by one.",
        create_pr=create_pr,
    )
    if isinstance(done, Start):
        return f"{dataset.url}/tree/{done.parent_commit}/{INDEX_FOLDER}"
    return done
