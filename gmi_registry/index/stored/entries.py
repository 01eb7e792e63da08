"""Metadata of a group's members, read from the reader's database when somebody looks at them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.stored.delivery import Delivery
from gmi_registry.index.stored.ledger import Ledger
from gmi_registry.index.stored.members import Members
from gmi_registry.index.stored.record import PartRecord
from gmi_registry.spec import LoraPartial, ModelRef

__all__ = ["PartLines", "StoredEntries"]

_AT_ONCE = 512
# Lines that lie together: so many are read where one is asked for.
_TOGETHER = 16


class PartLines:
    """The lines of parts of an index: out of the database, where they are, or else of the part's
    own file, which is then checked, and kept."""

    def __init__(self, delivery: Delivery, ledger: Ledger) -> None:
        self._delivery = delivery
        self._ledger = ledger
        self._read: dict[str, dict[int, bytes]] = {}

    @staticmethod
    def owner(part: PartRecord) -> str:
        """Under which they lie in the database."""
        return f"lines {part.entries.sha256}"

    def of(self, part: PartRecord, rows: Sequence[int] | None = None) -> list[bytes]:
        """Those of ``rows``, in that order; None means all, of which what was read waits for
        ``keep``. Raises what the delivery does."""
        wanted = range(part.rows) if rows is None else rows
        places = {row // _TOGETHER for row in wanted}
        found = {
            place: lines
            for place, value in self._ledger.values(self.owner(part), places).items()
            if len(lines := value.split(b"\n")) == self._length(part, place)
        }
        if len(found) == len(places):
            return [found[row // _TOGETHER][row % _TOGETHER] for row in wanted]
        lines = [line for _, line in self._delivery.lines(part)]
        packs = range(0, len(lines), _TOGETHER)
        packed = {it // _TOGETHER: b"\n".join(lines[it : it + _TOGETHER]) for it in packs}
        self._read[self.owner(part)] = packed
        if rows is not None:
            self.keep()
        return [lines[row] for row in wanted]

    def keep(self) -> int:
        """Write down what was read of whole parts since the last time; how many these are."""
        read, self._read = self._read, {}
        if read:
            with self._ledger.together():
                for owner, packed in read.items():
                    self._ledger.put(owner, packed)
        return len(read)

    @staticmethod
    def _length(part: PartRecord, place: int) -> int:
        return min(_TOGETHER, part.rows - place * _TOGETHER)


class StoredEntries(Sequence[IndexEntry]):
    """The entries of a group's members. What was looked at stays in memory."""

    def __init__(
        self,
        lines: PartLines,
        parts: Sequence[PartRecord],
        members: Members,
        key: ComparabilityKey,
        encoder: str,
        prompt_set: str,
        prompts: tuple[str, ...],
    ) -> None:
        self._lines = lines
        self._parts = parts
        self._members = members
        self._shared: dict[str, Any] = {"encoder": encoder, "prompts": prompts, "key": key}
        self._prompt_set = prompt_set
        self._known: dict[int, IndexEntry] = {}

    def __len__(self) -> int:
        return len(self._members.names)

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
        """Of the members at ``places``, in that order: one question for each part of theirs."""
        missing = np.array([place for place in places if place not in self._known], np.intp)
        parts = self._members.parts[missing]
        for part in np.unique(parts).tolist():
            members = missing[parts == part]
            rows = self._members.rows[members].tolist()
            lines = self._lines.of(self._parts[part], rows)
            for place, line in zip(members.tolist(), lines, strict=True):
                self._known[place] = self._entry(json.loads(line))
        return [self._known[place] for place in places]

    def _entry(self, line: dict[str, Any]) -> IndexEntry:
        former, share = line.get("described_as"), line.get("lora_partial")
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
            lora_partial=None if share is None else LoraPartial.model_validate(share),
            **self._shared,
        )
