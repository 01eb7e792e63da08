"""The tensor file: safetensors content, read with suspicion and written reproducibly."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from gmi_registry.errors import SpecFormatError
from gmi_registry.spec.canonical import parse_json

TENSORS_LIMIT = 16 * 1024 * 1024
"""Bytes of ``spec.tensors``."""

HEADER_LIMIT = 256 * 1024
"""Bytes of the safetensors header inside it."""

NORM_RANGE = (1e-3, 1e4)
"""L2 norms that an embedding may have: outside it, something other than an encoder spoke."""

_LAYOUT: dict[TensorName, str] = {
    "image_prompt": "I32",
    "image_embeddings": "F16",
    "prompt_embeddings": "F16",
}
_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "I32": np.dtype("<i4")}
_ROWS_AT_ONCE = 128
_NORM_TOLERANCE = 0.01
_HINT = "download the specification again; if that does not help, its author must publish it again"

TensorName = Literal["image_embeddings", "prompt_embeddings", "image_prompt"]
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
        entries[name] = {
            "dtype": dtype,
            "shape": list(shapes[name]),
            "data_offsets": [start, stop],
        }
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
