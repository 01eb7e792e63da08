"""Writing an index to files: models join it, leave it, and change their metadata.

Files never change under names that follow from their content, and ``index.json`` names them. It is
replaced last, in one step, so that whoever is stopped before leaves the index as it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from gmi_registry.atomic import flush_file, flush_folder, new_file, scratch_file
from gmi_registry.errors import InputError, SpecFormatError
from gmi_registry.index.entry import (
    UNKNOWN_STATUS,
    ComparabilityKey,
    IndexedSpec,
    IndexEntry,
    SkippedSpec,
    SpecStatus,
    image_prompts,
)
from gmi_registry.index.groups import agreed_prompts
from gmi_registry.index.stored.files import CheckedFiles, FolderFiles, LocalDatabase
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
from gmi_registry.spec.canonical import NORM_RANGE

LOCK_NAME = ".index.lock"
LOCK_PATIENCE = 60.0
"""Seconds to wait for another writer."""

_PART_ROWS = 1000
_PART_BYTES = 256 * 1024 * 1024
_GROUP = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"[0-9a-f]{32}-[a-z]+\.(jsonl|tensors)")
_SCRATCH = re.compile(r"\.[a-z0-9_]+\.part")

WrittenLine = tuple[StoredMetadata, bytes]
"""Metadata, and how they are written."""


@dataclass(frozen=True, eq=False)
class NewSpec:
    """A specification ready to be compared, what a hub says of it, and the encoder that it names.

    The encoder is here in full, so that whoever opens the index can load it without having any
    specification at hand.
    """

    indexed: IndexedSpec
    status: SpecStatus
    encoder: EncoderRef

    @classmethod
    def of(cls, spec: Spec, status: SpecStatus = UNKNOWN_STATUS) -> NewSpec:
        """From a specification; its Gram matrix is computed here."""
        return cls(IndexedSpec.of(spec), status, spec.manifest.encoder)


@dataclass(frozen=True)
class MetadataUpdate:
    """What a hub says today of a model whose specification the index has."""

    entry: IndexEntry
    status: SpecStatus


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


def update_index(
    folder: str | Path,
    added: Iterable[NewSpec | ModelRef],
    removed: Iterable[ModelRef] = (),
    described: Iterable[MetadataUpdate] = (),
) -> IndexChange:
    """Bring the index in ``folder`` up to date; a folder without one becomes an index.

    First ``removed`` leave, whatever their revision; then the metadata of ``described`` change, of
    which the index has the rows; then ``added`` join, at most some thousand in memory at a time. A
    reference among them leaves. A model is known by its identity: with the digest that it has
    already only its metadata are written anew, with another one it is replaced; of two for one
    model the later counts.

    Readers see the index as it was until all is done, and so does everybody if this is stopped at
    any point. Raises InputError where another program is writing the index, or the folder cannot
    be written, and what opening the index raises where it cannot be read.
    """
    folder = Path(folder)
    try:
        with writing_alone(folder), contextlib.closing(LocalDatabase(None)) as database:
            update = _Update(IndexFolder(folder, database))
            for model in removed:
                update.remove(model)
            for description in described:
                update.describe(description)
            for new in added:
                if isinstance(new, ModelRef):
                    update.remove(new)
                else:
                    update.put(new)
            return update.conclude()
    except OSError as error:
        raise InputError(
            f"the index in {folder} cannot be written: {error.strerror or error}; "
            "it is as it was before",
            hint="free some space, or name a folder that you can write to",
        ) from error


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


class _Update:
    """The steps from an index on the disk to the next one. ``places`` says where each model lies by
    the name of its identity, and ``waiting`` which group it is to be written into."""

    def __init__(self, folder: IndexFolder) -> None:
        self._folder = folder
        self._before: bytes | None = None
        self._document = IndexDocument()
        if (folder.folder / DOCUMENT_NAME).exists():
            self._document, _ = folder.checked.document()
            self._before = self._document.to_bytes()
        self._groups = {it.key.key: GroupDraft.of(it, folder) for it in self._document.groups}
        self._counts = dict.fromkeys(("added", "replaced", "described", "unchanged", "removed"), 0)
        self._refused: list[SkippedSpec] = []
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
            self._counts["removed"] += 1

    def describe(self, update: MetadataUpdate) -> None:
        place = self._places.get(str(update.entry.ref.identity))
        if place is None:
            return
        group, part, row = place
        try:
            self._describe(part, row, group.line(update.entry, update.status))
        except ValueError as error:
            self._refuse(update.entry, _reason(error))

    def put(self, new: NewSpec) -> None:
        entry = new.indexed.entry
        reason = _fault(new)
        if reason is not None:
            self._refuse(entry, reason)
            return
        group = self._groups.get(entry.key)
        if group is None:
            prompts = NamedPrompts(name=entry.prompt_set, prompts=entry.prompts)
            group = GroupDraft(entry.key, new.encoder, prompts, self._folder)
            self._groups[entry.key] = group
        try:
            line = group.line(entry, new.status)
        except ValueError as error:
            self._refuse(entry, _reason(error))
            return
        identity = str(entry.ref.identity)
        earlier = self._waiting.pop(identity, None)
        if earlier is not None:
            del earlier.waiting[identity]
        place = self._places.get(identity)
        if place is not None and place[1].lines[place[2]][0].digest == entry.digest:
            self._describe(place[1], place[2], line)
            return
        group.waiting[identity] = new
        self._waiting[identity] = group
        if len(group.waiting) >= group.capacity:
            self._write(group)

    def conclude(self) -> IndexChange:
        for group in self._groups.values():
            self._write(group)
        drafts = [self._groups[key] for key in sorted(self._groups)]
        finished = [it for draft in drafts if (it := draft.finished()) is not None]
        # A copy keeps the fields of a newer minor version.
        document = self._document.model_copy(update={"groups": tuple(finished)})
        data = document.to_bytes()
        IndexDocument.from_bytes(data)
        earlier, now = self._document.files, document.files
        if data == self._before:
            self._folder.written = 0
            self._folder.sweep(now)
        else:
            self._folder.conclude(data, now)
        return IndexChange(
            rows=len(self._places),
            **self._counts,
            refused=tuple(self._refused),
            new=tuple(sorted(now.keys() - earlier.keys())),
            obsolete=tuple(sorted(earlier.keys() - now.keys())),
            written=self._folder.written,
        )

    def _write(self, group: GroupDraft) -> None:
        """Write the rows of a group that wait."""
        part, names = group.written()
        if part is None:
            return
        for row, identity in enumerate(names):
            del self._waiting[identity]
            earlier = self._places.get(identity)
            if earlier is not None:
                earlier[1].removed.add(earlier[2])
            self._counts["added" if earlier is None else "replaced"] += 1
            self._places[identity] = group, part, row

    def _describe(self, part: PartDraft, row: int, line: WrittenLine) -> None:
        if part.lines[row] == line:
            self._counts["unchanged"] += 1
            return
        part.lines[row] = line
        part.described = True
        self._counts["described"] += 1

    def _refuse(self, entry: IndexEntry, reason: str) -> None:
        self._refused.append(SkippedSpec(entry.ref, reason))


def _reason(error: ValueError) -> str:
    return first_fault(error) if isinstance(error, ValidationError) else str(error)


def _fault(new: NewSpec) -> str | None:
    """Why nobody could read an index with this specification, or None."""
    indexed, encoder = new.indexed, new.encoder
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
    return norm_fault(indexed.image_embeddings, NORM_RANGE) or norm_fault(
        indexed.prompt_embeddings, NORM_RANGE
    )


@dataclass(eq=False)
class PartDraft:
    """A part that lies on the disk, with what is to become of its rows."""

    metadata: PartMetadata
    lines: list[WrittenLine]
    removed: set[int] = field(default_factory=set)
    described: bool = False
    """Whether some line is another than in the file."""

    @property
    def live(self) -> list[int]:
        """The rows that count."""
        return [row for row in range(len(self.lines)) if row not in self.removed]


class GroupDraft:
    """A group's parts, rows that wait to become one, and the steps to what ``index.json`` says."""

    def __init__(
        self,
        key: ComparabilityKey,
        encoder: EncoderRef,
        prompt_set: NamedPrompts,
        folder: IndexFolder,
    ) -> None:
        self.waiting: dict[str, NewSpec] = {}
        self.parts: list[PartDraft] = []
        self._key = KeyMetadata.of(key)
        self._encoder = encoder
        self._prompt_set = prompt_set
        self._folder = folder
        self._before: GroupMetadata | None = None
        self._prompts: NDArray[np.float16] | None = None
        # N, the images of each model.
        self._images = len(prompt_set.prompts) * key.images_per_prompt
        self._upper = np.triu(np.ones((self._images, self._images), bool), 1)

    @classmethod
    def of(cls, group: GroupMetadata, folder: IndexFolder) -> GroupDraft:
        """What lies on the disk already."""
        draft = cls(group.key.key, group.encoder, group.prompt_set, folder)
        draft._before = group
        draft._prompts = folder.checked.prompts(group)
        for part in group.parts:
            draft.parts.append(PartDraft(part, folder.checked.lines(part), set(part.removed)))
        return draft

    @property
    def capacity(self) -> int:
        """Rows of the largest part that is written."""
        pairs = self._images * (self._images - 1) // 2
        each = 2 * self._images * self._encoder.image_dim + 4 * pairs
        return max(1, min(_PART_ROWS, _PART_BYTES // max(1, each)))

    def line(self, entry: IndexEntry, status: SpecStatus) -> WrittenLine:
        """The metadata of a member. Raises ValueError for an entry that no specification could have
        given, or one that is longer than readers put up with."""
        metadata = StoredMetadata.of(entry, status, self._prompt_set.name)
        data = metadata.to_bytes()
        if len(data) > LINE_LIMIT:
            raise ValueError(f"its metadata takes {len(data):,} bytes, more than {LINE_LIMIT:,}")
        return metadata, data

    def written(self) -> tuple[PartDraft | None, list[str]]:
        """Make a part of the rows that wait, and return it with the names of their identities; None
        for no rows."""
        names, new = list(self.waiting), list(self.waiting.values())
        self.waiting.clear()
        if not new:
            return None, []
        if self._prompts is None:
            self._prompts = agreed_prompts([it.indexed.prompt_embeddings for it in new])
        images = np.stack([it.indexed.image_embeddings for it in new])
        pairs = int(self._upper.sum())
        grams = np.zeros((len(new), max(1, pairs)), np.float32)
        for row, it in enumerate(new):
            grams[row, :pairs] = it.indexed.gram[self._upper]
        lines = [self.line(it.indexed.entry, it.status) for it in new]
        part = self._put(lines, images=images, means=mean_images(images), grams=grams)
        self.parts.append(part)
        return part, names

    def finished(self) -> GroupMetadata | None:
        """Join small parts, write what is new, and say what lies there; None for no rows."""
        self.parts = [part for part in self.parts if part.live]
        if not self.parts or self._prompts is None:
            return None
        self.parts = [self._rewritten(run) for run in _runs(self.parts, self.capacity)]
        parts = tuple(self._finished(part) for part in self.parts)
        statistics = self._statistics()
        if self._before is not None:
            # A copy keeps the fields of a newer minor version.
            return self._before.model_copy(update={"parts": parts, "statistics": statistics})
        layout = prompts_layout(*self._prompts.shape)
        return GroupMetadata(
            key=self._key,
            encoder=self._encoder,
            prompt_set=self._prompt_set,
            prompt_embeddings=self._write("prompts", layout.pieces({"prompts": self._prompts})),
            statistics=statistics,
            parts=parts,
        )

    def _rewritten(self, run: list[PartDraft]) -> PartDraft:
        """Several parts as one, or one that has lost many rows as it is now."""
        if len(run) == 1 and 4 * len(run[0].removed) <= len(run[0].lines):
            return run[0]
        arrays = {
            kind: np.concatenate(
                [self._mapped(self._folder.checked, part, kind)[part.live] for part in run]
            )
            for kind in ("images", "means", "grams")
        }
        return self._put([part.lines[row] for part in run for row in part.live], **arrays)

    def _finished(self, part: PartDraft) -> PartMetadata:
        changes: dict[str, Any] = {"removed": tuple(sorted(part.removed))}
        if part.described:
            changes["entries"] = self._entries(part.lines)
        return part.metadata.model_copy(update=changes)

    def _put(self, lines: list[WrittenLine], **arrays: NDArray[Any]) -> PartDraft:
        """Write a part: ``means``, ``images`` and ``grams``, one a row."""
        files = {
            kind: self._write(kind, self._layout(kind, len(lines)).pieces({kind: array}))
            for kind, array in arrays.items()
        }
        metadata = PartMetadata(rows=len(lines), entries=self._entries(lines), **files)
        return PartDraft(metadata, lines)

    def _entries(self, lines: list[WrittenLine]) -> FileMetadata:
        return self._write("entries", (data + b"\n" for _, data in lines))

    def _write(self, kind: str, pieces: Iterable[bytes | memoryview]) -> FileMetadata:
        return self._folder.put(self._key.folder, kind, pieces)

    def _statistics(self) -> StatisticsMetadata:
        members = sorted(
            ((part.lines[row][0], part, row) for part in self.parts for row in part.live),
            key=lambda member: str(member[0].ref),
        )
        digests = [line.digest for line, _, _ in members]
        sample = sample_of(digests)
        if self._before is not None and self._before.statistics.sample == sample:
            return self._before.statistics

        def images(rows: Sequence[int]) -> NDArray[np.float16]:
            chosen = [members[row] for row in rows]
            unchecked = self._folder.unchecked
            maps = {part: self._mapped(unchecked, part, "images") for _, part, _ in chosen}
            stacked = np.stack([maps[part][row] for _, part, row in chosen])
            fault = norm_fault(stacked, NORM_RANGE)
            if fault is not None:
                raise SpecFormatError(
                    f"the images in {self._key.folder}: {fault}", hint=BUILD_AGAIN
                )
            return stacked

        image_prompt = image_prompts(len(self._prompt_set.prompts), self._key.key)
        found = Statistics.of(digests, images, image_prompt)
        layout = Statistics.layout(self._encoder.image_dim)
        return StatisticsMetadata(
            file=self._write("statistics", layout.pieces(found.arrays)),
            freedom=found.scatter.freedom,
            temperature=found.temperature,
            sample=sample,
        )

    def _layout(self, kind: str, rows: int) -> ArrayLayout:
        return part_layout(kind, rows, self._images, self._encoder.image_dim)

    def _mapped(self, files: CheckedFiles, part: PartDraft, kind: str) -> NDArray[Any]:
        return files.part(part.metadata, kind, self._layout(kind, part.metadata.rows))


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


class IndexFolder:
    """Files that never change under names that follow from their content, and one that names them.

    A file is there whole or not at all. Whoever is stopped before ``conclude`` leaves the index as
    it was, and files that the next writer takes away. ``written`` counts bytes. ``checked`` reads
    whole files and ``unchecked`` a row here and there.
    """

    def __init__(self, folder: Path, database: LocalDatabase | None = None) -> None:
        self.folder = folder
        self.written = 0
        self.checked = CheckedFiles(FolderFiles(folder), database)
        self.unchecked = CheckedFiles(FolderFiles(folder), None)

    def put(self, group: str, kind: str, pieces: Iterable[bytes | memoryview]) -> FileMetadata:
        """Write a file of a group. Nothing refers to it yet."""
        place = self.folder / group
        place.mkdir(exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with scratch_file(place, private=True) as (stream, scratch):
            for piece in pieces:
                digest.update(piece)
                size += stream.write(piece)
            flush_file(stream)
            stream.close()
            name = file_name(group, kind, digest.hexdigest())
            scratch.replace(self.folder / name)
        self.written += size
        return FileMetadata(name=name, sha256=digest.hexdigest(), size=size)

    def conclude(self, document: bytes, keep: Collection[str]) -> None:
        """Make ``document`` the index, of which ``keep`` are the files; all others go."""
        with new_file(self.folder / DOCUMENT_NAME, private=True) as stream:
            stream.write(document)
            _sync_folders(self.folder)
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


def _sync_folders(folder: Path) -> None:
    """Have the names of new files reach the disk too, where the system knows how."""
    for place in (folder, *(it for it in folder.iterdir() if _GROUP.fullmatch(it.name))):
        flush_folder(place)
