"""A specification in memory: the manifest with its arrays, and how both are spelled.

The tensor file is safetensors content, read with suspicion and written reproducibly.
"""

from __future__ import annotations

import hashlib
import json
import math
import shlex
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError
from safetensors.numpy import save

from gmi_registry import __version__
from gmi_registry.errors import DigestMismatchError, SpecFormatError
from gmi_registry.sanitize import first_fault, holds_secret
from gmi_registry.spec.canonical import NORM_RANGE, TENSORS_LIMIT, parse_json
from gmi_registry.spec.manifest import (
    ROWS_LIMIT,
    DescribedModel,
    EncoderRef,
    Generation,
    GenerationRecipe,
    Kernel,
    Manifest,
    OwnWeights,
    PromptBlock,
    TensorEntry,
    TensorFile,
    TensorName,
    Tool,
    are_among,
)
from gmi_registry.spec.prompts import PromptSet
from gmi_registry.spec.reference import ModelRef

# --- The tensor file -----------------------------------------------------------------------------

HEADER_LIMIT = 256 * 1024
"""Bytes of the safetensors header inside it."""


_LAYOUT: dict[TensorName, str] = {
    "image_prompt": "I32",
    "image_embeddings": "F16",
    "prompt_embeddings": "F16",
}
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "I32": np.dtype("<i4")}
_ROWS_AT_ONCE = 128
_NORM_TOLERANCE = 0.01
_HINT = "download the specification again; if that does not help, its author must publish it again"

_Shapes = Mapping[TensorName, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Arrays:
    """The three arrays: images [N, D] float16, prompts [P, E] float16, image_prompt [N] int32."""

    image_embeddings: npt.NDArray[np.float16]
    prompt_embeddings: npt.NDArray[np.float16]
    image_prompt: npt.NDArray[np.int32]


def storable(arrays: Arrays) -> Arrays:
    """The same values as read-only, contiguous arrays of the stored types.

    Raises SpecFormatError where a value does not fit: an index that is no int32, an embedding
    beyond float16's range.
    """
    with np.errstate(over="ignore"):  # an overflow becomes inf, which the check below reports
        images = np.array(arrays.image_embeddings, dtype="<f2", order="C")
        prompts = np.array(arrays.prompt_embeddings, dtype="<f2", order="C")
    indices = np.array(arrays.image_prompt, dtype="<i4", order="C")
    if not np.array_equal(indices, arrays.image_prompt):
        raise SpecFormatError("image_prompt holds values that are no 32-bit integers")
    for array in (images, prompts, indices):
        array.flags.writeable = False
    return Arrays(images, prompts, indices)


def encode_tensors(arrays: Arrays) -> bytes:
    """The content of ``spec.tensors``. The same arrays give the same bytes.

    Raises SpecFormatError where :func:`storable` does.
    """
    stored = storable(arrays)
    # Without metadata: the library keeps it in a map whose order changes from run to run.
    return save({name: getattr(stored, name) for name in sorted(_LAYOUT)})


def decode_tensors(data: bytes, shapes: _Shapes, *, normalized: bool) -> Arrays:
    """Read ``spec.tensors``.

    ``shapes`` are the shapes that the manifest states: [N, D], [P, E] and [N]. The arrays are
    read-only views of ``data``. Raises SpecFormatError unless the bytes hold exactly the three
    tensors with those shapes and the format's types, and pass :func:`check_values`.
    """
    if len(data) > TENSORS_LIMIT:
        raise _broken(f"has {len(data):,} bytes, more than {TENSORS_LIMIT:,}")
    header = _header(shapes)
    if not data.startswith(header):
        _explain_header(data, shapes)
        raise _broken("the header is not laid out in the one way that SPEC.md gives")
    # From here the header is our own, so no parser ever sees the writer's bytes, and the arrays
    # can be views of them.
    arrays = {}
    start = len(header)
    for name, dtype in _LAYOUT.items():
        count = math.prod(shapes[name])
        stop = start + count * _DTYPES[dtype].itemsize
        if stop > len(data):
            raise _broken(f"is cut short within {name}")
        arrays[name] = np.frombuffer(data, _DTYPES[dtype], count, start).reshape(shapes[name])
        start = stop
    if start != len(data):
        raise _broken(f"has {len(data) - start:,} bytes after the last tensor")
    found = Arrays(**arrays)
    check_values(found, normalized=normalized)
    return found


def check_values(arrays: Arrays, *, normalized: bool) -> None:
    """Raise SpecFormatError for NaN, infinity or an L2 norm outside ``NORM_RANGE`` in any row.

    With ``normalized``, image rows must have norm 1 within 0.01.
    """
    unit = (1 - _NORM_TOLERANCE, 1 + _NORM_TOLERANCE)
    _check_norms("image_embeddings", arrays.image_embeddings, unit if normalized else NORM_RANGE)
    _check_norms("prompt_embeddings", arrays.prompt_embeddings, NORM_RANGE)
    if arrays.image_prompt.min() < 0 or arrays.image_prompt.max() >= len(arrays.prompt_embeddings):
        raise _broken("image_prompt points outside the prompts")


def _header(shapes: _Shapes) -> bytes:
    """The only header that a file with these shapes may have, its length included.

    The library writes the same; were it ever to write another, the same arrays would get another
    digest.
    """
    entries: dict[str, object] = {}
    start = 0
    for name, dtype in _LAYOUT.items():
        stop = start + math.prod(shapes[name]) * _DTYPES[dtype].itemsize
        entries[name] = {"dtype": dtype, "shape": list(shapes[name]), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _explain_header(data: bytes, shapes: _Shapes) -> None:
    """Raise SpecFormatError for what is wrong with a header, where that can be told.

    Written for hostile headers all the same: the length is judged before anything is parsed.
    """
    if len(data) < 8:
        raise _broken(f"has {len(data)} bytes, too few for a header")
    (length,) = struct.unpack_from("<Q", data)
    if length > HEADER_LIMIT:
        raise _broken(f"declares a header of {length:,} bytes, more than {HEADER_LIMIT:,}")
    if 8 + length > len(data):
        raise _broken(f"declares a header of {length:,} bytes, but is cut short")
    try:
        header = parse_json(data[8 : 8 + length])
    except ValueError as error:
        raise _broken(f"header: {error}") from None
    if not isinstance(header, dict):
        raise _broken("the header is not a JSON object")
    for name in header:
        if name not in _LAYOUT:
            raise _broken(f"holds {name[:80]!r}, which is no tensor of this format")
    for name, dtype in _LAYOUT.items():
        entry = header.get(name)
        if not isinstance(entry, dict):
            raise _broken(f"{name} is missing")
        if entry.get("dtype") != dtype:
            raise _broken(f"{name} has type {str(entry.get('dtype'))[:20]}, not {dtype}")
        if entry.get("shape") != list(shapes[name]):
            raise _broken(f"{name} has another shape than spec.json says, {list(shapes[name])}")


def _check_norms(name: str, rows: npt.NDArray[np.float16], allowed: tuple[float, float]) -> None:
    # In pieces, so that a float32 copy of the whole file never exists.
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE].astype(np.float32)
        norms = np.sqrt(np.einsum("ij,ij->i", piece, piece))
        # Written so that NaN, for which every comparison is false, counts as bad.
        bad = ~((norms >= allowed[0]) & (norms <= allowed[1]))
        if bad.any():
            row = int(np.argmax(bad))
            raise _broken(
                f"{name} row {start + row} has norm {norms[row]:g}, "
                f"outside {allowed[0]:g} to {allowed[1]:g}"
            )


def _broken(reason: str) -> SpecFormatError:
    return SpecFormatError(f"spec.tensors: {reason}", hint=_HINT)


# --- The specification ---------------------------------------------------------------------------

# Where a model can get another id and stay the same.
_RENAMES = frozenset({"hf", "local"})
_THIS_TOOL = Tool(name="gmi-registry", version=__version__)


@dataclass(frozen=True, eq=False)
class Spec:
    """What one model's images look like, and how they were made.

    ``image_embeddings`` [N, D] float16 (Z in the paper, one row an image), ``prompt_embeddings``
    [P, E] float16 (Q, one row a prompt, the blocks' prompts one after the other) and
    ``image_prompt`` [N] int32 (the row of ``prompt_embeddings`` that image i answers) are
    read-only. Two specifications are equal when their digests are.
    """

    manifest: Manifest
    image_embeddings: npt.NDArray[np.float16]
    prompt_embeddings: npt.NDArray[np.float16]
    image_prompt: npt.NDArray[np.int32]

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of ``spec.json``, which in turn pins ``spec.tensors``."""
        return hashlib.sha256(self.manifest.to_bytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, Spec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def default_rows(self) -> slice:
        """The image rows of the first prompt set, which every specification answers."""
        return slice(*self.manifest.prompt_sets[0].rows)

    @property
    def arrays(self) -> Arrays:
        """The three arrays by themselves."""
        return Arrays(self.image_embeddings, self.prompt_embeddings, self.image_prompt)

    def check(self) -> None:
        """Raise SpecFormatError unless manifest and arrays agree (SPEC.md sections 3 and 4).

        Digest and size are checked too, so a Spec that passes can be written and read again.
        """
        _check_against(self.manifest, self.arrays)
        check_values(self.arrays, normalized=self.manifest.encoder.normalized)
        _check_bytes(self.manifest, encode_tensors(self.arrays))


def build_spec(
    *,
    model: DescribedModel,
    encoder: EncoderRef,
    prompt_sets: Sequence[PromptSet],
    recipe: GenerationRecipe,
    image_embeddings: npt.ArrayLike,
    prompt_embeddings: npt.ArrayLike,
    image_prompt: npt.ArrayLike,
    gamma: float = 0.02,
    previous: str | None = None,
    tool: Tool = _THIS_TOOL,
) -> Spec:
    """Put a specification together.

    ``prompt_sets`` has the default set first. Rows of ``image_embeddings`` [N, D] stand in the
    same order, N being the number of prompts times the number of seeds; each prompt's images
    follow ``recipe.seeds``. ``prompt_embeddings`` is [P, E], ``image_prompt`` [N]; floats are
    rounded to float16. Raises SpecFormatError where the parts do not fit together.
    """
    arrays = storable(
        Arrays(
            np.asarray(image_embeddings), np.asarray(prompt_embeddings), np.asarray(image_prompt)
        )
    )
    blocks: list[PromptBlock] = []
    start = 0
    for prompt_set in prompt_sets:
        stop = start + len(prompt_set) * len(recipe.seeds)
        blocks.append(
            PromptBlock(
                id=prompt_set.id,
                name=prompt_set.name,
                version=prompt_set.version,
                prompts=prompt_set.prompts,
                rows=(start, stop),
            )
        )
        start = stop
    data = encode_tensors(arrays)
    try:
        manifest = Manifest(
            model=model,
            encoder=encoder,
            prompt_sets=tuple(blocks),
            generation=Generation(id=recipe.id, recipe=recipe),
            kernel=Kernel(gamma=gamma),
            tensors=TensorFile(
                sha256=hashlib.sha256(data).hexdigest(),
                size=len(data),
                entries={
                    "image_embeddings": _entry(arrays.image_embeddings),
                    "prompt_embeddings": _entry(arrays.prompt_embeddings),
                    "image_prompt": _entry(arrays.image_prompt),
                },
            ),
            previous=previous,
            tool=tool,
        )
    except ValidationError as error:
        reason = first_fault(error)
        raise SpecFormatError(f"the parts make no specification: {reason}") from error
    spec = Spec(manifest, arrays.image_embeddings, arrays.prompt_embeddings, arrays.image_prompt)
    spec.check()
    return spec


def encode_spec(spec: Spec) -> tuple[bytes, bytes]:
    """The contents of ``spec.json`` and ``spec.tensors``; the same Spec gives the same bytes.

    Raises SpecFormatError for a Spec whose parts disagree, and for one that would hold a secret
    that this process knows.
    """
    spec.check()
    manifest = spec.manifest.to_bytes()
    if holds_secret(manifest.decode("utf-8")):
        raise SpecFormatError(
            "the specification would hold a token or password of yours, which a hub has put into "
            "the model's title, tags or files",
            hint="do not publish it; report the hub, and make a new token",
        )
    return manifest, encode_tensors(spec.arrays)


def decode_spec(
    manifest_bytes: bytes,
    tensors_bytes: bytes,
    *,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
) -> Spec:
    """Read the contents of ``spec.json`` and ``spec.tensors``, trusting neither.

    ``expected`` is the model in whose place the files were found; its revision is not compared.
    ``own_weights`` is as for :func:`require_model`.
    Raises UnsupportedVersionError, DigestMismatchError or SpecFormatError.
    """
    manifest = Manifest.from_bytes(manifest_bytes)
    require_model(manifest, expected, own_weights)
    return checked_spec(manifest, manifest_bytes, tensors_bytes)


def checked_spec(manifest: Manifest, manifest_bytes: bytes, tensors_bytes: bytes) -> Spec:
    """A Spec of a manifest that was read from ``manifest_bytes``, and of a file not yet trusted.

    Raises DigestMismatchError or SpecFormatError.
    """
    _check_bytes(manifest, tensors_bytes)
    shapes = {name: entry.shape for name, entry in manifest.tensors.entries.items()}
    arrays = decode_tensors(tensors_bytes, shapes, normalized=manifest.encoder.normalized)
    _check_against(manifest, arrays)
    spec = Spec(manifest, arrays.image_embeddings, arrays.prompt_embeddings, arrays.image_prompt)
    # A manifest is read from its canonical form only, so writing it again would give these bytes.
    vars(spec)["digest"] = hashlib.sha256(manifest_bytes).hexdigest()
    return spec


def require_model(
    manifest: Manifest, expected: ModelRef | None, own_weights: OwnWeights | None = None
) -> None:
    """Raise SpecFormatError where the manifest describes another model than ``expected``.

    A model that was renamed is still itself: another id passes where the weights that are described
    are those that the model has. ``own_weights`` is asked for them only then; None knows nothing of
    them. On Civitai ids are numbers that never change, so there another number is another model.
    Where ``expected`` names a file, that file alone is the model.
    """
    if expected is None:
        return
    found = manifest.model.ref.repository
    if found != expected.repository:
        _require_same_weights(manifest, expected, own_weights)
    files = [weight.path for weight in manifest.model.weights]
    if expected.file is not None and expected.file not in files:
        raise SpecFormatError(
            f"the specification in {found} describes {', '.join(files[:3])}, "
            f"and not {expected.file}",
            hint=f"describe that one in its place: gmi-publish {shlex.quote(str(expected))}",
        )


def _require_same_weights(
    manifest: Manifest, expected: ModelRef, own_weights: OwnWeights | None
) -> None:
    found, other = manifest.model.ref.repository, ""
    if found.hub == expected.hub and expected.hub in _RENAMES and own_weights is not None:
        own = own_weights()
        if are_among(manifest.model.weights, own):
            return
        other = ", whose weights are not those that it describes"
        if own is None:
            other = ", and which weights that model has is not known here"
    raise SpecFormatError(
        f"the specification describes {found}, but was found at {expected}{other}",
        hint="this model needs a specification of its own: gmi-publish "
        f"{expected.without_revision}",
    )


def _entry(array: npt.NDArray[np.generic]) -> TensorEntry:
    dtype = "I32" if array.dtype.kind == "i" else "F16"
    return TensorEntry.model_validate({"shape": array.shape, "dtype": dtype})


def _check_bytes(manifest: Manifest, data: bytes) -> None:
    if len(data) > TENSORS_LIMIT:
        raise SpecFormatError(
            f"spec.tensors has {len(data):,} bytes, more than {TENSORS_LIMIT:,}",
            hint=f"use fewer images (at most {ROWS_LIMIT:,}, fewer for wide embeddings)",
        )
    if len(data) != manifest.tensors.size:
        raise DigestMismatchError(
            f"spec.tensors has {len(data):,} bytes, but spec.json names {manifest.tensors.size:,}",
            hint="download both files again, from the same revision",
        )
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.tensors.sha256:
        raise DigestMismatchError(
            f"spec.tensors has SHA-256 {found[:12]}…, but spec.json names "
            f"{manifest.tensors.sha256[:12]}…",
            hint="download both files again, from the same revision",
        )


def _check_against(manifest: Manifest, arrays: Arrays) -> None:
    for name, entry in manifest.tensors.entries.items():
        array: npt.NDArray[np.generic] = getattr(arrays, name)
        wanted = "<i4" if entry.dtype == "I32" else "<f2"
        if array.shape != entry.shape or array.dtype != np.dtype(wanted):
            raise SpecFormatError(
                f"{name} is {array.dtype} {list(array.shape)}, but spec.json says "
                f"{entry.dtype} {list(entry.shape)}"
            )
    seeds = len(manifest.generation.recipe.seeds)
    first_prompt = 0
    for block in manifest.prompt_sets:
        rows = arrays.image_prompt[slice(*block.rows)]
        last_prompt = first_prompt + len(block.prompts)
        inside = (rows >= first_prompt) & (rows < last_prompt)
        counts = np.bincount(rows[inside] - first_prompt, minlength=len(block.prompts))
        if not inside.all() or (counts != seeds).any():
            raise SpecFormatError(
                f"image_prompt does not name each prompt of {block.name!r} once per seed ({seeds})"
            )
        first_prompt = last_prompt
