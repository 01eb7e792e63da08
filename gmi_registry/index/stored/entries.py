"""Entries that are read from the reader's database when somebody looks at them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.stored.ledger import Ledger
from gmi_registry.spec import ModelRef

__all__ = ["StoredEntries"]

_AT_ONCE = 512


class StoredEntries(Sequence[IndexEntry]):
    """The entries of a group's members, by their rows. What was looked at stays in memory."""

    def __init__(
        self,
        ledger: Ledger,
        rows: NDArray[np.int64],
        key: ComparabilityKey,
        encoder: str,
        prompt_set: str,
        prompts: tuple[str, ...],
    ) -> None:
        self._ledger = ledger
        self._rows = rows
        self._shared: dict[str, Any] = {"encoder": encoder, "prompts": prompts, "key": key}
        self._prompt_set = prompt_set
        self._known: dict[int, IndexEntry] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> IndexEntry: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[IndexEntry, ...]: ...
    def __getitem__(self, place: int | slice) -> IndexEntry | tuple[IndexEntry, ...]:
        if isinstance(place, slice):
            return tuple(self.at(range(len(self))[place]))
        return self.at([range(len(self))[place]])[0]

    def __iter__(self) -> Iterator[IndexEntry]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self.at(range(start, min(len(self), start + _AT_ONCE)))

    def at(self, places: Sequence[int]) -> list[IndexEntry]:
        """Of the members at ``places``, in that order: one question for all of them."""
        missing = [place for place in places if place not in self._known]
        if missing:
            lines = self._ledger.lines(int(self._rows[place]) for place in missing)
            for place, line in zip(missing, lines, strict=True):
                self._known[place] = self._entry(json.loads(line))
        return [self._known[place] for place in places]

    def _entry(self, line: dict[str, Any]) -> IndexEntry:
        former = line.get("described_as")
        return IndexEntry(
            model=ModelRef.parse(line["model"]),
            digest=line["digest"],
            title=line["title"],
            kind=line["kind"],
            tags=tuple(line.get("tags", ())),
            base_model=line.get("base_model"),
            url=line.get("url"),
            licence=line.get("licence"),
            nsfw=line.get("nsfw", False),
            downloads=line.get("downloads"),
            prompt_set=line.get("prompt_set", self._prompt_set),
            hub_tags=tuple(line.get("hub_tags", ())),
            described_as=None if former is None else ModelRef.parse(former),
            **self._shared,
        )
