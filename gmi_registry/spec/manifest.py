"""The manifest: everything about a specification that is not an array. SPEC.md section 3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from gmi_registry.errors import InputError, SpecFormatError, UnsupportedVersionError
from gmi_registry.sanitize import first_fault, one_line
from gmi_registry.spec.canonical import canonical_json, parse_json
from gmi_registry.spec.described import DescribedModel, WeightFile
from gmi_registry.spec.fields import Count, Name, Part, Prompt, Sha256
from gmi_registry.spec.prompts import MAX_PROMPTS, PromptSet
from gmi_registry.spec.recipe import GenerationRecipe
from gmi_registry.spec.reference import EncoderRef
from gmi_registry.spec.tensors import TensorName

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST_LIMIT",
    "ROWS_LIMIT",
    "Format",
    "Generation",
    "Kernel",
    "Manifest",
    "PromptBlock",
    "TensorEntry",
    "TensorFile",
    "Tool",
    "WeightFile",
]

FORMAT_VERSION = "1.0"
"""What this package writes."""

MANIFEST_LIMIT = 256 * 1024
"""Bytes of ``spec.json``."""

ROWS_LIMIT = 16_384
"""Images in one specification."""

_READS_MAJOR, _READS_MINOR = (int(number) for number in FORMAT_VERSION.split("."))
_NOT_OURS = "the file was damaged or written by hand: publish the model again"


class Format(Part):
    """Name and version (``major.minor``) of the format."""

    name: Literal["gmi-spec"] = "gmi-spec"
    version: Annotated[str, StringConstraints(pattern=r"^1\.(0|[1-9][0-9]{0,3})$")] = FORMAT_VERSION

    @property
    def minor(self) -> int:
        """The second number of the version."""
        return int(self.version.partition(".")[2])


class PromptBlock(Part):
    """One prompt set, and the half-open range [start, stop) of image rows that belong to it."""

    id: Sha256
    name: Name
    version: Annotated[int, Field(ge=1, le=2**53 - 1)]
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=MAX_PROMPTS)]
    rows: tuple[Count, Count]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.prompt_set.id != self.id:
            raise ValueError("id is not the digest of the prompts")
        return self

    @property
    def prompt_set(self) -> PromptSet:
        """The block's prompts as a set. Raises ValueError where they make none."""
        try:
            return PromptSet(self.name, self.version, self.prompts)
        except InputError as error:
            raise ValueError(error.message) from None


class Generation(Part):
    """The recipe under its id."""

    id: Sha256
    recipe: GenerationRecipe

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.recipe.id != self.id:
            raise ValueError("id is not the digest of the recipe")
        return self


class Kernel(Part):
    """k(x, y) = exp(-gamma ||x - y||²), the kernel the specification's authors compare with."""

    name: Literal["rbf"] = "rbf"
    gamma: Annotated[float, Field(gt=0, le=1e6)] = 0.02


class TensorEntry(Part):
    """Element type and shape of one tensor."""

    shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=ROWS_LIMIT)], ...], Field(min_length=1, max_length=2)
    ]
    dtype: Literal["F16", "I32"]


class TensorFile(Part):
    """The tensor file: its name in the same folder, digest, size in bytes, and contents."""

    file: Literal["spec.tensors"] = "spec.tensors"
    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=2**53 - 1)]
    entries: dict[TensorName, TensorEntry]


class Tool(Part):
    """The program that wrote the specification."""

    name: Name
    version: Name


class Manifest(Part):
    """The whole manifest. ``to_bytes`` and ``from_bytes`` are inverse, unknown fields included.

    ``previous`` is the digest of the specification that this one replaces. There is no time
    stamp: the same inputs give the same bytes.
    """

    format: Format = Format()
    model: DescribedModel
    encoder: EncoderRef
    prompt_sets: Annotated[tuple[PromptBlock, ...], Field(min_length=1, max_length=16)]
    generation: Generation
    kernel: Kernel = Kernel()
    tensors: TensorFile
    previous: Sha256 | None = None
    tool: Tool

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.format.minor <= _READS_MINOR:
            for path in _unknown_fields(self, ""):
                raise ValueError(f"version {self.format.version} has no field {path}")
        start = 0
        seeds = len(self.generation.recipe.seeds)
        for block in self.prompt_sets:
            if block.rows != (start, start + len(block.prompts) * seeds):
                raise ValueError(
                    f"prompt set {block.name!r} has rows {list(block.rows)}, but "
                    f"{len(block.prompts)} prompts of {seeds} seeds begin at {start}"
                )
            start = block.rows[1]
        images, prompts = start, sum(len(block.prompts) for block in self.prompt_sets)
        wanted: dict[TensorName, tuple[tuple[int, ...], str]] = {
            "image_embeddings": ((images, self.encoder.image_dim), "F16"),
            "prompt_embeddings": ((prompts, self.encoder.text_dim), "F16"),
            "image_prompt": ((images,), "I32"),
        }
        found = {name: (entry.shape, entry.dtype) for name, entry in self.tensors.entries.items()}
        for name, value in wanted.items():
            if found.get(name) != value:
                raise ValueError(f"tensors.entries.{name} should be {value}, is {found.get(name)}")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON and a newline: the content of ``spec.json``.

        Raises SpecFormatError where a kept unknown field cannot be written, or for more than
        256 KiB.
        """
        try:
            data = canonical_json(self.model_dump(mode="python")) + b"\n"
        except ValueError as error:
            raise SpecFormatError(f"spec.json cannot be written: {error}") from None
        if len(data) > MANIFEST_LIMIT:
            raise SpecFormatError(
                f"spec.json would have {len(data):,} bytes, more than {MANIFEST_LIMIT:,}",
                hint="use fewer or shorter prompts",
            )
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read ``spec.json``.

        Raises SpecFormatError, or UnsupportedVersionError for a newer major version.
        """
        if len(data) > MANIFEST_LIMIT:
            raise SpecFormatError(
                f"spec.json has {len(data):,} bytes, more than {MANIFEST_LIMIT:,}", hint=_NOT_OURS
            )
        try:
            _require_known_major(parse_json(data))
            manifest = cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise SpecFormatError(f"spec.json: {first_fault(error)}", hint=_NOT_OURS) from None
        except ValueError as error:
            raise SpecFormatError(f"spec.json: {error}", hint=_NOT_OURS) from None
        # One content has one spelling, so that its digest names the content.
        if manifest.to_bytes() != data:
            raise SpecFormatError("spec.json is not in canonical form", hint=_NOT_OURS)
        return manifest


def _require_known_major(document: object) -> None:
    # Before anything else: a newer major may be laid out in a way that nothing below expects.
    declared = document.get("format") if isinstance(document, dict) else None
    version = declared.get("version") if isinstance(declared, dict) else None
    if not isinstance(version, str):
        return
    major = version.partition(".")[0]
    if major.isascii() and major.isdecimal() and len(major) < 6 and int(major) > _READS_MAJOR:
        raise UnsupportedVersionError(
            f"the specification has format version {version[:20]}; this program reads up to "
            f"{_READS_MAJOR}.x",
            hint="pip install --upgrade gmi-registry",
        )


def _unknown_fields(value: object, path: str) -> Iterator[str]:
    if isinstance(value, Part):
        prefix = f"{path}." if path else ""
        yield from (f"{prefix}{one_line(name, 80)}" for name in value.model_extra or ())
        for name in type(value).model_fields:
            yield from _unknown_fields(getattr(value, name), prefix + name)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _unknown_fields(item, f"{path}.{name}")
    elif isinstance(value, tuple):
        for position, item in enumerate(value):
            yield from _unknown_fields(item, f"{path}[{position}]")
