"""One group of an index that is being written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import SpecFormatError
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.stored.delivery import Delivery
from gmi_registry.index.stored.fault import AGAIN
from gmi_registry.index.stored.layout import ArrayLayout, part_layout, prompts_layout
from gmi_registry.index.stored.line import EntryLine
from gmi_registry.index.stored.record import (
    FileRecord,
    GroupRecord,
    KeyRecord,
    NamedPrompts,
    PartRecord,
    StatisticsRecord,
)
from gmi_registry.index.stored.row import Row
from gmi_registry.index.stored.statistics import Statistics, sample_of
from gmi_registry.index.stored.store import Store
from gmi_registry.index.stored.values import norm_fault
from gmi_registry.scoring.default import mean_images
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.tensors import NORM_RANGE

__all__ = ["GroupDraft", "Line", "PartDraft", "agreed"]

_PART_ROWS = 1000
_PART_BYTES = 256 * 1024 * 1024

Line = tuple[EntryLine, bytes]
"""Metadata, and how they are written."""


@dataclass(eq=False)
class PartDraft:
    """A part that lies on the disk, with what is to become of its rows."""

    record: PartRecord
    lines: list[Line]
    removed: set[int] = field(default_factory=set)
    described: bool = False
    """Whether some line is another than in the file."""

    @property
    def live(self) -> list[int]:
        """The rows that count."""
        return [row for row in range(len(self.lines)) if row not in self.removed]


class GroupDraft:
    """A group's parts, rows that wait to become one, and the steps to its record.

    ``checking`` reads whole files and ``trusting`` a row here and there.
    """

    def __init__(
        self,
        key: ComparabilityKey,
        encoder: EncoderRef,
        prompt_set: NamedPrompts,
        store: Store,
        checking: Delivery,
        trusting: Delivery,
    ) -> None:
        self.key = key
        self.encoder = encoder
        self.prompt_set = prompt_set
        self.waiting: dict[str, Row] = {}
        self.parts: list[PartDraft] = []
        self._record: GroupRecord | None = None
        self._prompts: NDArray[np.float16] | None = None
        self._store = store
        self._checking = checking
        self._trusting = trusting

    @classmethod
    def of(
        cls, record: GroupRecord, store: Store, checking: Delivery, trusting: Delivery
    ) -> GroupDraft:
        """What lies on the disk already."""
        draft = cls(record.key.key, record.encoder, record.prompt_set, store, checking, trusting)
        draft._record = record
        draft._prompts = checking.prompts(record)
        for part in record.parts:
            draft.parts.append(PartDraft(part, checking.lines(part), set(part.removed)))
        return draft

    @property
    def images(self) -> int:
        """N, the images of each model."""
        return len(self.prompt_set.prompts) * self.key.images_per_prompt

    @property
    def capacity(self) -> int:
        """Rows of the largest part that is written."""
        pairs = self.images * (self.images - 1) // 2
        each = 2 * self.images * self.encoder.image_dim + 4 * pairs
        return max(1, min(_PART_ROWS, _PART_BYTES // max(1, each)))

    @property
    def folder(self) -> str:
        """Where its files lie."""
        return self._key_record.folder

    def written(self) -> tuple[PartDraft | None, list[Row]]:
        """Make a part of the rows that wait, and return it with them; None for no rows."""
        rows = list(self.waiting.values())
        self.waiting.clear()
        if not rows:
            return None, []
        if self._prompts is None:
            self._prompts = agreed([row.indexed.prompt_embeddings for row in rows])
        upper = np.triu(np.ones((self.images, self.images), bool), 1)
        images = np.stack([row.indexed.image_embeddings for row in rows])
        grams = np.zeros((len(rows), max(1, int(upper.sum()))), np.float32)
        for place, row in enumerate(rows):
            grams[place, : int(upper.sum())] = row.indexed.gram[upper]
        lines = [self.line(row) for row in rows]
        part = self._put(lines, images, mean_images(images), grams)
        self.parts.append(part)
        return part, rows

    def line(self, row: Row) -> Line:
        """The metadata of a row. Raises pydantic's ValidationError for an impossible entry."""
        line = EntryLine.of(row.indexed.entry, row.standing, self.prompt_set.name)
        return line, line.to_bytes()

    def finished(self) -> GroupRecord | None:
        """Join small parts, write what is new, and return the record; None for no rows."""
        self.parts = [part for part in self.parts if part.live]
        if not self.parts or self._prompts is None:
            return None
        self.parts = [self._rewritten(run) for run in _runs(self.parts, self.capacity)]
        parts = tuple(self._finished(part) for part in self.parts)
        statistics = self._statistics()
        if self._record is not None:
            # A copy keeps the fields of a newer minor version.
            return self._record.model_copy(update={"parts": parts, "statistics": statistics})
        layout = prompts_layout(*self._prompts.shape)
        return GroupRecord(
            key=self._key_record,
            encoder=self.encoder,
            prompt_set=self.prompt_set,
            prompt_embeddings=self._file("prompts", layout, self._prompts),
            statistics=statistics,
            parts=parts,
        )

    @property
    def _key_record(self) -> KeyRecord:
        key = self.key
        return KeyRecord(
            encoder_id=key.encoder_id,
            prompt_set_id=key.prompt_set_id,
            kernel="rbf",
            gamma=key.gamma,
            images_per_prompt=key.images_per_prompt,
        )

    def _rewritten(self, run: list[PartDraft]) -> PartDraft:
        """Several parts as one, or one that has lost many rows as it is now."""
        if len(run) == 1 and 4 * len(run[0].removed) <= len(run[0].lines):
            return run[0]
        arrays = {
            kind: np.concatenate(
                [self._mapped(self._checking, part, kind)[part.live] for part in run]
            )
            for kind in ("images", "means", "grams")
        }
        lines = [part.lines[row] for part in run for row in part.live]
        return self._put(lines, arrays["images"], arrays["means"], arrays["grams"])

    def _finished(self, part: PartDraft) -> PartRecord:
        changes: dict[str, Any] = {"removed": tuple(sorted(part.removed))}
        if part.described:
            changes["entries"] = self._entries(part.lines)
        return part.record.model_copy(update=changes)

    def _put(
        self,
        lines: list[Line],
        images: NDArray[Any],
        means: NDArray[Any],
        grams: NDArray[Any],
    ) -> PartDraft:
        rows = len(lines)
        record = PartRecord(
            rows=rows,
            entries=self._entries(lines),
            means=self._file("means", self._layout("means", rows), means),
            images=self._file("images", self._layout("images", rows), images),
            grams=self._file("grams", self._layout("grams", rows), grams),
        )
        return PartDraft(record, lines)

    def _entries(self, lines: list[Line]) -> FileRecord:
        return self._store.put(self.folder, "entries", (data + b"\n" for _, data in lines))

    def _file(self, kind: str, layout: ArrayLayout, array: NDArray[Any]) -> FileRecord:
        return self._store.put(self.folder, kind, layout.pieces({kind: array}))

    def _statistics(self) -> StatisticsRecord:
        members = sorted(self._members(), key=lambda it: it[0].model)
        digests = [line.digest for line, _, _ in members]
        sample = sample_of(digests)
        if self._record is not None and self._record.statistics.sample == sample:
            return self._record.statistics
        prompts = np.arange(len(self.prompt_set.prompts), dtype=np.int32)

        def images(rows: Sequence[int]) -> NDArray[np.float16]:
            chosen = [members[row] for row in rows]
            maps = {part: self._mapped(self._trusting, part, "images") for _, part, _ in chosen}
            stacked = np.stack([maps[part][row] for _, part, row in chosen])
            fault = norm_fault(stacked, NORM_RANGE)
            if fault is not None:
                raise SpecFormatError(f"the images in {self.folder}: {fault}", hint=AGAIN)
            return stacked

        found = Statistics.of(digests, images, np.repeat(prompts, self.key.images_per_prompt))
        layout = Statistics.layout(self.encoder.image_dim)
        return StatisticsRecord(
            file=self._store.put(self.folder, "statistics", layout.pieces(found.arrays)),
            freedom=found.scatter.freedom,
            temperature=found.temperature,
            sample=sample,
        )

    def _layout(self, kind: str, rows: int) -> ArrayLayout:
        return part_layout(kind, rows, self.images, self.encoder.image_dim)

    def _mapped(self, delivery: Delivery, part: PartDraft, kind: str) -> NDArray[Any]:
        return delivery.part(part.record, kind, self._layout(kind, part.record.rows))

    def _members(self) -> Iterator[tuple[EntryLine, PartDraft, int]]:
        for part in self.parts:
            for row in part.live:
                yield part.lines[row][0], part, row


def agreed(candidates: Sequence[NDArray[np.float16]]) -> NDArray[np.float16]:
    """What most of ``candidates`` [P, E], at least one, nearly say: the median of each number.

    They come with specifications, so strangers made them. Nobody is left out for other ones, and
    a search with words embeds the prompts itself; this is for programs that have no encoder.
    """
    return np.asarray(np.median(np.stack(candidates).astype(np.float32), axis=0), np.float16)


def _runs(parts: list[PartDraft], most: int) -> list[list[PartDraft]]:
    """Neighbours that are to be one part, so that few small parts are left.

    One joins the part before it unless that is more than twice as large, or both together were
    larger than ``most``. So a row is written again only when its part grows by half, and the number
    of parts stays near that of full ones.
    """
    runs: list[tuple[int, list[PartDraft]]] = []
    for part in parts:
        runs.append((len(part.live), [part]))
        while len(runs) > 1 and runs[-2][0] <= min(2 * runs[-1][0], most - runs[-1][0]):
            size, joined = runs.pop()
            before, first = runs.pop()
            runs.append((before + size, first + joined))
    return [run for _, run in runs]
