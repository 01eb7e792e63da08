"""The files of a stored index: ``index.json``, lines of metadata, and files of arrays.

``docs/explanation/index.md`` describes them. All that a stranger may have written is checked here
before it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import IO, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from gmi_registry.errors import InputError, SpecFormatError, UnsupportedVersionError, upgrade_hint
from gmi_registry.index.entry import (
    ComparabilityKey,
    IndexEntry,
    ModelMetadata,
    SpecStatus,
    load_constraints,
)
from gmi_registry.index.groups import (
    SCATTER_MODELS,
    TEMPERATURE_MODELS,
    SampledImages,
    drawn_by_lot,
    sampled,
    sampled_scatter,
    sampled_temperature,
)
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring import WithinScatter
from gmi_registry.spec import EncoderRef, PromptSet
from gmi_registry.spec.canonical import MANIFEST_LIMIT, NORM_RANGE, canonical_digest, canonical_json
from gmi_registry.spec.manifest import ROWS_LIMIT, Count, Name, Part, Prompt, Sha256
from gmi_registry.spec.prompts import MAX_PROMPTS

BUILD_AGAIN = (
    "download the index again; if that does not help, its publisher must build it again: "
    "gmi index build"
)
"""The hint for an index that lies or was damaged."""


MEAN_NORMS = (0.0, NORM_RANGE[1])
"""Of a mean: that of long vectors that point everywhere may be short."""

_ROWS_AT_ONCE = 512
# A kernel is computed in 32 bits.
_SLACK = 1e-3


def norm_fault(vectors: NDArray[Any], allowed: tuple[float, float]) -> str | None:
    """Why ``vectors`` [..., D] are no embeddings, or None: one has an L2 norm outside ``allowed``,
    or a value that is not finite."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE].astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", piece, piece))
        # Written so that NaN, for which every comparison is false, counts as bad.
        bad = ~((norms >= allowed[0]) & (norms <= allowed[1]))
        if bad.any():
            row = int(np.argmax(bad))
            return (
                f"holds a vector of norm {norms[row]:g} at {start + row}, outside "
                f"{allowed[0]:g} to {allowed[1]:g}"
            )
    return None


def kernel_fault(rows: NDArray[np.float32]) -> str | None:
    """Why [R, ...] are no values of a kernel that is 1 at most, or None."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE]
        if not ((piece >= 0) & (piece <= 1 + _SLACK)).all():
            return "holds a kernel outside 0 to 1"
    return None


_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
}
_WRITTEN_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class ArrayLayout:
    """The arrays of one file in their order: name, safetensors' name of the type, shape.

    The header follows from these, so a reader compares it and never parses one that a stranger
    wrote, and the same arrays always have the same bytes.
    """

    arrays: tuple[tuple[str, str, tuple[int, ...]], ...]

    @cached_property
    def header(self) -> bytes:
        """Everything before the data; a multiple of 8 bytes, so that mapped arrays are aligned."""
        entries: dict[str, object] = {}
        start = 0
        for name, dtype, shape in self.arrays:
            stop = start + math.prod(shape) * _DTYPES[dtype].itemsize
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": (start, stop)}
            start = stop
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        data = sum(math.prod(shape) * _DTYPES[dtype].itemsize for _, dtype, shape in self.arrays)
        return len(self.header) + data

    def pieces(self, values: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
        """The file's content, some megabytes at a time. Raises ValueError for other shapes."""
        yield self.header
        for name, dtype, shape in self.arrays:
            if values[name].shape != shape:
                raise ValueError(f"{name} has shape {values[name].shape}, expected {shape}")
            flat = np.ascontiguousarray(values[name], _DTYPES[dtype]).reshape(-1).view(np.uint8)
            for start in range(0, len(flat), _WRITTEN_AT_ONCE):
                yield flat[start : start + _WRITTEN_AT_ONCE].data

    def put(self, stream: IO[bytes], row: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Write rows of some arrays where they belong, from ``row`` on; others are passed over."""
        start = len(self.header)
        for name, dtype, shape in self.arrays:
            size = math.prod(shape[1:]) * _DTYPES[dtype].itemsize
            if name in values:
                stream.seek(start + row * size)
                stream.write(np.ascontiguousarray(values[name], _DTYPES[dtype]).data)
            start += shape[0] * size

    def mapped(self, stream: IO[bytes]) -> dict[str, NDArray[Any]] | None:
        """Read-only maps of the arrays in a file of the right size; None for another header."""
        stream.seek(0)
        if stream.read(len(self.header)) != self.header:
            return None
        found: dict[str, NDArray[Any]] = {}
        start = len(self.header)
        for name, dtype, shape in self.arrays:
            # A plain view: numpy's subclass for maps costs time at each slice.
            found[name] = np.asarray(np.memmap(stream, _DTYPES[dtype], "r", start, shape))
            start += math.prod(shape) * _DTYPES[dtype].itemsize
        return found


def part_layout(kind: str, rows: int, images: int, dimensions: int) -> ArrayLayout:
    """Of the arrays of R models with N images each in D dimensions.

    ``means`` [R, D]: the mean image of each model. ``images`` [R, N, D]. ``grams``
    [R, N (N - 1) / 2]: what lies above the diagonal of each Gram matrix, row after row; it is
    symmetric, and its diagonal 1. A model of one image still has one number there, a zero, since a
    file without any cannot be mapped.
    """
    if kind == "means":
        return ArrayLayout((("means", "F32", (rows, dimensions)),))
    if kind == "images":
        return ArrayLayout((("images", "F16", (rows, images, dimensions)),))
    return ArrayLayout((("grams", "F32", (rows, max(1, images * (images - 1) // 2))),))


def prompts_layout(prompts: int, dimensions: int) -> ArrayLayout:
    """[P, E]: the embeddings of a group's prompts."""
    return ArrayLayout((("prompts", "F16", (prompts, dimensions)),))


LINE_LIMIT = MANIFEST_LIMIT
"""Bytes of one line: it holds less than the manifest that it was taken from."""


@dataclass(frozen=True, kw_only=True)
class StoredMetadata(ModelMetadata, SpecStatus):
    """One model as a line of a part's ``entries.jsonl``: its metadata, and what a hub said of it.

    ``prompt_set`` is there only where the author gave the group's prompts another name.
    """

    prompt_set: Name | None = None

    @property
    def status(self) -> SpecStatus:
        """What a hub said when the line was written."""
        return SpecStatus(self.stale, self.trust, self.stamp)

    @classmethod
    def of(cls, entry: IndexEntry, status: SpecStatus, prompt_set: str) -> StoredMetadata:
        """The line of a member of the group whose prompts go by the name ``prompt_set``.

        Raises pydantic's ValidationError for an entry that no specification could have given.
        """
        named = None if entry.prompt_set == prompt_set else entry.prompt_set
        known = {**entry.to_plain(), **asdict(status), "prompt_set": named}
        return _metadata_check().validate_python(known)

    def to_bytes(self) -> bytes:
        """Canonical JSON, without the line's end and what is not known."""
        known = {**self.to_plain(), **asdict(self.status), "prompt_set": self.prompt_set}
        known["hub_tags"] = self.hub_tags or None
        return canonical_json({name: it for name, it in known.items() if it is not None})

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> StoredMetadata:
        """Read a line; ``place`` is the file and line for the message.

        Raises SpecFormatError for anything that breaks the rules of a field.
        """
        if len(data) > LINE_LIMIT:
            raise SpecFormatError(f"{place}: longer than {LINE_LIMIT:,} bytes", hint=BUILD_AGAIN)
        try:
            return _metadata_check().validate_json(data, strict=True)
        except ValidationError as error:
            raise SpecFormatError(f"{place}: {first_fault(error)}", hint=BUILD_AGAIN) from None


@cache
def _metadata_check() -> TypeAdapter[StoredMetadata]:
    load_constraints()
    return TypeAdapter(StoredMetadata)


def sample_of(digests: Sequence[str]) -> str:
    """A digest that changes whenever the statistics of these members, in order, may."""
    rows = sampled(digests, SCATTER_MODELS), drawn_by_lot(digests, TEMPERATURE_MODELS)
    chosen = [[digests[row] for row in some] for some in rows]
    return canonical_digest(chosen)


@dataclass(frozen=True, eq=False)
class DecomposedScatter(WithinScatter):
    """A scatter whose eigenvectors are known, which are the slow part of a first search."""

    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]

    @classmethod
    def decomposed(cls, scatter: WithinScatter) -> DecomposedScatter:
        """``scatter`` with its eigenvectors; zeros and the identity where it is one of nothing."""
        dimensions = len(scatter.scatter)
        values, vectors = np.zeros(dimensions), np.eye(dimensions)
        if scatter.freedom > 0:
            values, vectors = np.linalg.eigh(scatter.scatter / scatter.freedom)
        return cls(scatter.scatter, scatter.freedom, values, vectors)

    @cached_property
    def _eigen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.eigenvalues, self.eigenvectors


@dataclass(frozen=True, eq=False)
class Statistics:
    """Within-model scatter of a group with its eigenvectors, and the temperature of its chances.

    They are worked out when the index is written, from a sample. The index in memory takes one too:
    the same members by the same rule, so that both rank alike to the last bit, and an addition
    costs no more however large the index is. Sums over all members that additions go into would
    save that sample's reading, but would depend on the order of all updates, and drift as members
    leave.
    """

    scatter: DecomposedScatter
    temperature: float

    @classmethod
    def of(
        cls,
        digests: Sequence[str],
        images: SampledImages,
        image_prompt: NDArray[np.integer],
    ) -> Statistics:
        """Of the M models with these specifications, in the order of names."""
        scatter = DecomposedScatter.decomposed(sampled_scatter(digests, images))
        return cls(scatter, sampled_temperature(digests, images, image_prompt))

    @staticmethod
    def layout(dimensions: int) -> ArrayLayout:
        """Of the file: eigenvalues [D], eigenvectors [D, D], the scatter's upper triangle."""
        return ArrayLayout(
            (
                ("eigenvalues", "F64", (dimensions,)),
                ("eigenvectors", "F64", (dimensions, dimensions)),
                ("scatter", "F64", (dimensions * (dimensions + 1) // 2,)),
            )
        )

    @property
    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """What the file holds."""
        matrix = self.scatter.scatter
        return {
            "eigenvalues": self.scatter.eigenvalues,
            "eigenvectors": self.scatter.eigenvectors,
            "scatter": matrix[np.triu(np.ones(matrix.shape, bool))],
        }

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, NDArray[Any]], freedom: int, temperature: float
    ) -> Statistics:
        """The inverse of ``arrays``, with what stands in ``index.json``."""
        values, vectors = arrays["eigenvalues"], arrays["eigenvectors"]
        matrix = np.empty(vectors.shape)
        upper = np.triu(np.ones(vectors.shape, bool))
        matrix[upper] = matrix.T[upper] = arrays["scatter"]
        return cls(DecomposedScatter(matrix, freedom, values, vectors), temperature)


def statistics_fault(arrays: dict[str, NDArray[Any]]) -> str | None:
    """What is wrong with the arrays of a statistics file, or None."""
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return "holds a number that is not finite"
    values, vectors = arrays["eigenvalues"], arrays["eigenvectors"]
    dimensions = len(values)
    diagonal = arrays["scatter"][np.cumsum([0, *range(dimensions, 1, -1)])]
    largest = max(float(np.abs(values).max()), 1e-30)
    if (np.diff(values) < 0).any() or values[0] < -1e-6 * largest or (diagonal < 0).any():
        return "holds no scatter of images: a variance is negative"
    if np.abs(np.einsum("ij,ij->j", vectors, vectors) - 1).max() > 1e-6:
        return "holds eigenvectors that are not of length 1"
    return None


PART_ROWS = 4096
"""Models in one part that a reader puts up with; a writer makes smaller ones."""

_ENDINGS = {"entries": "jsonl"}
_FOLDER = r"[0-9a-f]{16}"
_KIND = r"(entries\.jsonl|(means|images|grams|prompts|statistics)\.tensors)"


def file_name(folder: str, kind: str, sha256: str) -> str:
    """Where a file of that content lies: the name says which bytes, for ever."""
    return f"{folder}/{sha256[:32]}-{kind}.{_ENDINGS.get(kind, 'tensors')}"


class FileMetadata(Part):
    """A file below the folder of ``index.json``: its name, digest, and size in bytes."""

    name: Annotated[str, StringConstraints(pattern=rf"^{_FOLDER}/[0-9a-f]{{32}}-{_KIND}$")]
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]

    def fault(self, folder: str, kind: str, size: int | None) -> str | None:
        """Why this is not the ``kind`` of ``folder`` with that size, or None."""
        if self.name != file_name(folder, kind, self.sha256):
            return f"{self.name} is not the place of a file of {kind} with its digest"
        if size is not None and self.size != size:
            return f"{self.name} has {self.size:,} bytes; its rows take {size:,}"
        return None


class PartMetadata(Part):
    """Rows that were written together. ``removed``: those that count no more, in order."""

    rows: Annotated[int, Field(ge=1, le=PART_ROWS)]
    removed: Annotated[tuple[Count, ...], Field(max_length=PART_ROWS)] = ()
    entries: FileMetadata
    means: FileMetadata
    images: FileMetadata
    grams: FileMetadata

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(first >= second for first, second in pairwise(self.removed)):
            raise ValueError("removed rows are not in order, or one is named twice")
        if self.removed and self.removed[-1] >= self.rows:
            raise ValueError(f"row {self.removed[-1]} was removed of {self.rows}")
        if len(self.removed) == self.rows:
            raise ValueError("no row is left of the part")
        return self

    @property
    def files(self) -> tuple[FileMetadata, ...]:
        """Its four files."""
        return self.entries, self.means, self.images, self.grams

    @property
    def live(self) -> int:
        """Rows that count."""
        return self.rows - len(self.removed)


class KeyMetadata(Part):
    """The fields of a :class:`~gmi_registry.index.ComparabilityKey`."""

    encoder_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    prompt_set_id: Sha256
    kernel: Literal["rbf"]
    gamma: Annotated[float, Field(gt=0, le=1e6)]
    images_per_prompt: Annotated[int, Field(ge=1, le=ROWS_LIMIT)]

    @classmethod
    def of(cls, key: ComparabilityKey) -> KeyMetadata:
        """The fields of ``key``."""
        return cls.model_validate(asdict(key))

    @property
    def key(self) -> ComparabilityKey:
        """The key itself."""
        return ComparabilityKey(**{name: getattr(self, name) for name in type(self).model_fields})

    @property
    def folder(self) -> str:
        """Where the group's files lie: the first 16 digits of the fields' digest."""
        return canonical_digest(self.known())[:16]


class NamedPrompts(Part):
    """The prompts of a group, under the name that most of its members give them."""

    name: Name
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]


class StatisticsMetadata(Part):
    """The file of :class:`Statistics`, and its two numbers.

    ``sample`` is the digest of the list of the specifications that they were worked out from.
    """

    file: FileMetadata
    freedom: Count
    temperature: Annotated[float, Field(gt=0, le=1e6)]
    sample: Sha256


class GroupMetadata(Part):
    """Models that may be compared with each other."""

    key: KeyMetadata
    encoder: EncoderRef
    prompt_set: NamedPrompts
    prompt_embeddings: FileMetadata
    statistics: StatisticsMetadata
    parts: Annotated[tuple[PartMetadata, ...], Field(min_length=1, max_length=10_000)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.encoder.id != self.key.encoder_id:
            raise ValueError("encoder_id is not the digest of the encoder")
        try:
            prompts = PromptSet("default", 1, self.prompt_set.prompts)
        except InputError as error:
            raise ValueError(error.message) from None
        if prompts.id != self.key.prompt_set_id:
            raise ValueError("prompt_set_id is not the digest of the prompts")
        if self.images > ROWS_LIMIT:
            raise ValueError(f"a model has {self.images:,} images, more than {ROWS_LIMIT:,}")
        for file, kind, size in self._sizes():
            fault = file.fault(self.folder, kind, size)
            if fault is not None:
                raise ValueError(fault)
        return self

    @property
    def folder(self) -> str:
        """Where the group's files lie."""
        return self.key.folder

    @property
    def images(self) -> int:
        """N, the images of each model."""
        return len(self.prompt_set.prompts) * self.key.images_per_prompt

    @property
    def files(self) -> tuple[FileMetadata, ...]:
        """All files of the group."""
        beside = (self.prompt_embeddings, self.statistics.file)
        return (*beside, *(file for part in self.parts for file in part.files))

    def layout(self, kind: str, rows: int) -> ArrayLayout:
        """Of a part's arrays of that kind: ``means``, ``images`` or ``grams``."""
        return part_layout(kind, rows, self.images, self.encoder.image_dim)

    def _sizes(self) -> list[tuple[FileMetadata, str, int | None]]:
        """Each file with what it should be, and its size where that follows from the rest."""
        prompts = prompts_layout(len(self.prompt_set.prompts), self.encoder.text_dim)
        statistics = Statistics.layout(self.encoder.image_dim)
        found: list[tuple[FileMetadata, str, int | None]] = [
            (self.prompt_embeddings, "prompts", prompts.size),
            (self.statistics.file, "statistics", statistics.size),
        ]
        for part in self.parts:
            if part.entries.size > part.rows * (LINE_LIMIT + 1):
                raise ValueError(f"{part.entries.name} is too long for {part.rows} rows")
            found.append((part.entries, "entries", None))
            for kind in ("means", "images", "grams"):
                size = self.layout(kind, part.rows).size
                found.append((getattr(part, kind), kind, size))
        return found


DOCUMENT_NAME = "index.json"

DOCUMENT_LIMIT = 8 * 1024 * 1024
"""Bytes of ``index.json``."""

# Enough for a million models, while a validator that lists millions of faults takes gigabytes.
_MOST_VALUES = 100_000

FORMAT_VERSION = "1.0"
"""What this package writes."""

_READS_MAJOR, _READS_MINOR = (int(number) for number in FORMAT_VERSION.split("."))


class Format(Part):
    """Name and version (``major.minor``) of the format."""

    name: Literal["gmi-index"] = "gmi-index"
    version: Annotated[str, StringConstraints(pattern=r"^1\.(0|[1-9][0-9]{0,3})$")] = FORMAT_VERSION


class IndexDocument(Part):
    """The whole document. ``to_bytes`` and ``from_bytes`` are inverse, unknown fields included."""

    format: Format = Format()
    groups: Annotated[tuple[GroupMetadata, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [group.key.key for group in self.groups]
        if any(first >= second for first, second in pairwise(keys)):
            raise ValueError("groups are not in the order of their keys, or one is there twice")
        seen: set[str] = set()
        for group in self.groups:
            for part in group.parts:
                if part.entries.name in seen:
                    raise ValueError(f"the part {part.entries.name} is named twice")
                seen.add(part.entries.name)
        return self

    @property
    def files(self) -> dict[str, FileMetadata]:
        """All files of the index by their names; two parts may share one with arrays."""
        return {file.name: file for group in self.groups for file in group.files}

    def to_bytes(self) -> bytes:
        """Canonical JSON and a newline. Raises SpecFormatError for more than 8 MiB."""
        data = canonical_json(self.model_dump(mode="python")) + b"\n"
        excess = _excess(data)
        if excess is not None:
            raise _broken_document(excess)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> IndexDocument:
        """Read ``index.json``.

        Raises SpecFormatError, or UnsupportedVersionError for a newer major version.
        """
        excess = _excess(data)
        if excess is not None:
            raise _broken_document(excess)
        _require_known_major(data)
        try:
            document = cls.model_validate_json(data, strict=True)
            known = canonical_json(document.known()) + b"\n"
            spelled = document.to_bytes()
        except ValidationError as error:
            raise _broken_document(first_fault(error)) from None
        except ValueError as error:
            raise _broken_document(str(error)) from None
        # One content has one spelling, which also rules out a key that is there twice.
        if spelled != data:
            raise _broken_document("is not in canonical form")
        minor = int(document.format.version.partition(".")[2])
        if minor <= _READS_MINOR and known != data:
            raise _broken_document(
                f"has a field that version {document.format.version} does not know"
            )
        return document


class _DeclaredFormat(BaseModel):
    version: str


class _Declared(BaseModel):
    """As much of a document of any version as says which it is."""

    format: _DeclaredFormat


def _require_known_major(data: bytes) -> None:
    # Before anything else: a newer major may be laid out in a way that nothing else expects.
    try:
        version = _Declared.model_validate_json(data).format.version
    except ValidationError:
        return
    major = version.partition(".")[0]
    if major.isascii() and major.isdecimal() and len(major) < 6 and int(major) > _READS_MAJOR:
        raise UnsupportedVersionError(
            f"the index has format version {version[:20]}; this program reads up to "
            f"{_READS_MAJOR}.x",
            hint=upgrade_hint(),
        )


def _excess(data: bytes) -> str | None:
    """Why a document is too large to be looked into, or None."""
    if len(data) > DOCUMENT_LIMIT:
        return f"has more than {DOCUMENT_LIMIT:,} bytes"
    # At least as many as there are values, and found in a moment.
    if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        return f"holds more than {_MOST_VALUES:,} values"
    return None


def _broken_document(reason: str) -> SpecFormatError:
    return SpecFormatError(f"{DOCUMENT_NAME}: {reason}", hint=BUILD_AGAIN)
