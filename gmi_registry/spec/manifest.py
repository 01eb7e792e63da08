"""The manifest: everything about a specification that is not an array. SPEC.md section 3.

``python -m gmi_registry.spec.manifest`` prints its JSON schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    ValidationError,
    model_serializer,
    model_validator,
)

from gmi_registry.errors import InputError, SpecFormatError, UnsupportedVersionError, upgrade_hint
from gmi_registry.sanitize import first_fault, one_line
from gmi_registry.spec.canonical import MANIFEST_LIMIT, canonical_digest, canonical_json, parse_json
from gmi_registry.spec.prompts import MAX_PROMPT_LENGTH, MAX_PROMPTS, PromptSet
from gmi_registry.spec.reference import HubName, ModelRef, unprintable

# --- Fields --------------------------------------------------------------------------------------


def _printable(text: str) -> str:
    character = unprintable(text)
    if character:
        raise ValueError(f"holds the control character {character}")
    return text


def _trimmed(text: str) -> str:
    if text != text.strip():
        raise ValueError("begins or ends with white space")
    return text


def _relative(path: str) -> str:
    if "\\" in path or ":" in path:
        raise ValueError("holds a backslash or a colon")
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("is not a plain relative path")
    return path


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, StringConstraints(max_length=2000), AfterValidator(_printable)]
Prompt = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_PROMPT_LENGTH),
    AfterValidator(_printable),
    AfterValidator(_trimmed),
]
RelativePath = Annotated[
    str,
    StringConstraints(min_length=1, max_length=500),
    AfterValidator(_printable),
    AfterValidator(_relative),
]
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]


class Part(BaseModel):
    """One object of the manifest: frozen; fields of a newer minor version are kept.

    A field whose value is unknown is left out of the JSON, never written as null. Raises
    pydantic's ValidationError (a ValueError) when built from values that break a constraint.
    """

    model_config = ConfigDict(
        frozen=True, extra="allow", allow_inf_nan=False, protected_namespaces=()
    )

    @model_serializer(mode="wrap")
    def _leave_out_unknown(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        written: dict[str, Any] = handler(self)
        return {
            name: value
            for name, value in written.items()
            if value is not None or name not in fields
        }

    def known(self) -> dict[str, object]:
        """The fields that this version defines, as plain JSON values: the input of every id.

        Fields of a newer minor are left out, so that old and new readers compute the same id.
        """
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: _plain(value) for name, value in values if value is not None}


def _plain(value: object) -> object:
    if isinstance(value, Part):
        return value.known()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


TensorName = Literal["image_embeddings", "prompt_embeddings", "image_prompt"]


# --- The model -----------------------------------------------------------------------------------

OwnWeights = Callable[[], Mapping[str, str | None] | None]
"""Asks for the weight files of the model in whose place a specification was found: path to SHA-256
in hex, None for a file whose digest is not known; None where nothing is known."""


class WeightFile(Part):
    """One weight file: its path in the model's repository, its size in bytes and its digest."""

    path: RelativePath
    size: Count
    sha256: Sha256


def _sorted_by_path(weights: tuple[WeightFile, ...]) -> tuple[WeightFile, ...]:
    if any(first.path >= second.path for first, second in pairwise(weights)):
        raise ValueError("must be sorted by path, each path once")
    return weights


_WeightFiles = Annotated[
    tuple[WeightFile, ...], Field(min_length=1, max_length=200), AfterValidator(_sorted_by_path)
]


class DescribedModel(Part):
    """The model, as its hub described it when the specification was made.

    The specification is bound to ``weights``, the model's own files, and to ``base_weights``, the
    files of the base model that a LoRA or a single file was loaded on; both are sorted by path,
    1 to 200 files. ``base_weights`` is None for a checkpoint, and where the base is not known.
    ``base_origin`` says who named the base where that was neither the model card nor the hub, and
    ``base_revision`` is the one that was named.
    ``revision`` is a record only, since committing a specification beside a model changes the
    repository's revision. Raises pydantic's ValidationError for values that break these rules.
    """

    hub: HubName
    id: Name
    revision: Name | None = None
    title: Name
    url: Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)] | None = (
        None
    )
    kind: Literal["checkpoint", "lora", "single-file", "textual-inversion"]
    base_model: Name | None = None
    base_origin: Literal["option", "metadata", "architecture"] | None = None
    base_revision: Name | None = None
    weights: _WeightFiles
    base_weights: _WeightFiles | None = None
    tags: Annotated[tuple[Name, ...], Field(max_length=200)] = ()
    licence: Name | None = None
    nsfw: bool = False
    downloads: Count | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            ModelRef(self.hub, self.id, self.revision)
        except InputError as error:
            raise ValueError(error.message) from None
        if self.kind == "checkpoint" and self.base_weights is not None:
            raise ValueError("a checkpoint is whole, so it has no base_weights")
        for name in ("base_origin", "base_revision"):
            if getattr(self, name) is None:
                continue
            if self.kind == "checkpoint":
                raise ValueError(f"a checkpoint is whole, so it has no {name}")
            if self.base_model is None:
                raise ValueError(f"{name} says something of base_model, which is absent")
        if len(set(self.tags)) != len(self.tags):
            raise ValueError("a tag appears twice")
        return self

    @property
    def ref(self) -> ModelRef:
        """The model's name, with the revision it had."""
        return ModelRef(self.hub, self.id, self.revision)

    @property
    def named_base(self) -> ModelRef | None:
        """The base that whoever published named, as its hub is asked for it; None for any other."""
        if self.base_origin != "option" or self.base_model is None:
            return None
        files = [weight.path for weight in self.base_weights or ()]
        alone = files[0] if len(files) == 1 and "/" not in files[0] else None
        hub: HubName = "local" if self.hub == "local" else "hf"
        try:
            file = alone if hub == "hf" else None
            return ModelRef(hub, self.base_model, self.base_revision, file)
        except InputError:
            return None

    @property
    def weights_digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON list of [path, sha256] of the model's own files.

        Equal for equal weights; the base has its own digest.
        """
        return _digest(self.weights)

    @property
    def base_weights_digest(self) -> str | None:
        """Like ``weights_digest``, over ``base_weights``; None where there are none."""
        return None if self.base_weights is None else _digest(self.base_weights)


def are_among(weights: Sequence[WeightFile], own: Mapping[str, str | None] | None) -> bool:
    """Whether each of ``weights`` is one of a model's ``own`` files: the same path and digest.

    Files beside them do not count, since an author describes one variant of several. False where
    a digest is not known, and for no weights at all.
    """
    if not own or not weights:
        return False
    return all(own.get(weight.path) == weight.sha256 for weight in weights)


def _digest(weights: tuple[WeightFile, ...]) -> str:
    return canonical_digest([[weight.path, weight.sha256] for weight in weights])


# --- The encoder, and how images were generated --------------------------------------------------

_Scalar = bool | int | float | Text | None


class Preprocess(Part):
    """How a picture becomes the encoder's input.

    ``size`` is the side of the square input in pixels; ``mean`` and ``std`` are subtracted from
    and divide RGB values in 0..1; ``resize_mode`` has open_clip's meaning.
    """

    size: Annotated[int, Field(ge=1, le=4096)]
    mean: tuple[float, float, float]
    std: tuple[
        Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]
    ]
    interpolation: Literal["bicubic", "bilinear", "lanczos", "nearest"]
    resize_mode: Literal["shortest", "longest", "squash"]


class EncoderRef(Part):
    """The encoder of a specification: name and tag for people, weights digest for certainty.

    ``image_dim`` (D) and ``text_dim`` (E) are the lengths of the two embeddings; ``normalized``
    says whether image embeddings were divided by their L2 norm before they were stored.
    """

    name: Name
    pretrained: Name
    weights_sha256: Sha256
    preprocess: Preprocess
    image_dim: Annotated[int, Field(ge=1, le=8192)]
    text_dim: Annotated[int, Field(ge=1, le=8192)]
    normalized: bool = False

    @property
    def id(self) -> str:
        """First 16 hex digits of the digest of all fields: specs compare only where it is equal."""
        return canonical_digest(self.known())[:16]


class Sampler(Part):
    """The scheduler's class name and the settings that differ from run to run."""

    name: Name
    config: Annotated[dict[Name, _Scalar], Field(default_factory=dict, max_length=200)]


class LoraPartial(Part):
    """How many of a LoRA file's tensors reached the base model, where not all of them did."""

    applied: Annotated[int, Field(ge=1, le=10**6)]
    tensors: Annotated[int, Field(ge=2, le=10**6)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.applied >= self.tensors:
            raise ValueError("applied is not below tensors: leave lora_partial out")
        return self


class GenerationRecipe(Part):
    """Every setting of one generation run; the pixels follow from it, the model and the prompts.

    One image is generated of each prompt per seed. ``batch_size`` is recorded because it can
    change the last bits of a result, ``libraries`` (name to version) because a newer version can.
    ``width`` and ``height`` are in pixels. A setting that the pipeline does not read is None, so
    that nothing is recorded that had no effect: ``guidance_scale``, ``true_cfg_scale`` (the scale
    of classifier-free guidance where ``guidance_scale`` is something else, as in FLUX.1) and
    ``clip_skip`` (layers of a CLIP text encoder that are left out at its end). ``vae_dtype`` is set
    where the autoencoder computed in another type than ``dtype``, ``vae_tiling`` where it
    decoded an image in overlapping tiles, as it may for want of memory, which changes the image;
    ``lora_scale`` where a LoRA was applied, ``lora_partial`` where only some of its tensors were.
    """

    sampler: Sampler
    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    true_cfg_scale: Annotated[float, Field(ge=0, le=1000)] | None = None
    clip_skip: Annotated[int, Field(ge=1, le=100)] | None = None
    width: Annotated[int, Field(ge=1, le=8192)]
    height: Annotated[int, Field(ge=1, le=8192)]
    seeds: Annotated[tuple[Count, ...], Field(min_length=1, max_length=1000)]
    negative_prompt: Text = ""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    vae_dtype: Literal["float32", "float16", "bfloat16"] | None = None
    vae_tiling: Literal[True] | None = None
    lora_scale: Annotated[float, Field(ge=-100, le=100)] | None = None
    lora_partial: LoraPartial | None = None
    trigger_words: Annotated[tuple[Name, ...], Field(max_length=50)] = ()
    prompt_template: Text = "{prompt}"
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 1
    libraries: Annotated[dict[Name, Name], Field(default_factory=dict, max_length=100)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed appears twice")
        if self.prompt_template.count("{prompt}") != 1:
            raise ValueError("prompt_template must hold {prompt} exactly once")
        if self.vae_dtype == self.dtype:
            raise ValueError("vae_dtype is for another type than dtype: leave it out")
        if self.lora_partial is not None and self.lora_scale is None:
            raise ValueError("lora_partial needs a lora_scale")
        return self

    @property
    def id(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all fields but ``libraries``.

        Library versions are recorded for people; were they hashed, every patch release would
        make a new recipe out of the same settings.
        """
        fields = self.known()
        del fields["libraries"]
        return canonical_digest(fields)

    def render(self, prompt: str) -> str:
        """The text that the pipeline is given: trigger words, then the filled template.

        All of them are joined by a comma and a space; ``prompt`` may hold ``{prompt}`` itself.
        """
        filled = self.prompt_template.replace("{prompt}", prompt)
        return ", ".join((*self.trigger_words, filled))


# --- The whole -----------------------------------------------------------------------------------

FORMAT_VERSION = "1.0"
"""What this package writes."""

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
            hint=upgrade_hint(),
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


def manifest_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of ``spec.json``, as the file is written.

    Two rules of the file differ from the Python classes: a field without a value is absent and
    never null, and every other field is present even where Python has a default for it. What
    fields mean and the rules that tie them together are in SPEC.md alone.
    """
    schema = Manifest.model_json_schema(mode="validation")
    for part in (schema, *schema["$defs"].values()):
        _as_written(part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:gmi-spec:manifest:1",
        **schema,
    }


def _as_written(part: dict[str, Any]) -> None:
    part.pop("description")  # the docstring: about Python, and no part of the contract
    part["required"] = []
    for name, field in part["properties"].items():
        field.pop("title", None)
        if "default" in field and field.pop("default") is None:
            (kept,) = (option for option in field.pop("anyOf") if option != {"type": "null"})
            field.update(kept)
        else:
            part["required"].append(name)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(manifest_schema(), indent=2, sort_keys=True) + "\n")
