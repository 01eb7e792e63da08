"""What a search compares with: an index where there is one, else specifications one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.clock import Progress
from gmi_registry.errors import SpecNotFoundError
from gmi_registry.filters import Filters
from gmi_registry.hub_index import HubIndex, open_index
from gmi_registry.hubs.protocol import Hub, Listing, bases_in, with_base_names
from gmi_registry.index import Index, SpecCache, SpecIndex, SpecSource, SpecStatus
from gmi_registry.place import read_from
from gmi_registry.spec import ModelRef, Spec

__all__ = ["Gathered", "Gathering", "without_spec"]

Told = Callable[[int, int], None]
"""Told (done, all) specifications."""


@dataclass(frozen=True)
class Gathered:
    """``looked_at`` models of which the hub or the index knows, ``listed`` specifications of those
    that may pass the filter; of those ``read`` were read from the hub. ``name`` is that of the
    index, None where there was none."""

    index: Index
    looked_at: int
    listed: int
    read: int
    name: str | None


@dataclass(frozen=True)
class Gathering:
    """Where to look: a hub, by the index at ``place`` (as :func:`.open_index` has it)."""

    hub: Hub
    place: str | Path
    cache_dir: Path
    workers: int

    @contextmanager
    def opened(self, progress: Progress) -> Iterator[HubIndex | None]:
        """The index, until the end of the block; None where there is none to use."""
        index = open_index(self.place, self.hub, cache_dir=self.cache_dir, progress=progress)
        try:
            yield index
        finally:
            if index is not None:
                index.close()

    def one_by_one(self, wanted: Filters) -> tuple[list[Listing], int]:
        """What may pass the filter, and its number; where nothing does, how many there are."""
        listings = list(self.hub.list_specs(Filters()))
        named = with_base_names(wanted, self.hub, lambda: bases_in(listings))
        passing = [listing for listing in listings if named.admits(listing.traits)]
        return passing, len(passing) or len(listings)

    def read(self, listings: Sequence[Listing], looked_at: int, told: Told) -> Gathered:
        """The specifications of ``listings`` in memory, out of the cache where it has them."""
        fetched: list[ModelRef] = []

        def source(listing: Listing) -> SpecSource:
            def load() -> Spec:
                if not listing.has_spec:
                    raise without_spec(listing)
                fetched.append(listing.ref)
                return read_from(self.hub, listing.ref)

            return SpecSource(
                listing.ref,
                load,
                digest=listing.spec_digest,
                stamp=listing.stamp,
                nsfw=listing.nsfw,
                hub_tags=listing.tags,
                standing=SpecStatus(listing.stale, listing.trust, listing.stamp),
                url=listing.url,
                checked=True,
            )

        cache = SpecCache(self.cache_dir)
        index = SpecIndex.from_sources(
            map(source, listings), cache=cache, workers=self.workers, progress=told
        )
        if fetched:
            cache.keep_within_limit()
        described = sum(listing.has_spec for listing in listings)
        return Gathered(index, looked_at, described, len(fetched), None)


def without_spec(listing: Listing) -> SpecNotFoundError:
    """For a model that its hub counts, and of which it says that it has no specification."""
    return SpecNotFoundError(
        f"{listing.ref} has no specification, though it is tagged as if it had",
        hint=f"gmi-publish {listing.ref.without_revision}",
    )
