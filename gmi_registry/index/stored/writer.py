"""Writing an index to files: models join it, leave it, and change their metadata.

Files never change under names that follow from their content, and ``index.json`` names them. It is
replaced last, in one step, so that whoever is stopped before leaves the index as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gmi_registry.errors import InputError, SpecFormatError
from gmi_registry.index.entry import (
    UNKNOWN_STATUS,
    ComparabilityKey,
    IndexedSpec,
    IndexEntry,
    SpecStatus,
)
from gmi_registry.index.result import SkippedSpec
from gmi_registry.index.stored.database import LocalDatabase
from gmi_registry.index.stored.files import CheckedFiles, FolderFiles
from gmi_registry.index.stored.format import (
    BUILD_AGAIN,
    DOCUMENT_NAME,
    LINE_LIMIT,
    ArrayLayout,
    FileMetadata,
    GroupMetadata,
    IndexDocument,
    KeyMetadata,
    NamedPrompts,
    PartMetadata,
    Statistics,
    StatisticsMetadata,
    StoredMetadata,
    file_name,
    norm_fault,
    part_layout,
    prompts_layout,
    sample_of,
)
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring.default import mean_images
from gmi_registry.spec import EncoderRef, ModelRef, Spec
from gmi_registry.spec.tensors import NORM_RANGE


@dataclass(frozen=True, eq=False)
class NewSpec:
    """A specification ready to be compared, what a hub says of it, and the encoder that it names.

    The encoder is here in full, so that whoever opens the index can load it without having any
    specification at hand.
    """

    indexed: IndexedSpec
    standing: SpecStatus
    encoder: EncoderRef

    @classmethod
    def of(cls, spec: Spec, standing: SpecStatus = UNKNOWN_STATUS) -> NewSpec:
        """The row of a specification; its Gram matrix is computed here."""
        return cls(IndexedSpec.of(spec), standing, spec.manifest.encoder)


LOCK_NAME = ".index.lock"
LOCK_PATIENCE = 60.0
"""Seconds to wait for another writer."""


@contextlib.contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Keep every other writer out of ``folder``, which is made where it is missing.

    The system lets the lock go when its holder ends, however that may be. Raises InputError where
    another writer still holds it after a minute.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=LOCK_PATIENCE)
    except Timeout:
        raise InputError(
            f"another program is writing the index in {folder}",
            hint="try again when it has ended",
        ) from None
    try:
        yield
    finally:
        lock.release()


_GROUP = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"[0-9a-f]{32}-[a-z]+\.(jsonl|tensors)")
_SCRATCH = re.compile(r"\.[a-z0-9_]+\.part")


class IndexFolder:
    """Files that never change under names that follow from their content, and one that names them.

    A file is there whole or not at all. Whoever is stopped before ``conclude`` leaves the index as
    it was, and files that the next writer takes away. ``written`` counts bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0

    def put(self, group: str, kind: str, pieces: Iterable[bytes | memoryview]) -> FileMetadata:
        """Write a file of a group. Nothing refers to it yet."""
        place = self.folder / group
        place.mkdir(exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with _scratch(place) as (handle, scratch):
            with os.fdopen(handle, "wb") as stream:
                for piece in pieces:
                    digest.update(piece)
                    size += stream.write(piece)
                stream.flush()
                os.fsync(stream.fileno())
            name = file_name(group, kind, digest.hexdigest())
            Path(scratch).replace(self.folder / name)
        self.written += size
        return FileMetadata(name=name, sha256=digest.hexdigest(), size=size)

    def conclude(self, document: bytes, keep: Collection[str]) -> None:
        """Make ``document`` the index, of which ``keep`` are the files; all others go."""
        with _scratch(self.folder) as (handle, scratch):
            with os.fdopen(handle, "wb") as stream:
                stream.write(document)
                stream.flush()
                os.fsync(stream.fileno())
            _sync_folders(self.folder)
            Path(scratch).replace(self.folder / DOCUMENT_NAME)
        _sync_folders(self.folder)
        self.written += len(document)
        self.sweep(keep)

    def sweep(self, keep: Collection[str]) -> None:
        """Take away what a writer made and ``keep`` does not name, and nothing else."""
        for path in self.folder.glob(".*.part"):
            if _SCRATCH.fullmatch(path.name):
                path.unlink(missing_ok=True)
        for place in sorted(self.folder.iterdir()):
            if place.is_symlink() or not place.is_dir() or not _GROUP.fullmatch(place.name):
                continue
            for path in sorted(place.iterdir()):
                ours = _FILE.fullmatch(path.name) or _SCRATCH.fullmatch(path.name)
                if ours and f"{place.name}/{path.name}" not in keep:
                    # Where open files cannot be deleted, the next writer will do it.
                    with contextlib.suppress(OSError):
                        path.unlink()
            with contextlib.suppress(OSError):
                place.rmdir()


@contextlib.contextmanager
def _scratch(place: Path) -> Iterator[tuple[int, str]]:
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=place)
    try:
        yield handle, name
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()


def _sync_folders(folder: Path) -> None:
    """Have the names of new files reach the disk too, where the system knows how."""
    if os.name != "posix":
        return
    for place in (folder, *(it for it in folder.iterdir() if _GROUP.fullmatch(it.name))):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_PART_ROWS = 1000
_PART_BYTES = 256 * 1024 * 1024

WrittenLine = tuple[StoredMetadata, bytes]
"""Metadata, and how they are written."""


@dataclass(eq=False)
class PartDraft:
    """A part that lies on the disk, with what is to become of its rows."""

    record: PartMetadata
    lines: list[WrittenLine]
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
        store: IndexFolder,
        checking: CheckedFiles,
        trusting: CheckedFiles,
    ) -> None:
        self.key = key
        self.encoder = encoder
        self.prompt_set = prompt_set
        self.waiting: dict[str, NewSpec] = {}
        self.parts: list[PartDraft] = []
        self._record: GroupMetadata | None = None
        self._prompts: NDArray[np.float16] | None = None
        self._store = store
        self._checking = checking
        self._trusting = trusting

    @classmethod
    def of(
        cls,
        record: GroupMetadata,
        store: IndexFolder,
        checking: CheckedFiles,
        trusting: CheckedFiles,
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

    def written(self) -> tuple[PartDraft | None, list[NewSpec]]:
        """Make a part of the rows that wait, and return it with them; None for no rows."""
        rows = list(self.waiting.values())
        self.waiting.clear()
        if not rows:
            return None, []
        if self._prompts is None:
            self._prompts = agreed_prompts([row.indexed.prompt_embeddings for row in rows])
        upper = np.triu(np.ones((self.images, self.images), bool), 1)
        images = np.stack([row.indexed.image_embeddings for row in rows])
        grams = np.zeros((len(rows), max(1, int(upper.sum()))), np.float32)
        for place, row in enumerate(rows):
            grams[place, : int(upper.sum())] = row.indexed.gram[upper]
        lines = [self.line(row) for row in rows]
        part = self._put(lines, images, mean_images(images), grams)
        self.parts.append(part)
        return part, rows

    def line(self, row: NewSpec) -> WrittenLine:
        """The metadata of a row. Raises pydantic's ValidationError for an impossible entry."""
        line = StoredMetadata.of(row.indexed.entry, row.standing, self.prompt_set.name)
        return line, line.to_bytes()

    def finished(self) -> GroupMetadata | None:
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
        return GroupMetadata(
            key=self._key_record,
            encoder=self.encoder,
            prompt_set=self.prompt_set,
            prompt_embeddings=self._file("prompts", layout, self._prompts),
            statistics=statistics,
            parts=parts,
        )

    @property
    def _key_record(self) -> KeyMetadata:
        key = self.key
        return KeyMetadata(
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

    def _finished(self, part: PartDraft) -> PartMetadata:
        changes: dict[str, Any] = {"removed": tuple(sorted(part.removed))}
        if part.described:
            changes["entries"] = self._entries(part.lines)
        return part.record.model_copy(update=changes)

    def _put(
        self,
        lines: list[WrittenLine],
        images: NDArray[Any],
        means: NDArray[Any],
        grams: NDArray[Any],
    ) -> PartDraft:
        rows = len(lines)
        record = PartMetadata(
            rows=rows,
            entries=self._entries(lines),
            means=self._file("means", self._layout("means", rows), means),
            images=self._file("images", self._layout("images", rows), images),
            grams=self._file("grams", self._layout("grams", rows), grams),
        )
        return PartDraft(record, lines)

    def _entries(self, lines: list[WrittenLine]) -> FileMetadata:
        return self._store.put(self.folder, "entries", (data + b"\n" for _, data in lines))

    def _file(self, kind: str, layout: ArrayLayout, array: NDArray[Any]) -> FileMetadata:
        return self._store.put(self.folder, kind, layout.pieces({kind: array}))

    def _statistics(self) -> StatisticsMetadata:
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
                raise SpecFormatError(f"the images in {self.folder}: {fault}", hint=BUILD_AGAIN)
            return stacked

        found = Statistics.of(digests, images, np.repeat(prompts, self.key.images_per_prompt))
        layout = Statistics.layout(self.encoder.image_dim)
        return StatisticsMetadata(
            file=self._store.put(self.folder, "statistics", layout.pieces(found.arrays)),
            freedom=found.scatter.freedom,
            temperature=found.temperature,
            sample=sample,
        )

    def _layout(self, kind: str, rows: int) -> ArrayLayout:
        return part_layout(kind, rows, self.images, self.encoder.image_dim)

    def _mapped(self, delivery: CheckedFiles, part: PartDraft, kind: str) -> NDArray[Any]:
        return delivery.part(part.record, kind, self._layout(kind, part.record.rows))

    def _members(self) -> Iterator[tuple[StoredMetadata, PartDraft, int]]:
        for part in self.parts:
            for row in part.live:
                yield part.lines[row][0], part, row


def agreed_prompts(candidates: Sequence[NDArray[np.float16]]) -> NDArray[np.float16]:
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
class MetadataUpdate:
    """What a hub says today of a model whose specification the index has."""

    entry: IndexEntry
    standing: SpecStatus


def update_index(
    folder: str | Path,
    added: Iterable[NewSpec | ModelRef],
    removed: Iterable[ModelRef] = (),
    described: Iterable[MetadataUpdate] = (),
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
        with writing_alone(folder), contextlib.closing(LocalDatabase(None)) as ledger:
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
    def __init__(self, folder: Path, ledger: LocalDatabase) -> None:
        self._store = IndexFolder(folder)
        self._before: bytes | None = None
        self._document = IndexDocument()
        files = FolderFiles(folder)
        self._checking = CheckedFiles(files, ledger)
        self._trusting = CheckedFiles(files, None)
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

    def describe(self, told: MetadataUpdate) -> None:
        place = self._places.get(str(told.entry.model.identity))
        if place is None:
            return
        group, part, row = place
        try:
            line = StoredMetadata.of(told.entry, told.standing, group.prompt_set.name)
            self._describe(part, row, _readable((line, line.to_bytes())))
        except ValueError as error:
            self._counts.refused.append(SkippedSpec(told.entry.model, _reason(error)))

    def put(self, row: NewSpec) -> None:
        entry = row.indexed.entry
        reason = _row_fault(row)
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

    def _known(self, record: GroupMetadata) -> GroupDraft:
        return GroupDraft.of(record, self._store, self._checking, self._trusting)

    def _new(self, key: ComparabilityKey, row: NewSpec) -> GroupDraft:
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

    def _describe(self, part: PartDraft, row: int, line: WrittenLine) -> None:
        if part.lines[row] == line:
            self._counts.unchanged += 1
            return
        part.lines[row] = line
        part.described = True
        self._counts.described += 1

    def _refuse(self, row: NewSpec, reason: str) -> None:
        self._counts.refused.append(SkippedSpec(row.indexed.entry.model, reason))


def _readable(line: WrittenLine) -> WrittenLine:
    """The line itself. Raises ValueError for one that is longer than readers put up with."""
    if len(line[1]) > LINE_LIMIT:
        raise ValueError(f"its metadata take {len(line[1]):,} bytes, more than {LINE_LIMIT:,}")
    return line


def _reason(error: ValueError) -> str:
    return first_fault(error) if isinstance(error, ValidationError) else str(error)


def _row_fault(row: NewSpec) -> str | None:
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
