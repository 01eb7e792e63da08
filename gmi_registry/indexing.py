"""From what hubs hold to one index: :func:`index_hubs` reads what is new, and lets go what went."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gmi_registry.errors import GmiError, InputError, RateLimitError
from gmi_registry.hubs.protocol import Hub, Listing, ListingFilter
from gmi_registry.index import IndexEntry, SkippedSpec, Standing
from gmi_registry.index.crew import in_order
from gmi_registry.index.stored import (
    DOCUMENT_NAME,
    FolderFiles,
    IndexChange,
    Row,
    StoredIndex,
    update_index,
)
from gmi_registry.place import read_from
from gmi_registry.spec import ModelRef

__all__ = ["Indexing", "Progress", "index_hubs"]

Progress = Callable[[int, int], None]
"""Told (done, all) specifications that had to be read."""


@dataclass(frozen=True)
class Indexing:
    """What indexing did. ``listed`` models have a specification, of which ``read`` were read and
    the rest were in the index as they are. ``skipped`` could not be used, with the reason; a model
    that was in the index before stays in it as it was."""

    change: IndexChange
    listed: int
    read: int
    skipped: tuple[SkippedSpec, ...]


def index_hubs(
    folder: Path,
    hubs: Sequence[Hub],
    *,
    cache_dir: Path,
    wanted: ListingFilter | None = None,
    workers: int = 8,
    progress: Progress = lambda done, total: None,
) -> Indexing:
    """Bring the index in ``folder`` to what ``hubs`` hold, as far as it passes ``wanted``.

    Read are specifications that the index does not have, as far as hubs can tell without a
    download, ``workers`` at a time. Models of these hubs that no listing names any more leave the
    index; those of other hubs stay. ``cache_dir`` is where the index keeps what opening it takes.

    Raises InputError for no hubs, two of a kind, or a folder that cannot be written; what a hub
    raises for its listing; RateLimitError where a hub refuses to go on, after what was read until
    then has been taken in; and what opening the index raises.
    """
    names = [hub.name for hub in hubs]
    if not names or len(set(names)) < len(names):
        raise InputError(
            "an index is made of one hub of each kind",
            hint="name each once: --hub hf --hub civitai",
        )
    wanted = wanted or ListingFilter(nsfw=True)
    listings = [(hub, listing) for hub in hubs for listing in hub.list_specs(wanted)]
    known = _known(folder, cache_dir)
    fresh = [it for it in listings if not _is_so(it[1], known.get(it[1].ref.identity))]
    present = {listing.ref.identity for _, listing in listings}
    gone = [ref for ref in known if ref.hub in names and ref not in present]
    reading = _Reading(workers, progress)
    change = update_index(folder, reading.rows(fresh), gone)
    if reading.refusal is not None:
        raise reading.refusal
    return Indexing(change, len(listings), len(fresh), (*reading.skipped, *change.refused))


def _known(folder: Path, cache_dir: Path) -> dict[ModelRef, tuple[IndexEntry, Standing]]:
    if not (folder / DOCUMENT_NAME).exists():
        return {}
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache_dir) as index:
        return {
            entry.model.identity: (entry, group.standing(row))
            for group in index.groups
            for row, entry in enumerate(group.entries)
        }


def _is_so(listing: Listing, known: tuple[IndexEntry, Standing] | None) -> bool:
    """Whether the index has what a hub lists, told without reading it."""
    if known is None:
        return False
    entry, standing = known
    if listing.trust != standing.trust:
        return False
    if listing.spec_digest is not None:
        return listing.spec_digest == entry.digest
    if listing.stamp is not None:
        return listing.stamp == standing.stamp
    # On Hugging Face a specification that changes is a commit of its own.
    return listing.ref.revision is not None and listing.ref == entry.model


class _Reading:
    """Specifications one after the other; ``refusal`` is a hub's, which ended it."""

    def __init__(self, workers: int, progress: Progress) -> None:
        self.skipped: list[SkippedSpec] = []
        self.refusal: RateLimitError | None = None
        self._workers = workers
        self._progress = progress

    def rows(self, listings: Sequence[tuple[Hub, Listing]]) -> Iterator[Row]:
        """Those that can be used, in order."""
        self._progress(0, len(listings))
        outcomes = in_order(self._read, listings, self._workers)
        for done, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, Row):
                yield outcome
            else:
                self.skipped.append(outcome)
            self._progress(done, len(listings))

    def _read(self, it: tuple[Hub, Listing]) -> Row | SkippedSpec:
        hub, listing = it
        if self.refusal is not None:
            return SkippedSpec(listing.ref, f"not read any more: {self.refusal.message}")
        try:
            spec = read_from(hub, listing.ref)
        except RateLimitError as error:
            self.refusal = self.refusal or error
            return SkippedSpec(listing.ref, error.message)
        except GmiError as error:
            return SkippedSpec(listing.ref, error.message)
        standing = Standing(trust=listing.trust, stamp=listing.stamp)
        row = Row.of(spec, standing)
        if listing.ref.revision is None and listing.ref == row.indexed.entry.model.identity:
            return row
        # The hub knows the model of today, the manifest the one of the day it was described.
        entry = row.indexed.entry.found_at(listing.ref, listing.url)
        return replace(row, indexed=replace(row.indexed, entry=entry))
