"""What a search compares with: an index where there is one, else specifications one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gmi_registry.errors import (
    GmiError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.filters import Filters
from gmi_registry.hubs.open import (
    HubAccess,
    find_model,
    find_spec,
    hub_named_in,
    is_folder,
    makes_links,
    read_from,
    registry_of,
)
from gmi_registry.hubs.protocol import (
    KnowsNames,
    KnowsWeights,
    Listing,
    SearchableHub,
    bases_in,
    is_stale,
    knows_names,
    with_base_names,
)
from gmi_registry.index import (
    Index,
    IndexedSpec,
    Ranking,
    SearchHit,
    Selection,
    SkippedSpec,
    SpecCache,
    SpecIndex,
    SpecSource,
    SpecStatus,
)
from gmi_registry.index.groups import rows_without
from gmi_registry.search.request import NO_INDEX, REGISTRY_INDEX, SearchRequest
from gmi_registry.threads import map_in_order

if TYPE_CHECKING:
    from gmi_registry.index.stored import IndexFiles, StoredIndex
    from gmi_registry.search.result import Progress, StageTimer
    from gmi_registry.spec import EncoderRef, ModelRef, Spec

    class NamedIndexFiles(IndexFiles, Protocol):
        """The files of an index, and what to call it."""

        name: str


_log = logging.getLogger(__name__)


@runtime_checkable
class HasIndex(Protocol):
    """A store of specifications that may have an index of them."""

    def aggregate(self) -> NamedIndexFiles: ...


@runtime_checkable
class HasRegistry(Protocol):
    """A hub that is opened together with such a store."""

    @property
    def registry(self) -> object: ...


class HubIndex:
    """The part of ``stored`` that is about the hub called ``hub``, an index like another.

    ``name`` is what people call it.
    """

    def __init__(self, stored: StoredIndex, hub: str, name: str) -> None:
        self.name = name
        self.skipped: Sequence[SkippedSpec] = ()
        self._stored = stored
        self._hub = hub
        self._marks: dict[str, bool] = {}
        self._count = sum(len(group.select(Filters(), hub=hub)) for group in stored.groups)

    def __len__(self) -> int:
        return self._count

    def select(self, filters: Filters, leave_out: ModelRef | None = None) -> list[Selection]:
        """What passes, group by group, without empty ones; ``leave_out`` is an identity."""
        gone = [name for name, stale in self._marks.items() if stale and filters.fresh_only]
        gone += [] if leave_out is None else [str(leave_out)]
        found = []
        for group in self._stored.groups:
            rows = group.select(filters, hub=self._hub)
            kept = rows_without(rows, group.names, gone) if gone else rows
            if len(kept):
                found.append(Selection(group, kept))
        return found

    def base_models(self) -> set[str]:
        """What base models are called, in lower case; those of other hubs and indexes as well."""
        return self._stored.base_models()

    def status(self, name: str) -> SpecStatus:
        """What is known of the specification of the model whose identity has that name."""
        known = self._stored.status(name)
        return replace(known, stale=self._marks[name]) if name in self._marks else known

    def mark(self, model: ModelRef, *, stale: bool) -> None:
        """Say whether the weights of a model are others than those that were described."""
        self._marks[str(model.identity)] = stale

    def exemplar(self, model: ModelRef) -> tuple[IndexedSpec, EncoderRef] | None:
        """The specification of a model and its encoder, where the index has it and ``model`` asks
        for no other."""
        found = self._stored.find(model)
        if found is None:
            return None
        group, row = found
        ref = group.entries[row].ref
        if model.revision not in (None, ref.revision):
            return None
        return group.indexed(row), group.encoder

    def close(self) -> None:
        """Let the cache go."""
        self._stored.close()


def open_index(
    place: str | Path, hub: SearchableHub, *, cache_dir: Path, progress: Progress | None = None
) -> HubIndex | None:
    """The index at ``place`` for a search of ``hub``: a folder, :data:`.REGISTRY_INDEX` or
    :data:`.NO_INDEX`.

    None where specifications are to be read one by one: for ``none``, and for ``auto`` where the
    hub has no registry, the registry no index, or the index no model of the hub. What is wrong
    with an index that nobody asked for is logged, and the search goes on without it.

    ``progress`` is that of :meth:`.StoredIndex.open`. Raises for a folder: InputError where there
    is none, or its models are all of other hubs, SpecFormatError and UnsupportedVersionError for an
    index that cannot be used; for ``auto`` RateLimitError.
    """
    if place == NO_INDEX:
        return None
    if place != REGISTRY_INDEX:
        folder = Path(place)
        if not folder.is_dir():
            raise InputError(
                f"{place} is not a folder with an index", hint="gmi index build DIR --hub HUB"
            )
        from gmi_registry.index.stored import FolderFiles, StoredIndex

        stored = StoredIndex.open(FolderFiles(folder), cache_dir=cache_dir, progress=progress)
        index = HubIndex(stored, hub.name, str(folder))
        if not len(index) and len(stored):
            hubs = sorted({name.partition(":")[0] for it in stored.groups for name in it.names})
            stored.close()
            wanted = "FOLDER" if hubs[0] == "local" else hubs[0]
            raise InputError(
                f"the index {place} holds models of {' and '.join(hubs)}, and none of {hub.name}",
                hint=f"name the hub that they are on: --hub {wanted}",
            )
        return index
    if not isinstance(hub, HasRegistry) or not isinstance(hub.registry, HasIndex):
        return None
    from gmi_registry.index.stored import StoredIndex

    try:
        found = hub.registry.aggregate()
        stored = StoredIndex.open(found, cache_dir=cache_dir, progress=progress)
    except RateLimitError:
        raise
    except OfflineError:
        return None
    except GmiError as error:
        _log.info("searching without an index: %s", error.message)
        return None
    index = HubIndex(stored, hub.name, found.name)
    return index if len(index) else None


@dataclass
class SearchSource:
    """The specifications that a search of ``hub`` compares with, and how they were come by.

    ``index`` takes the place of specifications one by one where it is not None. ``looked_at``
    counts the models with a specification that the hub or the index knows for the filter, and where
    it knows none, all that it has; ``listed`` the specifications of those that may pass; of these
    ``read`` were read from the hub. All are 0 before :meth:`load`.
    """

    hub: SearchableHub
    cache_dir: Path
    workers: int
    index: HubIndex | None = None
    looked_at: int = 0
    listed: int = 0
    read: int = 0

    @classmethod
    @contextmanager
    def open(
        cls, request: SearchRequest, hub: SearchableHub, cache_dir: Path, progress: Progress
    ) -> Iterator[SearchSource]:
        """For the block, with the index that ``request`` names. Raises as :func:`open_index`."""
        index = open_index(request.index, hub, cache_dir=cache_dir, progress=progress)
        try:
            yield cls(hub, cache_dir, request.workers, index)
        finally:
            if index is not None:
                index.close()

    def load(self, filters: Filters, timer: StageTimer) -> Index:
        """All that may pass ``filters``, in memory, out of the cache where that has it; or the
        index. Raises what the hub has for its listing as a whole."""
        if self.index is not None:
            self.looked_at = self.listed = len(self.index)
            return self.index
        listings = list(self.hub.list_specs(Filters()))
        filters = with_base_names(filters, self.hub, lambda: bases_in(listings))
        passing = [listing for listing in listings if filters.admits(listing.traits)]
        self.looked_at = len(passing) or len(listings)
        self.listed = sum(listing.has_spec for listing in passing)
        timer.begin("index")
        cache = SpecCache(self.cache_dir)
        index = SpecIndex.from_sources(
            map(self._spec_source, passing),
            cache=cache,
            workers=self.workers,
            progress=lambda done, total: timer.progress("index", done, total),
        )
        if self.read:
            cache.keep_within_limit()
        return index

    def _spec_source(self, listing: Listing) -> SpecSource:
        def load() -> Spec:
            if not listing.has_spec:
                raise without_spec(listing)
            self.read += 1
            return read_from(self.hub, listing.ref)

        return SpecSource(
            listing.ref,
            load,
            digest=listing.spec_digest,
            stamp=listing.stamp,
            nsfw=listing.nsfw,
            hub_tags=listing.tags,
            status=SpecStatus(listing.stale, listing.trust, listing.stamp),
            url=listing.url,
            checked=True,
        )


def find_exemplar(
    name: str, hub: SearchableHub, access: HubAccess, index: HubIndex | None
) -> tuple[IndexedSpec, EncoderRef]:
    """The specification of the model called ``name``, which others are to be near, and its encoder:
    out of ``index`` where that has it. Raises as :func:`.find_spec`, and what reading it raises."""
    here = hub_named_in(name) in (None, hub.name)
    if index is not None and here and not is_folder(name):
        ref = find_model(name, hub)
        names = knows_names(hub)
        for known_as in dict.fromkeys([ref] if names is None else [ref, names.name_now(ref)]):
            known = index.exemplar(known_as)
            if known is not None:
                return known
    # A model of another hub is as good a query as one of this hub.
    elsewhere = HubAccess(
        access.cache_dir, offline=access.offline, registry=None if here else registry_of(hub)
    )
    place = find_spec(name, hub, elsewhere)
    spec = place.read()
    exemplar = IndexedSpec.of(spec)
    if place.model is not None:
        # Under the name that the hub lists it by, so that it is not its own neighbour.
        model = replace(place.model, revision=exemplar.entry.ref.revision)
        exemplar = replace(exemplar, entry=exemplar.entry.found_at(model, None))
    return exemplar, spec.manifest.encoder


def without_spec(listing: Listing) -> SpecNotFoundError:
    """For a model that its hub counts, and of which it says that it has no specification."""
    return SpecNotFoundError(
        f"{listing.ref} has no specification, though it is tagged as if it had",
        hint=f"gmi-publish {listing.ref.without_revision}",
    )


@dataclass
class Freshness:
    """Asks a hub that knows, each model once, ``workers`` models at a time.

    References are those of a listing of this moment, or, with ``may_be_old``, of an index that was
    made some time ago: then the hub is asked for what it has now.

    A model that cannot be asked about counts as unknown: a ranking does not fail for it.
    """

    hub: SearchableHub
    workers: int
    may_be_old: bool = False
    _asked: set[ModelRef] = field(default_factory=set)

    def learn(self, index: Index, ranking: Ranking) -> bool:
        """Ask about the hits that nothing is known of; whether anything was learnt.

        What is learnt is marked in ``index``. Only what is shown is asked for, since each model
        may cost a request.
        """
        if not isinstance(self.hub, KnowsWeights):
            return False
        unknown = [hit for hit in ranking.hits if hit.stale is None and hit.ref not in self._asked]
        self._asked.update(hit.ref for hit in unknown)
        found = dict(zip(unknown, self._states(self.hub, unknown), strict=True))
        for hit, state in found.items():
            if state is not None:
                index.mark(hit.ref, stale=state)
        return any(state is not None for state in found.values())

    def _states(self, hub: KnowsWeights, hits: Sequence[SearchHit]) -> list[bool | None]:
        from gmi_registry.spec import read_manifest

        def state(hit: SearchHit) -> bool | None:
            try:
                now = hit.ref.identity if self.may_be_old else hit.ref
                folder = self.hub.fetch_spec(hit.ref).parent
                manifest = read_manifest(folder, follow_links=makes_links(self.hub))
                return is_stale(manifest.model.weights, hub.weight_digests(now))
            except GmiError:
                return None

        return list(map_in_order(state, hits, self.workers))


def with_present_names(ranking: Ranking, hub: SearchableHub) -> Ranking:
    """``ranking`` with its hits under the names that the hub is known to have for them.

    A listing has present names. An entry of a registry, or an index of some time ago, has those of
    the day it was made; where the hub was asked about such a model it said what it is called now.
    """
    names = knows_names(hub)
    if names is None:
        return ranking
    groups = [
        replace(group, hits=tuple(_with_present_name(hit, names) for hit in group.hits))
        for group in ranking.groups
    ]
    return replace(ranking, groups=tuple(groups))


def _with_present_name(hit: SearchHit, hub: KnowsNames) -> SearchHit:
    now = hub.name_now(hit.ref)
    if now.id == hit.ref.id:
        return hit
    described = hit.ref.repository if hit.described_as is None else hit.described_as
    url = hit.url
    if url is not None and url.endswith(f"/{hit.ref.id}"):
        url = url.removesuffix(hit.ref.id) + now.id
    return replace(
        hit, ref=now, url=url, described_as=None if described.id == now.id else described
    )
