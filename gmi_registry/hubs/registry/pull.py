"""A pull request to the registry, read as a proposal."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import SpecNotFoundError
from gmi_registry.hubs.huggingface.preflight import StoredFile
from gmi_registry.hubs.registry.dataset import Dataset
from gmi_registry.hubs.registry.history import author_of_pull, authors_of, beginning
from gmi_registry.hubs.registry.layout import ENTRY_FILES, entry_file
from gmi_registry.hubs.registry.proposal import Proposal
from gmi_registry.spec import MANIFEST_NAME, ModelRef

__all__ = ["read_pull"]


def read_pull(dataset: Dataset, revision: str, scratch: Path) -> Proposal:
    """What a pull request (``refs/pr/3``), or a branch, changes since it left ``main``.

    Its files are kept in ``scratch``, an empty folder, and nowhere else. A handful of requests, and
    one for each page of the two listings that are compared. Raises SpecNotFoundError for an unknown
    revision, or one that is not built on ``main``, and every other error of the hub.
    """
    commit = dataset.head(revision)
    start = beginning(dataset, commit)
    if start is None:
        raise SpecNotFoundError(
            f"{dataset.asked.name}: {revision} is not built on main",
            hint="propose it again: gmi-publish --to registry",
        )
    before, after = dataset.tree(start), dataset.tree(commit)
    kept = dataset.in_cache(scratch)

    def unpack(entry: ModelRef) -> Path:
        places = [
            kept.fetch(path, commit, limit=limit)
            for name, limit in ENTRY_FILES.items()
            if (path := entry_file(entry, name)) in after
        ]
        return places[0].parents[1] if places else scratch

    def owners(entry: ModelRef) -> frozenset[str] | None:
        # Of today's main: somebody else's may have come there since the proposal left it.
        path, head = entry_file(entry, MANIFEST_NAME), dataset.head()
        return authors_of(dataset, path, head) if dataset.stored(head, [path]) else None

    return Proposal(
        changed=_changes(before, after),
        author=author_of_pull(dataset, revision),
        commit=commit,
        owners=owners,
        unpack=unpack,
        linked=True,
    )


def _changes(before: dict[str, StoredFile], after: dict[str, StoredFile]) -> dict[str, int | None]:
    changed: dict[str, int | None] = {
        path: stored.size for path, stored in after.items() if before.get(path) != stored
    }
    return changed | {path: None for path in before if path not in after}
