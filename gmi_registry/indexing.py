"""From what hubs hold to one index: :func:`index_hubs` reads what is new, removes what is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from gmi_registry.errors import GmiError, InputError, RateLimitError, SpecFormatError
from gmi_registry.filters import Filters
from gmi_registry.hubs.open import read_from
from gmi_registry.hubs.protocol import Hub, Listing, bases_in, with_base_names
from gmi_registry.index import IndexEntry, SkippedSpec, SpecStatus
from gmi_registry.index.stored import (
    DOCUMENT_NAME,
    FolderFiles,
    IndexChange,
    MetadataUpdate,
    NewSpec,
    StoredIndex,
    update_index,
)
from gmi_registry.search.source import without_spec
from gmi_registry.spec import ModelRef
from gmi_registry.threads import map_in_order

Progress = Callable[[int, int], None]
"""Told (done, all) specifications that had to be read."""


@dataclass(frozen=True)
class Indexing:
    """What indexing did. ``listed`` models have a specification, of which ``read`` were read and
    the rest were in the index as they are. ``skipped`` could not be used, with the reason; a model
    that was in the index before stays in it as it was, unless its specification names another model
    and its weights are no longer those that prove it to be the same."""

    change: IndexChange
    listed: int
    read: int
    skipped: tuple[SkippedSpec, ...]


def index_hubs(
    folder: Path,
    hubs: Sequence[Hub],
    *,
    cache_dir: Path,
    filters: Filters | None = None,
    workers: int = 8,
    progress: Progress = lambda done, total: None,
) -> Indexing:
    """Update the index in ``folder`` to what ``hubs`` hold, as far as it passes ``filters``.

    Specifications are read, ``workers`` at a time, where hubs can tell without a download that the
    index does not have them. Of the others only the metadata are written again: their tags, and
    whatever else hubs say of them now. Models of these hubs that no listing names any more, or that
    the filters no longer pass, leave the index; those of other hubs stay. ``cache_dir`` is where
    the index keeps what opening it takes.

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
    filters = filters or Filters()
    known = _known(folder, cache_dir)
    work = _SortedListings()
    named: dict[str, Filters] = {}
    for hub in hubs:
        listings = list(hub.list_specs(filters))
        named[hub.name] = with_base_names(filters, hub, partial(bases_in, listings))
        for listing in listings:
            work.add(hub, listing, known.get(listing.ref.identity), named[hub.name])
    gone = [ref for ref in known if ref.hub in names and ref not in work.present]
    reader = _Reader(named, workers, progress, work.renamed)
    change = update_index(folder, reader.rows(work.fresh), gone, work.described)
    if reader.refusal is not None:
        raise reader.refusal
    skipped = (*work.skipped, *reader.skipped, *change.refused)
    listed = len(work.present) - reader.kept_out
    return Indexing(change, listed, len(work.fresh), skipped)


def _known(folder: Path, cache_dir: Path) -> dict[ModelRef, tuple[IndexEntry, SpecStatus]]:
    if not (folder / DOCUMENT_NAME).exists():
        return {}
    with StoredIndex.open(FolderFiles(folder), cache_dir=cache_dir) as index:
        return {
            entry.ref.identity: (entry, group.status(row))
            for group in index.groups
            for row, entry in enumerate(group.entries)
        }


@dataclass
class _SortedListings:
    """Listings, sorted by what is to be done: the specifications of ``fresh`` ones are read, and
    ``described`` has the metadata of those whose specification the index has. ``renamed`` are fresh
    ones that the index has by a specification with another name."""

    present: set[ModelRef] = field(default_factory=set)
    renamed: set[ModelRef] = field(default_factory=set)
    fresh: list[tuple[Hub, Listing]] = field(default_factory=list)
    described: list[MetadataUpdate] = field(default_factory=list)
    skipped: list[SkippedSpec] = field(default_factory=list)

    def add(
        self,
        hub: Hub,
        listing: Listing,
        known: tuple[IndexEntry, SpecStatus] | None,
        filters: Filters,
    ) -> None:
        """Sort one listing; ``known`` is what the index has of its model."""
        if not listing.has_spec:
            self.skipped.append(SkippedSpec(listing.ref, without_spec(listing).message))
            return
        if known is None or not _is_read(listing, *known):
            self.present.add(listing.ref.identity)
            self.fresh.append((hub, listing))
            if known is not None and known[0].described_as is not None:
                self.renamed.add(listing.ref.identity)
            return
        entry, before = known
        now, status = _today(listing, entry), _status(listing)
        if not filters.admits(now.traits(status.stale)):
            return
        self.present.add(listing.ref.identity)
        if (now, status) != (entry, replace(before, stale=None)):
            self.described.append(MetadataUpdate(now, status))


def _is_read(listing: Listing, entry: IndexEntry, status: SpecStatus) -> bool:
    """Whether the index has the specification that a hub lists, told without reading it."""
    if entry.described_as is not None and not (
        listing.ref.hub == "hf" and listing.ref == entry.ref
    ):
        # It names another model, and is this one's only as long as the weights are those that it
        # describes. A commit holds them fast; nothing else that is listed does.
        return False
    if listing.spec_digest is not None:
        return listing.spec_digest == entry.digest
    if listing.stamp is not None:
        return listing.stamp == status.stamp
    # On Hugging Face a specification that changes is a commit of its own.
    return _pins(listing) and listing.ref == entry.ref


def _pins(listing: Listing) -> bool:
    return listing.ref.revision is not None


def _status(listing: Listing) -> SpecStatus:
    """What the index keeps of what a hub says; whether the weights have changed is soon old."""
    return SpecStatus(trust=listing.trust, stamp=listing.stamp)


def _today(listing: Listing, entry: IndexEntry) -> IndexEntry:
    """The hub knows the model of today, the manifest the one of the day it was described."""
    return entry.listed(listing.ref, url=listing.url, hub_tags=listing.tags, nsfw=listing.nsfw)


class _Reader:
    """Specifications one after the other; ``refusal`` is a hub's, which ended it. ``kept_out`` are
    so many that do not pass, which was not to be known before. Of ``renamed`` ones nothing may stay
    in the index that they cannot be shown to be."""

    def __init__(
        self,
        filters: Mapping[str, Filters],
        workers: int,
        progress: Progress,
        renamed: Set[ModelRef] = frozenset(),
    ) -> None:
        self.skipped: list[SkippedSpec] = []
        self.refusal: RateLimitError | None = None
        self.kept_out = 0
        self._filters = filters
        self._workers = workers
        self._progress = progress
        self._renamed = renamed
        self._refuted: set[ModelRef] = set()

    def rows(self, listings: Sequence[tuple[Hub, Listing]]) -> Iterator[NewSpec | ModelRef]:
        """Those that can be used, in order; of one that does not pass, or is not the model that it
        was taken for, its reference: it leaves."""
        self._progress(0, len(listings))
        outcomes = map_in_order(self._read, listings, self._workers)
        for done, outcome in enumerate(outcomes, 1):
            if isinstance(outcome, SkippedSpec):
                self.skipped.append(outcome)
                if outcome.model.identity in self._refuted:
                    yield outcome.model
            elif self._passes(outcome):
                yield outcome
            else:
                self.kept_out += 1
                yield outcome.indexed.entry.ref
            self._progress(done, len(listings))

    def _passes(self, row: NewSpec) -> bool:
        entry = row.indexed.entry
        return self._filters[entry.ref.hub].admits(entry.traits(row.status.stale))

    def _read(self, it: tuple[Hub, Listing]) -> NewSpec | SkippedSpec:
        hub, listing = it
        if self.refusal is not None:
            return SkippedSpec(listing.ref, f"not read any more: {self.refusal.message}")
        try:
            spec = read_from(hub, listing.ref)
        except RateLimitError as error:
            self.refusal = self.refusal or error
            return SkippedSpec(listing.ref, error.message)
        except GmiError as error:
            if isinstance(error, SpecFormatError) and listing.ref.identity in self._renamed:
                self._refuted.add(listing.ref.identity)
            return SkippedSpec(listing.ref, error.message)
        row = NewSpec.of(spec, _status(listing))
        entry = _today(listing, row.indexed.entry)
        return replace(row, indexed=replace(row.indexed, entry=entry))
