"""The file of a frame: arrays in safetensors' layout, written a stretch of rows at a time.

Nothing in it is believed unseen. The header and the arrays that every question reads are checked
when the file is opened; of the large ones each row has a sum of its own, and is checked when it is
read: a question reads few of them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.coarse import CoarseCodes

__all__ = ["FrameDamageError", "FrameFile", "Stretch", "opened", "written"]

_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
}
_SHARED = ("centre", "plane", "centroids", "directions", "spreads")
_CODES = {"lengths": "F32", "cells": "I32", "first": "F32", "second": "F32", "third": "F16"}
# Where the models stand that codes are of, and their means in the order of the stretches.
_ROWS = {"rows": "I32", "means": "F32"}
# The sums of their rows, and the rest, which is checked as a whole.
_SUMS = {name: f"{name}.sums" for name in ("first", "second", "third", "means")}
_WHOLE = (*_SHARED, "lengths", "cells", "rows")
_NAMES = (*_SHARED, *_CODES, *_ROWS, *_SUMS.values())
_SEAL = hashlib.sha256().digest_size
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)
_HEADER_LIMIT = 16 * 1024 * 1024
_BLOCK_ROWS = 1 << 15
_PIECE = 1 << 20


class FrameDamageError(OSError):
    """A row of a frame is not what was written."""


class _CheckedRows:
    """Mapped ``rows`` [T, ...] that are checked by their ``sums`` [T] when they are read."""

    def __init__(self, rows: NDArray[Any], sums: NDArray[np.uint64]) -> None:
        self._rows = rows
        self._sums = sums
        self.shape, self.ndim, self.dtype = rows.shape, rows.ndim, rows.dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        # A copy, also of a slice: what was checked is what is used.
        found = np.array(self._rows[key])
        if not np.array_equal(_row_sums(found), self._sums[key]):
            raise FrameDamageError("a row is not what was written")
        return found


def _row_sums(rows: NDArray[Any]) -> NDArray[np.uint64]:
    """A number for each of ``rows`` [R, K] that is another one after any bit of it has changed:
    words times odd numbers. That of zeros is none: a page that was lost holds nothing else."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    words = next(it for it in ("<u8", "<u4", "<u2", "u1") if flat.shape[1] % int(it[-1]) == 0)
    table = flat.view(words)
    factors = _odd_numbers(table.shape[1])
    sums = np.einsum("ij,j->i", table.astype(np.uint64, copy=False), factors)
    return np.asarray(sums + np.uint64(1), np.uint64)


@cache
def _odd_numbers(count: int) -> NDArray[np.uint64]:
    return 2 * np.random.default_rng(0).integers(2**62, size=count, dtype=np.uint64) + np.uint64(1)


class Stretch(NamedTuple):
    """Rows that lie together: the digest of the file that their means came from, and how many."""

    digest: str
    rows: int


@dataclass(frozen=True, eq=False)
class FrameFile:
    """The arrays of a frame, mapped: those of :class:`CoarseSpace`, the ``codes`` [T] in the order
    of their cells, and the ``means`` [T, D] in that of the stretches; ``rows`` [T] says which mean
    each code is of. ``learnt``: how many models there were when the space was learnt."""

    statistics: str
    stretches: tuple[Stretch, ...]
    learnt: int
    centre: NDArray[np.float32]
    plane: NDArray[np.float32]
    centroids: NDArray[np.float32]
    directions: NDArray[np.float32]
    spreads: NDArray[np.float32]
    codes: CoarseCodes
    rows: NDArray[np.int32]
    means: NDArray[np.float32]

    @cached_property
    def starts(self) -> dict[Stretch, int]:
        """The first row of each stretch."""
        found, start = {}, 0
        for stretch in self.stretches:
            found[stretch] = start
            start += stretch.rows
        return found

    @cached_property
    def positions(self) -> NDArray[np.int32]:
        """Where the code of each mean is: [T]; -1 where there is none, in a damaged file."""
        found = np.full(len(self.rows), -1, np.int32)
        found[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        return found

    def is_consistent(self) -> bool:
        """Whether the arrays have the shapes that they should have together, codes stand in the
        order of cells that there are, and each is of one row."""
        total, codes = sum(stretch.rows for stretch in self.stretches), self.codes
        arrays = (codes.first, codes.second, codes.third, self.means)
        if total < 1 or not all(array.ndim == 2 and len(array) == total for array in arrays):
            return False
        width, kept = self.centre.size, sum(array.shape[1] for array in arrays[:3])
        return (
            self.centre.ndim == 1
            and self.plane.shape[:-1] == (width,)
            and self.centroids.shape[1:] == (width,)
            and self.directions.shape == (width, kept)
            and self.spreads.shape == (kept + 1,)
            and codes.lengths.shape == codes.cells.shape == self.rows.shape == (total,)
            and self.means.shape[1] == width
            and codes.cells[0] >= 0
            and codes.cells[-1] < len(self.centroids)
            and bool((codes.cells[1:] >= codes.cells[:-1]).all())
            and self.rows.min() >= 0
            and self.rows.max() < total
            and self.positions.min() >= 0
        )

    def stretch(self, part: slice) -> dict[str, NDArray[Any]]:
        """Of the rows of ``part`` the means, and the codes in the same order."""
        at = self.positions[part]
        codes = {name: array[at] for name, array in vars(self.codes).items()}
        return {"means": self.means[part]} | codes


def written(
    path: Path,
    statistics: str,
    stretches: Sequence[Stretch],
    learnt: int,
    shared: Mapping[str, NDArray[Any]],
    widths: tuple[int, int, int],
    pieces: Iterable[Mapping[str, NDArray[Any]]],
) -> None:
    """Write a frame: whole or not at all. ``widths`` are those of its codes, ``pieces`` the means
    and codes of a stretch each, in order.

    Codes are put in the order of their cells, which takes as much room again as they have, for a
    while. Raises OSError where there is none.
    """
    total = sum(stretch.rows for stretch in stretches)
    columns = dict(zip(("first", "second", "third"), widths, strict=True))
    columns["means"] = len(shared["centre"])
    shapes = {name: shared[name].shape for name in _SHARED}
    shapes |= {
        name: (total, columns[name]) if name in columns else (total,) for name in (*_CODES, *_ROWS)
    }
    about = {
        "statistics": statistics,
        "stretches": json.dumps(stretches, separators=(",", ":")),
        "learnt": str(learnt),
    }
    shapes |= dict.fromkeys(_SUMS.values(), (total,))
    about["whole"] = "00000000"
    header, starts, size = _laid_out(about, shapes)
    handle, scratch = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as stream, closing(_Unsorted(path.parent, shapes)) as codes:
            stream.truncate(size + _SEAL)
            for name in _SHARED:
                _put(stream, starts[name], shared[name], _dtype(name))
            row = 0
            for piece in pieces:
                step = row * columns["means"] * _dtype("means").itemsize
                _put(stream, starts["means"] + step, piece["means"], _dtype("means"))
                _put_sums(stream, starts, "means", row, piece["means"])
                codes.add(piece)
                row += len(piece["means"])
            if row != total:
                raise ValueError(f"{row} rows were given, not {total}")
            order = codes.order()
            _put(stream, starts["rows"], order, _dtype("rows"))
            for name in _CODES:
                start, row = starts[name], 0
                for block in codes.sorted(name, order):
                    _put(stream, start, block, _dtype(name))
                    if name in _SUMS:
                        _put_sums(stream, starts, name, row, block)
                    start += block.nbytes
                    row += len(block)
            stream.flush()
            sizes = {name: math.prod(shapes[name]) * _dtype(name).itemsize for name in _WHOLE}
            about["whole"] = _whole(stream, [(starts[name], sizes[name]) for name in _WHOLE])
            header, _, _ = _laid_out(about, shapes)
            stream.seek(0)
            stream.write(header)
            stream.seek(size)
            stream.write(hashlib.sha256(header).digest())
            # Or a power cut could leave the name, and pages of nothing.
            stream.flush()
            os.fsync(stream.fileno())
        Path(scratch).replace(path)
    finally:
        Path(scratch).unlink(missing_ok=True)


class _Unsorted:
    """Codes in the order in which they come, in a file without a name."""

    def __init__(self, place: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = {name: shapes[name] for name in _CODES}
        # One each, so that rows follow one another.
        self._files = {
            name: tempfile.TemporaryFile(dir=place)  # noqa: SIM115
            for name in _CODES
        }

    def add(self, piece: Mapping[str, NDArray[Any]]) -> None:
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(piece[name], _dtype(name)).data)

    def _array(self, name: str) -> NDArray[Any]:
        file, shape = self._files[name], self._shapes[name]
        file.flush()
        if not math.prod(shape):
            return np.empty(shape, _dtype(name))
        return np.asarray(np.memmap(file, _dtype(name), "r", 0, shape))

    def order(self) -> NDArray[np.intp]:
        return np.argsort(self._array("cells"), kind="stable")

    def sorted(self, name: str, order: NDArray[np.intp]) -> Iterable[NDArray[Any]]:
        array = self._array(name)
        for start in range(0, len(order), _BLOCK_ROWS):
            yield array[order[start : start + _BLOCK_ROWS]]

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def opened(path: Path) -> FrameFile | None:
    """The frame at ``path``, mapped; None where there is none, or one that is damaged."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _HEADER_LIMIT:
                return None
            text = stream.read(length)
            size = os.fstat(stream.fileno()).st_size - _SEAL
            stream.seek(size)
            if hashlib.sha256(length.to_bytes(8, "little") + text).digest() != stream.read():
                return None
            entries = json.loads(text)
            about = entries.pop("__metadata__")
            arrays: dict[str, Any] = {}
            for name in _NAMES:
                entry, dtype = entries[name], _dtype(name)
                start, stop = entry["data_offsets"]
                shape = tuple(entry["shape"])
                fits = stop - start == math.prod(shape) * dtype.itemsize
                if not fits or start < 0 or 8 + length + stop > size:
                    return None
                if start == stop:
                    arrays[name] = np.empty(shape, dtype)
                else:
                    arrays[name] = np.asarray(
                        np.memmap(stream, dtype, "r", 8 + length + start, shape)
                    )
            spans = [entries[name]["data_offsets"] for name in _WHOLE]
            wholes = [(8 + length + start, stop - start) for start, stop in spans]
            if _whole(stream, wholes) != about["whole"]:
                return None
        for name, sums in _SUMS.items():
            checks = arrays.pop(sums)
            if len(checks) != len(arrays[name]):
                return None
            arrays[name] = _CheckedRows(arrays[name], checks)
        stretches = tuple(Stretch(*it) for it in json.loads(about["stretches"]))
        codes = CoarseCodes(**{name: arrays.pop(name) for name in _CODES})
        learnt = int(about["learnt"])
        file = FrameFile(about["statistics"], stretches, learnt, codes=codes, **arrays)
        return file if file.is_consistent() else None
    except _DAMAGE:
        return None


def _laid_out(
    about: dict[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[bytes, dict[str, int], int]:
    """The header, where in the file each array starts, and the size of the file."""
    entries: dict[str, object] = {"__metadata__": about}
    offsets, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape) * _dtype(name).itemsize
        entries[name] = {"dtype": _kind(name), "shape": shape, "data_offsets": (start, stop)}
        offsets[name] = start
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    # So that the first array is aligned.
    text += b" " * (-(len(text) + 8) % 64)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + it for name, it in offsets.items()}, len(header) + start


def _kind(name: str) -> str:
    return "U64" if name in _SUMS.values() else (_CODES | _ROWS).get(name, "F32")


def _dtype(name: str) -> np.dtype[Any]:
    return _DTYPES[_kind(name)]


def _put_sums(
    stream: IO[bytes], starts: Mapping[str, int], name: str, row: int, block: NDArray[Any]
) -> None:
    sums, dtype = _SUMS[name], _dtype(_SUMS[name])
    rows = np.ascontiguousarray(block, _dtype(name))
    _put(stream, starts[sums] + row * dtype.itemsize, _row_sums(rows), dtype)


def _whole(stream: IO[bytes], spans: Iterable[tuple[int, int]]) -> str:
    """A checksum of parts of a file, given by where they start and their sizes."""
    found = 0
    for start, size in spans:
        stream.seek(start)
        while size and (piece := stream.read(min(size, _PIECE))):
            found = zlib.crc32(piece, found)
            size -= len(piece)
    return f"{found:08x}"


def _put(stream: IO[bytes], start: int, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    stream.seek(start)
    stream.write(np.ascontiguousarray(array, dtype).data)
