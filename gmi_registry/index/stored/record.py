"""The parts of ``index.json``: groups, parts and files."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gmi_registry.errors import InputError
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.stored.layout import ArrayLayout, part_layout, prompts_layout
from gmi_registry.index.stored.line import LINE_LIMIT
from gmi_registry.index.stored.statistics import Statistics
from gmi_registry.spec import EncoderRef, PromptSet
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.fields import Count, Name, Part, Prompt, Sha256
from gmi_registry.spec.manifest import ROWS_LIMIT
from gmi_registry.spec.prompts import MAX_PROMPTS

__all__ = [
    "PART_ROWS",
    "FileRecord",
    "GroupRecord",
    "KeyRecord",
    "NamedPrompts",
    "PartRecord",
    "StatisticsRecord",
    "file_name",
]

PART_ROWS = 4096
"""Models in one part that a reader puts up with; a writer makes smaller ones."""

_ENDINGS = {"entries": "jsonl"}
_FOLDER = r"[0-9a-f]{16}"
_KIND = r"(entries\.jsonl|(means|images|grams|prompts|statistics)\.tensors)"


def file_name(folder: str, kind: str, sha256: str) -> str:
    """Where a file of that content lies: the name says which bytes, for ever."""
    return f"{folder}/{sha256[:32]}-{kind}.{_ENDINGS.get(kind, 'tensors')}"


class FileRecord(Part):
    """A file below the folder of ``index.json``: its name, digest, and size in bytes."""

    name: Annotated[str, StringConstraints(pattern=rf"^{_FOLDER}/[0-9a-f]{{32}}-{_KIND}$")]
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]

    def fault(self, folder: str, kind: str, size: int | None) -> str | None:
        """Why this is not the ``kind`` of ``folder`` with that size, or None."""
        if self.name != file_name(folder, kind, self.sha256):
            return f"{self.name} is not where a file of {kind} with its digest lies"
        if size is not None and self.size != size:
            return f"{self.name} has {self.size:,} bytes; its rows take {size:,}"
        return None


class PartRecord(Part):
    """Rows that were written together. ``removed``: those that count no more, in order."""

    rows: Annotated[int, Field(ge=1, le=PART_ROWS)]
    removed: Annotated[tuple[Count, ...], Field(max_length=PART_ROWS)] = ()
    entries: FileRecord
    means: FileRecord
    images: FileRecord
    grams: FileRecord

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
    def files(self) -> tuple[FileRecord, ...]:
        """Its four files."""
        return self.entries, self.means, self.images, self.grams

    @property
    def live(self) -> int:
        """Rows that count."""
        return self.rows - len(self.removed)


class KeyRecord(Part):
    """The fields of a :class:`~gmi_registry.index.ComparabilityKey`."""

    encoder_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    prompt_set_id: Sha256
    kernel: Literal["rbf"]
    gamma: Annotated[float, Field(gt=0, le=1e6)]
    images_per_prompt: Annotated[int, Field(ge=1, le=ROWS_LIMIT)]

    @property
    def key(self) -> ComparabilityKey:
        """The key itself."""
        return ComparabilityKey(
            self.encoder_id, self.prompt_set_id, self.kernel, self.gamma, self.images_per_prompt
        )

    @property
    def folder(self) -> str:
        """Where the group's files lie: the first 16 digits of the fields' digest."""
        return canonical_digest(self.known())[:16]


class NamedPrompts(Part):
    """The prompts of a group, under the name that most of its members give them."""

    name: Name
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]


class StatisticsRecord(Part):
    """The file of :class:`Statistics`, and its two numbers.

    ``sample`` is the digest of the list of the specifications that they were worked out from.
    """

    file: FileRecord
    freedom: Count
    temperature: Annotated[float, Field(gt=0, le=1e6)]
    sample: Sha256


class GroupRecord(Part):
    """Models that may be compared with each other."""

    key: KeyRecord
    encoder: EncoderRef
    prompt_set: NamedPrompts
    prompt_embeddings: FileRecord
    statistics: StatisticsRecord
    parts: Annotated[tuple[PartRecord, ...], Field(min_length=1, max_length=10_000)]

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
        for record, kind, size in self._sizes():
            fault = record.fault(self.folder, kind, size)
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
    def files(self) -> tuple[FileRecord, ...]:
        """All files of the group."""
        beside = (self.prompt_embeddings, self.statistics.file)
        return (*beside, *(file for part in self.parts for file in part.files))

    def layout(self, kind: str, rows: int) -> ArrayLayout:
        """Of a part's arrays of that kind: ``means``, ``images`` or ``grams``."""
        return part_layout(kind, rows, self.images, self.encoder.image_dim)

    def _sizes(self) -> list[tuple[FileRecord, str, int | None]]:
        """Each file with what it should be, and its size where that follows from the rest."""
        prompts = prompts_layout(len(self.prompt_set.prompts), self.encoder.text_dim)
        statistics = Statistics.layout(self.encoder.image_dim)
        found: list[tuple[FileRecord, str, int | None]] = [
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
