"""A pull request to the registry, read as a proposal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from gmi_registry.errors import SpecNotFoundError
from gmi_registry.hubs.huggingface.preflight import StoredFile
from gmi_registry.hubs.registry.dataset import Dataset
from gmi_registry.hubs.registry.history import author_of_pull, authors_of, beginning
from gmi_registry.hubs.registry.layout import ENTRY_FILES, entry_file
from gmi_registry.hubs.registry.proposal import Proposal
from gmi_registry.spec import MANIFEST_NAME, ModelRef

__all__ = ["read_pull"]

_FOLDERS = 24


def read_pull(dataset: Dataset, revision: str, scratch: Path) -> Proposal:
    """What a pull request (``refs/pr/3``), or a branch, changes since it left ``main``.

    Its files are kept in ``scratch``, an empty folder, and nowhere else. Costs about twenty
    requests, and one for each further page of a listing. Raises SpecNotFoundError for an unknown
    revision, or one that is not built on ``main``, and every other error of the hub.
    """
    commit = dataset.head(revision)
    start = beginning(dataset, commit)
    if start is None:
        raise SpecNotFoundError(
            f"{dataset.asked.name}: {revision} is not built on main",
            hint="propose it again: gmi-publish --to registry",
        )
    kept = dataset.in_cache(scratch)

    def unpack(entry: ModelRef) -> Path:
        limits = {entry_file(entry, name): limit for name, limit in ENTRY_FILES.items()}
        there = dataset.stored(commit, list(limits))
        places = [kept.fetch(path, commit, limit=limits[path]) for path in there]
        return places[0].parents[1] if places else scratch

    def owners(entry: ModelRef) -> frozenset[str] | None:
        # Of today's main: somebody else's may have come there since the proposal left it.
        path, head = entry_file(entry, MANIFEST_NAME), dataset.head()
        return authors_of(dataset, path, head) if dataset.stored(head, [path]) else None

    return Proposal(
        changed=_changes(dataset, start, commit),
        author=author_of_pull(dataset, revision),
        commit=commit,
        owners=owners,
        unpack=unpack,
        linked=True,
    )


def _changes(dataset: Dataset, start: str, commit: str) -> dict[str, int | None]:
    """Paths that differ: the bytes that they have at ``commit``, None for those that are gone."""
    try:
        return dict(_differing(dataset, start, commit, None, [0]))
    except _TooManyError:
        before, after = dataset.tree(start), dataset.tree(commit)
        return dict(_compared(before, after))


def _differing(
    dataset: Dataset, start: str, commit: str, folder: str | None, looked: list[int]
) -> Iterator[tuple[str, int | None]]:
    """Only folders that differ are looked into, which of a large registry are few."""
    looked[0] += 1
    if looked[0] > _FOLDERS:
        raise _TooManyError
    before, after = dataset.level(start, folder), dataset.level(commit, folder)
    files = [
        {path: item for path, item in side.items() if not isinstance(item, str)}
        for side in (before, after)
    ]
    yield from _compared(*files)
    for path in sorted(before.keys() | after.keys()):
        sides = before.get(path), after.get(path)
        if sides[0] != sides[1] and any(isinstance(side, str) for side in sides):
            yield from _differing(dataset, start, commit, path, looked)


def _compared(
    before: Mapping[str, StoredFile], after: Mapping[str, StoredFile]
) -> Iterator[tuple[str, int | None]]:
    for path, stored in after.items():
        if before.get(path) != stored:
            yield path, stored.size
    for path in before:
        if path not in after:
            yield path, None


class _TooManyError(Exception):
    """So many folders differ that it is cheaper to list everything."""
