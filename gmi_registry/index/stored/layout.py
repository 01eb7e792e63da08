"""Files of arrays: safetensors content in the one layout that name, type and shape imply."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayLayout", "part_layout", "prompts_layout"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
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
