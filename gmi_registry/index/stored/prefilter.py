"""The prefilter of a large group as a file in the reader's cache, so that ranking need not read all
means.

It is made of checked files of the index, once, and never fetched from anywhere. Nothing in it is
believed unseen: its description is sealed with a SHA-256; a checksum over what every query reads is
compared when the file is opened; the means, of which a query reads few, have a sum for each row,
which is compared when the row is read. What is damaged is made again. Rows that did not change are
copied from the file before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gmi_registry.atomic import new_file, read_sealed, write_sealed
from gmi_registry.index.groups import as_rows
from gmi_registry.index.stored.format import ArrayLayout
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.kernels import Floats, swept
from gmi_registry.scoring.prefilter import LEARN_FROM, Prefilter, Refinement, Summaries, sample_rows
from gmi_registry.spec.canonical import canonical_digest

PREFILTER_MODELS = 20_000
"""Groups with fewer models are ranked from their means: that takes no longer."""

_VERSION = 5
_FOLDER = "stored-index-prefilters"
# Directions that were learnt from fewer than half of today's models are learnt anew.
_OUTGROWN = 2
_ABANDONED = 3600.0
"""Seconds since something was last written."""
_DESCRIPTION_LIMIT = 16 * 1024 * 1024

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Segment(NamedTuple):
    """Rows that lie together: the digest of the file that their means came from, and how many."""

    digest: str
    rows: int


@dataclass(frozen=True, eq=False)
class PrefilterSource:
    """What a prefilter is made of: of the group in ``folder`` its ``segments``, one for each part,
    the digest of its statistics and their ``scatter``; ``means`` gives those of a part, [R, D]."""

    folder: str
    segments: Sequence[Segment]
    statistics: str
    scatter: WithinScatter
    means: Callable[[int], NDArray[np.float32]]

    @property
    def rows(self) -> int:
        return sum(segment.rows for segment in self.segments)

    @property
    def name(self) -> str:
        """Of the file: the same for the same content."""
        parts = [[segment.digest, segment.rows] for segment in self.segments]
        digest = canonical_digest([_VERSION, self.folder, self.statistics, parts])
        return f"{self.folder}-{digest[:32]}.safetensors"


class StoredPrefilter:
    """M models of a group that can be ranked without reading all their means.

    A :class:`~gmi_registry.index.groups.Estimator`; ``places`` [M] says which row of the file each
    member is.
    """

    def __init__(
        self,
        source: PrefilterSource,
        directory: Path,
        places: NDArray[np.intp],
        told: Callable[[int, int], None],
    ) -> None:
        """Open the file in ``directory``, a reader's cache; make it where it is missing or damaged.

        Making takes a few seconds for 100,000 models, and half a minute for a million; the earlier
        ones of the group go. ``told`` hears of (rows done, all). Raises OSError where it cannot be
        written, and what the means raise.
        """
        self._source = source
        self._path = directory / _FOLDER / source.name
        self._places = places
        self._told = told
        self._lock = threading.Lock()
        self._file = _open_or_make(source, self._path, told)

    def near(
        self, rows: Sequence[int], query_images: Floats, concentration: float, count: int
    ) -> Refinement:
        return self._undamaged(
            lambda file: file.prefilter.nearest(
                file.summaries,
                file.means.__getitem__,
                query_images,
                concentration,
                count,
                self._rows(rows),
            )
        )

    def distances(self, rows: Sequence[int], query_images: Floats, concentration: float) -> Floats:
        return self._undamaged(
            lambda file: file.prefilter.distances(
                file.summaries,
                file.means.__getitem__,
                query_images,
                concentration,
                self._rows(rows),
            )
        )

    def means(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Those of the members at ``rows`` [R], few of them, raw: [R, D]."""
        return self._undamaged(lambda file: file.means[self._rows(rows)])

    def of_means(self, rows: Sequence[int], each: Callable[[Floats], Floats]) -> Floats:
        return self._undamaged(lambda file: self._of_means(file.means, self._rows(rows), each))

    @staticmethod
    def _of_means(
        means: _CheckedRows, rows: NDArray[np.intp], each: Callable[[Floats], Floats]
    ) -> Floats:
        # As they lie in the file, of which all is read where most are asked for.
        whole = 2 * len(rows) > len(means)
        order = np.argsort(rows)
        out = np.empty(len(means) if whole else len(rows), np.float32)

        def work(part: slice) -> None:
            if whole:
                out[part] = each(means[part])
            else:
                out[order[part]] = each(means[rows[order[part]]])

        swept(work, len(out), means.width, streamed=False, spread=True)
        return out[rows] if whole else out

    def _rows(self, members: Sequence[int]) -> NDArray[np.intp]:
        """Which rows of the file they are."""
        everybody = isinstance(members, range) and members == range(len(self._places))
        return self._places if everybody else self._places[as_rows(members)]

    def _undamaged(self, read: Callable[[_PrefilterFile], _T]) -> _T:
        """What ``read`` gives; after the file was made again, where it turns out to be damaged."""
        file = self._file
        try:
            return read(file)
        except _DamageError:
            with self._lock:
                if self._file is file:
                    _log.debug("a prefilter is damaged and will be made again")
                    with contextlib.suppress(OSError):
                        self._path.unlink()
                    self._file = _open_or_make(self._source, self._path, self._told)
            return read(self._file)


class _DamageError(OSError):
    """A row is not what was written."""


class _CheckedRows:
    """Mapped ``rows`` [T, D] that are compared with their ``sums`` [T] when they are read."""

    def __init__(self, rows: NDArray[np.float32], sums: NDArray[np.uint64]) -> None:
        self._rows = rows
        self._sums = sums
        self.width = rows.shape[1]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | NDArray[np.intp]) -> NDArray[np.float32]:
        # A copy, also of a slice: what was checked is what is used.
        found = self._rows[key].copy() if isinstance(key, slice) else self._rows[key]
        if not np.array_equal(_row_sums(found), self._sums[key]):
            raise _DamageError("a row is not what was written")
        return found


@dataclass(frozen=True)
class _Description:
    """What stands beside the arrays: of which statistics and segments they are, with D ``numbers``
    a mean and k ``leading`` ones (0: they do not carry the order); how many models there were when
    the directions were ``learnt``; and the ``checksum`` of what every query reads."""

    statistics: str
    segments: tuple[Segment, ...]
    numbers: int
    leading: int
    learnt: int
    checksum: str = ""
    version: int = _VERSION

    @property
    def layout(self) -> ArrayLayout:
        total = sum(segment.rows for segment in self.segments)
        # A file without any number of an array cannot be mapped.
        leading = (
            ("directions", "F32", (self.numbers, self.leading)),
            ("scales", "F32", (total,)),
            ("codes", "I8", (total, self.leading)),
        )
        return ArrayLayout(
            (
                ("centre", "F32", (self.numbers,)),
                ("lengths", "F32", (total,)),
                *(leading if self.leading else ()),
                ("means", "F32", (total, self.numbers)),
                ("sums", "U64", (total,)),
            )
        )


@dataclass(frozen=True, eq=False)
class _PrefilterFile:
    """An open file; ``summaries`` and ``means`` in the order of the segments."""

    about: _Description
    prefilter: Prefilter
    summaries: Summaries
    means: _CheckedRows

    @classmethod
    def open(cls, path: Path, scatter: WithinScatter) -> _PrefilterFile | None:
        """None where there is no file, or one that is damaged or of another form."""
        try:
            about = json.loads(read_sealed(_beside(path), limit=_DESCRIPTION_LIMIT) or b"")
            about["segments"] = tuple(Segment(*it) for it in about["segments"])
            about = _Description(**about)
            with path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size != about.layout.size:
                    return None
                arrays = about.layout.mapped(stream)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            _log.debug("cannot read the prefilter %s: %s", path.name, error)
            return None
        if arrays is None or _checksum(arrays) != about.checksum:
            return None
        if not about.leading:
            arrays["directions"] = np.empty((about.numbers, 0), np.float32)
            arrays["codes"] = np.empty((len(arrays["lengths"]), 0), np.int8)
            arrays["scales"] = arrays["lengths"]
        return cls(
            about,
            Prefilter(arrays["centre"], arrays["directions"], scatter),
            Summaries(arrays["lengths"], arrays["scales"], arrays["codes"]),
            _CheckedRows(arrays["means"], arrays["sums"]),
        )

    def rows_of(self, segment: Segment) -> dict[str, NDArray[Any]] | None:
        """The arrays of that segment; None where it is not in the file, or damaged."""
        start = 0
        for other in self.about.segments:
            part = slice(start, start + other.rows)
            if other == segment:
                with contextlib.suppress(_DamageError):
                    summaries = {name: array[part] for name, array in vars(self.summaries).items()}
                    return {"means": self.means[part]} | summaries
                return None
            start = part.stop
        return None


def _open_or_make(
    source: PrefilterSource, path: Path, told: Callable[[int, int], None]
) -> _PrefilterFile:
    """The file at ``path``, made where it is missing, damaged or not that of ``source``."""
    file = _PrefilterFile.open(path, source.scatter)
    if file is not None and _fits(file, source) and file.about.segments == tuple(source.segments):
        return file
    _log.info("preparing %s specifications for ranking", f"{source.rows:,}")
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_abandoned(path.parent)
    others = sorted(it for it in path.parent.glob(f"{source.folder}-*.safetensors") if it != path)
    _make(source, path, others, told)
    for other in others:
        # What another process reads can stay, where systems do not let it go.
        for gone in (_beside(other), other):
            with contextlib.suppress(OSError):
                gone.unlink()
    file = _PrefilterFile.open(path, source.scatter)
    if file is None:
        raise OSError(f"{path} cannot be read back")
    return file


def _fits(file: _PrefilterFile, source: PrefilterSource) -> bool:
    """Whether its directions are such as could be of ``source`` today."""
    about = file.about
    return (
        about.version == _VERSION
        and about.statistics == source.statistics
        and about.numbers == len(source.scatter.scatter)
    )


def _delete_abandoned(folder: Path) -> None:
    """Delete what processes that were killed left half-written, and nobody writes any more."""
    for scratch in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _ABANDONED:
                scratch.unlink()


def _make(
    source: PrefilterSource,
    path: Path,
    earlier: Sequence[Path],
    told: Callable[[int, int], None],
) -> None:
    told(0, source.rows)
    before = _most_alike(source, earlier)
    if before is None:
        prefilter, learnt = Prefilter.learn(_sample(source), source.scatter), source.rows
    else:
        prefilter, learnt = before.prefilter, before.about.learnt

    def pieces() -> Iterator[Mapping[str, NDArray[Any]]]:
        done = 0
        for number, segment in enumerate(source.segments):
            piece = None if before is None else before.rows_of(segment)
            if piece is None:
                means = source.means(number)
                piece = {"means": means} | vars(prefilter.summaries(means))
            done += segment.rows
            yield piece
            told(done, source.rows)

    numbers, leading = prefilter.directions.shape
    about = _Description(source.statistics, tuple(source.segments), numbers, leading, learnt)
    _write(path, about, prefilter, pieces())


def _most_alike(source: PrefilterSource, earlier: Sequence[Path]) -> _PrefilterFile | None:
    """The earlier file of the same statistics from which most can be copied."""
    files = [_PrefilterFile.open(path, source.scatter) for path in earlier]
    fitting = [
        file
        for file in files
        if file is not None and _fits(file, source) and source.rows <= _OUTGROWN * file.about.learnt
    ]
    wanted = set(source.segments)
    return max(fitting, key=lambda file: len(wanted & set(file.about.segments)), default=None)


def _sample(source: PrefilterSource) -> NDArray[np.float32]:
    """Means of rows drawn among all, as many as are learnt from."""
    drawn = sample_rows(source.rows, LEARN_FROM)
    found, start = [], 0
    for number, segment in enumerate(source.segments):
        first, last = np.searchsorted(drawn, [start, start + segment.rows])
        if last > first:
            found.append(np.array(source.means(number)[drawn[first:last] - start]))
        start += segment.rows
    return np.concatenate(found)


def _write(
    path: Path,
    about: _Description,
    prefilter: Prefilter,
    pieces: Iterator[Mapping[str, NDArray[Any]]],
) -> None:
    """Write both files, each whole or not at all; ``pieces`` are the arrays of one segment after
    the other."""
    layout = about.layout
    # Not flushed: after a power cut checksums tell a torn file from a whole one.
    with new_file(path, flush=False, private=True) as stream:
        stream.truncate(layout.size)
        stream.write(layout.header)
        layout.put(stream, 0, {"centre": prefilter.centre, "directions": prefilter.directions})
        row = 0
        for piece in pieces:
            layout.put(stream, row, {**piece, "sums": _row_sums(piece["means"])})
            row += len(piece["means"])
        stream.flush()
        arrays = layout.mapped(stream)
        assert arrays is not None
        described = asdict(replace(about, checksum=_checksum(arrays)))
        write_sealed(_beside(path), json.dumps(described).encode())


def _beside(path: Path) -> Path:
    """Where the description of the arrays at ``path`` is."""
    return path.with_suffix(".json")


def _checksum(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Of what every query reads."""
    found = 0
    for name, array in arrays.items():
        if name not in ("means", "sums"):
            found = zlib.crc32(array.data, found)
    return f"{found:08x}"


def _row_sums(rows: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A number for each of ``rows`` [R, D] that is another one after any bit of it has changed:
    words times odd numbers. That of zeros is none: a page that was lost holds nothing else."""
    words = np.ascontiguousarray(rows).view(np.uint64 if rows.shape[1] % 2 == 0 else np.uint32)
    factors = _odd_numbers(words.shape[1])
    sums = np.einsum("ij,j->i", words.astype(np.uint64, copy=False), factors)
    return np.asarray(sums + np.uint64(1), np.uint64)


@cache
def _odd_numbers(count: int) -> NDArray[np.uint64]:
    return 2 * np.random.default_rng(0).integers(2**62, size=count, dtype=np.uint64) + np.uint64(1)
