"""The file of a frame: arrays in safetensors' layout, written a stretch of rows at a time."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["FrameFile", "Stretch", "opened", "written"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I32": np.dtype("<i4"),
}
_SHARED = ("centre", "plane", "centroids", "directions")
_ROWS = {"lengths": "F32", "cells": "I32", "codes": "F32", "further": "F16", "means": "F32"}
_HEADER_LIMIT = 16 * 1024 * 1024


class Stretch(NamedTuple):
    """Rows that lie together: the digest of the file that their means came from, and how many."""

    digest: str
    rows: int


@dataclass(frozen=True, eq=False)
class FrameFile:
    """The arrays of a frame, mapped: those of :class:`CoarseSpace` and :class:`CoarseCodes`, and
    ``means`` [T, D]. ``learnt``: how many models there were when the former were learnt."""

    statistics: str
    stretches: tuple[Stretch, ...]
    learnt: int
    centre: NDArray[np.float32]
    plane: NDArray[np.float32]
    centroids: NDArray[np.float32]
    directions: NDArray[np.float32]
    lengths: NDArray[np.float32]
    cells: NDArray[np.int32]
    codes: NDArray[np.float32]
    further: NDArray[np.float16]
    means: NDArray[np.float32]

    @cached_property
    def starts(self) -> dict[Stretch, int]:
        """The first row of each stretch."""
        found, start = {}, 0
        for stretch in self.stretches:
            found[stretch] = start
            start += stretch.rows
        return found

    @property
    def is_consistent(self) -> bool:
        """Whether the arrays have the shapes that they should have together."""
        total = sum(stretch.rows for stretch in self.stretches)
        width, kept = self.centre.size, self.codes.shape[-1] + self.further.shape[-1]
        return (
            self.centre.ndim == 1
            and self.plane.shape[:-1] == (width,)
            and self.centroids.shape[1:] == (width,)
            and self.directions.shape == (width, kept)
            and self.lengths.shape == self.cells.shape == (total,)
            and len(self.codes) == len(self.further) == total
            and self.means.shape == (total, width)
        )

    def rows(self, part: slice) -> dict[str, NDArray[Any]]:
        """The arrays that have a row for each model, of some of them."""
        return {name: getattr(self, name)[part] for name in _ROWS}


def written(
    path: Path,
    statistics: str,
    stretches: Sequence[Stretch],
    learnt: int,
    shared: Mapping[str, NDArray[Any]],
    kept: tuple[int, int],
    pieces: Iterable[Mapping[str, NDArray[Any]]],
) -> None:
    """Write a frame: whole or not at all. ``kept`` are r and r + s of its codes, ``pieces`` the
    arrays of a stretch each, in order.

    Raises OSError where there is no room.
    """
    total = sum(stretch.rows for stretch in stretches)
    widths = {"codes": kept[0], "further": kept[1] - kept[0], "means": len(shared["centre"])}
    shapes = {name: shared[name].shape for name in _SHARED}
    shapes |= {name: (total, widths[name]) if name in widths else (total,) for name in _ROWS}
    about = {
        "statistics": statistics,
        "stretches": json.dumps(stretches, separators=(",", ":")),
        "learnt": str(learnt),
    }
    header, starts, size = _laid_out(about, shapes)
    handle, scratch = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as stream:
            stream.truncate(size)
            stream.write(header)
            for name in _SHARED:
                _put(stream, starts[name], shared[name], _dtype(name))
            row = 0
            for piece in pieces:
                for name in _ROWS:
                    step = math.prod(shapes[name][1:]) * _dtype(name).itemsize
                    _put(stream, starts[name] + row * step, piece[name], _dtype(name))
                row += len(piece["lengths"])
            if row != total:
                raise ValueError(f"{row} rows were given, not {total}")
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def opened(path: Path) -> FrameFile | None:
    """The frame at ``path``, mapped; None where there is none, or one that is damaged."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _HEADER_LIMIT:
                return None
            entries = json.loads(stream.read(length))
            about = entries.pop("__metadata__")
            size = os.fstat(stream.fileno()).st_size
            arrays = {}
            for name in (*_SHARED, *_ROWS):
                entry, dtype = entries[name], _dtype(name)
                start, stop = entry["data_offsets"]
                shape = tuple(entry["shape"])
                if stop - start != math.prod(shape) * dtype.itemsize or 8 + length + stop > size:
                    return None
                arrays[name] = np.asarray(np.memmap(stream, dtype, "r", 8 + length + start, shape))
        stretches = tuple(Stretch(*it) for it in json.loads(about["stretches"]))
        file = FrameFile(about["statistics"], stretches, int(about["learnt"]), **arrays)
        return file if file.is_consistent else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _laid_out(
    about: dict[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[bytes, dict[str, int], int]:
    """The header, where in the file each array starts, and the size of the file."""
    entries: dict[str, object] = {"__metadata__": about}
    offsets, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape) * _dtype(name).itemsize
        kind = _ROWS.get(name, "F32")
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, stop)}
        offsets[name] = start
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    # So that the first array is aligned.
    text += b" " * (-(len(text) + 8) % 64)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + it for name, it in offsets.items()}, len(header) + start


def _dtype(name: str) -> np.dtype[Any]:
    return _DTYPES[_ROWS.get(name, "F32")]


def _put(stream: IO[bytes], start: int, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    stream.seek(start)
    stream.write(np.ascontiguousarray(array, dtype).data)
