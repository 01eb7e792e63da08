"""An index in place of specifications one by one: which one a search uses, and its part of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gmi_registry.clock import Progress
from gmi_registry.errors import GmiError, InputError, OfflineError, RateLimitError
from gmi_registry.filters import Filters
from gmi_registry.index import IndexedSpec, Selection, SkippedSpec, SpecStatus
from gmi_registry.index.groups import rows_without
from gmi_registry.index.stored import FolderFiles, IndexFiles, StoredIndex
from gmi_registry.spec import EncoderRef, ModelRef

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

__all__ = ["AUTO", "NONE", "HubIndex", "open_index"]

AUTO = "auto"
"""The registry's index where it has one that knows the hub."""

NONE = "none"
"""Specifications one by one."""

_log = logging.getLogger(__name__)


class Aggregate(IndexFiles, Protocol):
    """The files of an index, and what to call it."""

    name: str


@runtime_checkable
class HasIndex(Protocol):
    """A store of specifications that may have an index of them."""

    def aggregate(self) -> Aggregate: ...


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
        self._count = sum(len(stack.select(Filters(), hub=hub)) for stack in stored.groups)

    def __len__(self) -> int:
        return self._count

    def select(self, filters: Filters, leave_out: ModelRef | None = None) -> list[Selection]:
        """What passes, group by group, without empty ones; ``leave_out`` is an identity."""
        gone = [name for name, stale in self._marks.items() if stale and filters.fresh_only]
        gone += [] if leave_out is None else [str(leave_out)]
        found = []
        for stack in self._stored.groups:
            rows = stack.select(filters, hub=self._hub)
            kept = rows_without(rows, stack.names, gone) if gone else rows
            if len(kept):
                found.append(Selection(stack, kept))
        return found

    def base_models(self) -> set[str]:
        """What base models are called, in lower case; those of other hubs and indexes as well."""
        return self._stored.base_models()

    def standing(self, name: str) -> SpecStatus:
        """What is known of the specification of the model whose identity has that name."""
        known = self._stored.standing(name)
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
        stack, row = found
        ref = stack.entries[row].model
        if model.revision not in (None, ref.revision):
            return None
        return stack.indexed(row), stack.encoder

    def close(self) -> None:
        """Let the cache go."""
        self._stored.close()


def open_index(
    place: str | Path, hub: Hub, *, cache_dir: Path, progress: Progress | None = None
) -> HubIndex | None:
    """The index at ``place`` for a search of ``hub``: a folder, :data:`AUTO` or :data:`NONE`.

    None where specifications are to be read one by one: for ``none``, and for ``auto`` where the
    hub has no registry, the registry no index, or the index no model of the hub. What is wrong
    with an index that nobody asked for is logged, and the search goes on without it.

    ``progress`` is that of :meth:`.StoredIndex.open`. Raises for a folder: InputError where there
    is none, or its models are all of other hubs, SpecFormatError and UnsupportedVersionError for an
    index that cannot be used; for ``auto`` RateLimitError.
    """
    if place == NONE:
        return None
    if place != AUTO:
        folder = Path(place)
        if not folder.is_dir():
            raise InputError(
                f"{place} is no folder with an index", hint="gmi index build DIR --hub HUB"
            )
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
