"""Models join an index, and leave it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from gmi_registry.errors import InputError
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.result import SkippedSpec
from gmi_registry.index.standing import Standing
from gmi_registry.index.stored.delivery import Delivery
from gmi_registry.index.stored.document import DOCUMENT_NAME, IndexDocument
from gmi_registry.index.stored.draft import GroupDraft, Line, PartDraft
from gmi_registry.index.stored.fault import first_fault
from gmi_registry.index.stored.files import FolderFiles
from gmi_registry.index.stored.ledger import Ledger
from gmi_registry.index.stored.line import LINE_LIMIT, EntryLine
from gmi_registry.index.stored.lock import locked
from gmi_registry.index.stored.record import GroupRecord, NamedPrompts
from gmi_registry.index.stored.row import Row
from gmi_registry.index.stored.store import Store
from gmi_registry.index.stored.values import norm_fault
from gmi_registry.spec import ModelRef
from gmi_registry.spec.tensors import NORM_RANGE

__all__ = ["Description", "IndexChange", "update_index"]

Progress = Callable[[int], None]


@dataclass(frozen=True)
class IndexChange:
    """What an update did. The first six count models: ``rows`` that the index holds now; of those
    handed in ``added`` ones that were unknown, ``replaced`` ones with another specification,
    ``described`` ones whose metadata alone changed, ``unchanged`` ones; and ``removed``.

    ``refused`` are specifications that cannot be with the rest. ``new`` and ``obsolete`` are names
    of files below the index's folder, besides ``index.json``; ``written`` counts bytes.
    """

    rows: int
    added: int
    replaced: int
    described: int
    unchanged: int
    removed: int
    refused: tuple[SkippedSpec, ...]
    new: tuple[str, ...]
    obsolete: tuple[str, ...]
    written: int


@dataclass(frozen=True)
class Description:
    """What a hub says today of a model whose specification the index has."""

    entry: IndexEntry
    standing: Standing


def update_index(
    folder: str | Path,
    added: Iterable[Row | ModelRef],
    removed: Iterable[ModelRef] = (),
    described: Iterable[Description] = (),
    *,
    progress: Progress | None = None,
) -> IndexChange:
    """Bring the index in ``folder`` up to date; a folder without one becomes an index.

    First ``removed`` leave, whatever their revision; then the metadata of ``described`` change, of
    which the index has the rows; then ``added`` join, at most some thousand in memory at a time. A
    reference among them leaves. A model is known by its identity: with the digest that it has
    already only its metadata are written anew, with another one it is replaced; of two rows for one
    model the later counts. ``progress`` is called with the number of rows taken in so far.

    Readers see the index as it was until all is done, and so does everybody if this is stopped at
    any point. Raises InputError where another program is writing the index, or the folder cannot
    be written, and what opening the index raises where it cannot be read.
    """
    folder = Path(folder)
    try:
        with locked(folder), contextlib.closing(Ledger(None)) as ledger:
            work = _Update(folder, ledger)
            for model in removed:
                work.remove(model)
            for description in described:
                work.describe(description)
            for done, row in enumerate(added, 1):
                if isinstance(row, ModelRef):
                    work.remove(row)
                else:
                    work.put(row)
                if progress is not None:
                    progress(done)
            return work.conclude()
    except OSError as error:
        raise InputError(
            f"the index in {folder} cannot be written: {error.strerror or error}; "
            "it is as it was before",
            hint="free some room, or name a folder that you may write to",
        ) from error


@dataclass
class _Counts:
    added: int = 0
    replaced: int = 0
    described: int = 0
    unchanged: int = 0
    removed: int = 0
    refused: list[SkippedSpec] = field(default_factory=list)


class _Update:
    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self._store = Store(folder)
        self._before: bytes | None = None
        self._document = IndexDocument()
        files = FolderFiles(folder)
        self._checking = Delivery(files, ledger)
        self._trusting = Delivery(files, None)
        if (folder / DOCUMENT_NAME).exists():
            self._document, _ = self._checking.document()
            self._before = self._document.to_bytes()
        self._groups = {group.key.key: self._known(group) for group in self._document.groups}
        self._counts = _Counts()
        self._places: dict[str, tuple[GroupDraft, PartDraft, int]] = {}
        self._waiting: dict[str, GroupDraft] = {}
        for group in self._groups.values():
            for part in group.parts:
                for row in part.live:
                    self._places[str(part.lines[row][0].ref.identity)] = group, part, row

    def remove(self, model: ModelRef) -> None:
        place = self._places.pop(str(model.identity), None)
        if place is not None:
            _, part, row = place
            part.removed.add(row)
            self._counts.removed += 1

    def describe(self, told: Description) -> None:
        place = self._places.get(str(told.entry.model.identity))
        if place is None:
            return
        group, part, row = place
        try:
            line = EntryLine.of(told.entry, told.standing, group.prompt_set.name)
            self._describe(part, row, _readable((line, line.to_bytes())))
        except ValueError as error:
            self._counts.refused.append(SkippedSpec(told.entry.model, _reason(error)))

    def put(self, row: Row) -> None:
        entry = row.indexed.entry
        reason = _fault(row)
        if reason is not None:
            self._refuse(row, reason)
            return
        group = self._groups.get(entry.key)
        if group is None:
            group = self._groups[entry.key] = self._new(entry.key, row)
        try:
            line = _readable(group.line(row))
        except ValueError as error:
            self._refuse(row, _reason(error))
            return
        identity = str(entry.model.identity)
        earlier = self._waiting.pop(identity, None)
        if earlier is not None:
            del earlier.waiting[identity]
        place = self._places.get(identity)
        if place is not None and place[1].lines[place[2]][0].digest == entry.digest:
            self._describe(place[1], place[2], line)
            return
        group.waiting[identity] = row
        self._waiting[identity] = group
        if len(group.waiting) >= group.capacity:
            self._flush(group)

    def conclude(self) -> IndexChange:
        for group in self._groups.values():
            self._flush(group)
        drafts = [self._groups[key] for key in sorted(self._groups)]
        records = [record for draft in drafts if (record := draft.finished()) is not None]
        # A copy keeps the fields of a newer minor version.
        document = self._document.model_copy(update={"groups": tuple(records)})
        data = document.to_bytes()
        IndexDocument.from_bytes(data)
        earlier, now = self._document.files, document.files
        if data == self._before:
            self._store.written = 0
            self._store.sweep(now)
        else:
            self._store.conclude(data, now)
        counts = self._counts
        return IndexChange(
            rows=len(self._places),
            added=counts.added,
            replaced=counts.replaced,
            described=counts.described,
            unchanged=counts.unchanged,
            removed=counts.removed,
            refused=tuple(counts.refused),
            new=tuple(sorted(now.keys() - earlier.keys())),
            obsolete=tuple(sorted(earlier.keys() - now.keys())),
            written=self._store.written,
        )

    def _known(self, record: GroupRecord) -> GroupDraft:
        return GroupDraft.of(record, self._store, self._checking, self._trusting)

    def _new(self, key: ComparabilityKey, row: Row) -> GroupDraft:
        entry = row.indexed.entry
        prompts = NamedPrompts(name=entry.prompt_set, prompts=entry.prompts)
        return GroupDraft(key, row.encoder, prompts, self._store, self._checking, self._trusting)

    def _flush(self, group: GroupDraft) -> None:
        part, rows = group.written()
        if part is None:
            return
        for number, row in enumerate(rows):
            identity = str(row.indexed.entry.model.identity)
            del self._waiting[identity]
            earlier = self._places.get(identity)
            if earlier is None:
                self._counts.added += 1
            else:
                earlier[1].removed.add(earlier[2])
                self._counts.replaced += 1
            self._places[identity] = group, part, number

    def _describe(self, part: PartDraft, row: int, line: Line) -> None:
        if part.lines[row] == line:
            self._counts.unchanged += 1
            return
        part.lines[row] = line
        part.described = True
        self._counts.described += 1

    def _refuse(self, row: Row, reason: str) -> None:
        self._counts.refused.append(SkippedSpec(row.indexed.entry.model, reason))


def _readable(line: Line) -> Line:
    """The line itself. Raises ValueError for one that is longer than readers put up with."""
    if len(line[1]) > LINE_LIMIT:
        raise ValueError(f"its metadata take {len(line[1]):,} bytes, more than {LINE_LIMIT:,}")
    return line


def _reason(error: ValueError) -> str:
    return first_fault(error) if isinstance(error, ValidationError) else str(error)


def _fault(row: Row) -> str | None:
    """Why nobody could read an index with this row, or None."""
    indexed, encoder = row.indexed, row.encoder
    key = indexed.entry.key
    if encoder.id != key.encoder_id:
        return f"it names encoder {key.encoder_id[:8]}, and comes with {encoder.id[:8]}"
    prompts = len(indexed.entry.prompts)
    images = prompts * key.images_per_prompt
    wanted = {
        "image_embeddings": (images, encoder.image_dim),
        "prompt_embeddings": (prompts, encoder.text_dim),
        "gram": (images, images),
    }
    for name, shape in wanted.items():
        if getattr(indexed, name).shape != shape:
            return f"{name} has shape {getattr(indexed, name).shape}, expected {shape}"
    for vectors in (indexed.image_embeddings, indexed.prompt_embeddings):
        fault = norm_fault(vectors, NORM_RANGE)
        if fault is not None:
            return fault
    return None
