"""What a reader works out of a large group's means, once, so that ranking need not read them all.

It is a file in the reader's cache, made of checked files and never fetched from anywhere: one that
is damaged is made again. Means stand in the order of the parts, those that count no more included,
and codes in that of their cells; what did not change is copied from the file before.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.groups import as_rows
from gmi_registry.index.stored.frame_file import (
    FrameDamageError,
    FrameFile,
    Stretch,
    opened,
    written,
)
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.coarse import LEARNT_FROM, CoarseSpace, drawn_rows
from gmi_registry.scoring.confidence import TailMass
from gmi_registry.scoring.inverted import InvertedFile, Positions
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.sweep import swept
from gmi_registry.spec.canonical import canonical_digest

__all__ = ["FRAMED_MODELS", "Frame", "FrameSource"]

FRAMED_MODELS = 20_000
"""Groups with fewer models are ranked from their means: that takes no longer."""

_VERSION = 4
_FOLDER = "stored-index-frames"
# Cells that were learnt from fewer than half of today's models are learnt anew.
_OUTGROWN = 2
# Means that are in memory together.
_AT_ONCE = 16_384
_ABANDONED = 3600.0
"""Seconds since something was last written."""

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class FrameSource:
    """What a frame is made of: of the group in ``folder`` its ``stretches``, one for each part, the
    digest of its statistics and their ``scatter``; ``means`` gives those of a part, [R, D]."""

    folder: str
    stretches: Sequence[Stretch]
    statistics: str
    scatter: WithinScatter
    means: Callable[[int], NDArray[np.float32]]

    @property
    def rows(self) -> int:
        return sum(stretch.rows for stretch in self.stretches)

    @property
    def name(self) -> str:
        """Of the file: the same for the same content."""
        parts = [[stretch.digest, stretch.rows] for stretch in self.stretches]
        digest = canonical_digest([_VERSION, self.folder, self.statistics, parts])
        return f"{self.folder}-{digest[:32]}.frame"


class Frame:
    """M models of a group that can be ranked without reading all their means.

    A :class:`~gmi_registry.index.groups.Estimator`; ``places`` [M] says which row of the file each
    member is.
    """

    def __init__(
        self,
        file: FrameFile,
        scatter: WithinScatter,
        places: NDArray[np.intp],
        again: Callable[[], FrameFile] | None = None,
    ) -> None:
        self._scatter = scatter
        self._places = places
        self._again = again
        self._lock = threading.Lock()
        self._use(file)

    def _use(self, file: FrameFile) -> None:
        self._file = file
        self._space = _space(file, self._scatter)
        self._lengths = file.codes.lengths
        self._means = file.means
        self._order = file.rows
        places = self._places
        # Of each member its code, and of each code its member.
        self._positions = file.positions[places]
        self._members = np.full(len(file.rows), -1, np.int32)
        self._members[self._positions] = np.arange(len(places), dtype=np.int32)
        alive = None if len(places) == len(file.rows) else self._members >= 0
        self._inverted = InvertedFile(file.codes, file.centroids, alive)

    def _undamaged(self, read: Callable[[], _T]) -> _T:
        """What ``read`` gives; after the file was made again, where it turns out to be damaged."""
        file = self._file
        try:
            return read()
        except FrameDamageError:
            if self._again is None:
                raise
        with self._lock:
            if self._file is file:
                _log.debug("a frame is damaged and will be made again")
                self._use(self._again())
        return read()

    @classmethod
    def of(
        cls,
        source: FrameSource,
        directory: Path,
        places: NDArray[np.intp],
        told: Callable[[int, int], None],
    ) -> Frame:
        """The one in ``directory``, a reader's cache, made where it is missing.

        Making takes some seconds for 100,000 models, and a minute for a million; the earlier
        ones of the group go. ``told`` hears of (rows done, all). Raises OSError where it cannot be
        written, and what the means raise.
        """
        path = directory / _FOLDER / source.name

        def again() -> FrameFile:
            with contextlib.suppress(OSError):
                path.unlink()
            return cls._made(source, path, told)

        return cls(cls._made(source, path, told), source.scatter, places, again)

    @staticmethod
    def _made(source: FrameSource, path: Path, told: Callable[[int, int], None]) -> FrameFile:
        """The file at ``path``, made where it is missing or damaged."""
        file = _opened(path, source)
        if file is None:
            _log.info("preparing %s specifications for ranking", f"{source.rows:,}")
            path.parent.mkdir(parents=True, exist_ok=True)
            others = path.parent.glob(f"{source.folder}-*.frame")
            _sweep(path.parent)
            earlier = sorted(other for other in others if other != path)
            _make(source, path, earlier, told)
            for other in earlier:
                # What another process reads can stay, where systems do not let it go.
                with contextlib.suppress(OSError):
                    other.unlink()
            file = _opened(path, source)
            if file is None:
                raise OSError(f"{path} cannot be read back")
        return file

    def near(
        self, rows: Sequence[int], query_images: Floats, concentration: float, count: int
    ) -> tuple[NDArray[np.intp], Floats, TailMass]:
        return self._undamaged(lambda: self._near(rows, query_images, concentration, count))

    def _near(
        self, rows: Sequence[int], query_images: Floats, concentration: float, count: int
    ) -> tuple[NDArray[np.intp], Floats, TailMass]:
        asked = self._space.asked(query_images, concentration)

        def exact(positions: Positions) -> NDArray[np.float32]:
            means, lengths = self._means[self._order[positions]], self._lengths[positions]
            return self._space.distances(means, lengths, query_images, concentration)

        if len(rows) == len(self._places):
            positions, estimates, left = self._inverted.near(asked, count, exact)
            return self._members[positions].astype(np.intp), estimates, left
        # In the order in which they lie; places of the few that are left are soon looked up.
        members = as_rows(rows)
        positions = np.sort(self._positions[members])
        chosen, estimates, left = self._inverted.near(asked, count, exact, positions)
        return np.searchsorted(members, self._members[positions[chosen]]), estimates, left

    def distances(self, rows: Sequence[int], query_images: Floats, concentration: float) -> Floats:
        return self._undamaged(lambda: self._distances(rows, query_images, concentration))

    def _distances(self, rows: Sequence[int], query_images: Floats, concentration: float) -> Floats:
        members = as_rows(rows)
        out = np.empty(len(members), np.float32)
        for start in range(0, len(members), _AT_ONCE):
            part = members[start : start + _AT_ONCE]
            out[start : start + _AT_ONCE] = self._space.distances(
                self._means[self._places[part]],
                self._lengths[self._positions[part]],
                query_images,
                concentration,
            )
        return out

    def means(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Those of the members at ``rows`` [R], few of them, raw: [R, D]."""
        return np.asarray(self._means[self._places[as_rows(rows)]])

    def of_means(self, rows: Sequence[int], each: Callable[[Floats], Floats]) -> Floats:
        return self._undamaged(lambda: self._of_means(rows, each))

    def _of_means(self, rows: Sequence[int], each: Callable[[Floats], Floats]) -> Floats:
        width = self._means.shape[1]
        # As they lie in the file, of which all is read where most are asked for.
        whole = 2 * len(rows) > len(self._means)
        places = self._places[as_rows(rows)]
        order = places if whole else np.argsort(places)
        out = np.empty(len(self._means) if whole else len(rows), np.float32)

        def work(part: slice) -> None:
            if whole:
                out[part] = each(self._means[part])
            else:
                out[order[part]] = each(self._means[places[order[part]]])

        swept(work, len(out), width, streamed=False, spread=True)
        return out[places] if whole else out


def _opened(path: Path, source: FrameSource) -> FrameFile | None:
    """The frame of ``source`` at ``path``, if it is that."""
    file = opened(path)
    whole = file is not None and file.stretches == tuple(source.stretches)
    return file if file is not None and whole and _is_of(file, source) else None


def _is_of(file: FrameFile, source: FrameSource) -> bool:
    """Whether its codes are such as would be made of ``source`` today."""
    codes = file.codes
    widths = tuple(array.shape[1] for array in (codes.first, codes.second, codes.third))
    return (
        file.statistics == source.statistics
        and file.centre.size == len(source.scatter.scatter)
        and widths == _space(file, source.scatter).widths
    )


def _sweep(place: Path) -> None:
    """Take away what processes that were killed left half-written, and nobody writes any more."""
    for scratch in place.glob(".*.part"):
        with contextlib.suppress(OSError):
            if time.time() - scratch.stat().st_mtime > _ABANDONED:
                scratch.unlink()


def _make(
    source: FrameSource,
    path: Path,
    earlier: Sequence[Path],
    told: Callable[[int, int], None],
) -> None:
    told(0, source.rows)
    before = _fitting(source, earlier)
    if before is None:
        space = CoarseSpace.learnt(_sample(source), source.scatter, models=source.rows)
        learnt, known = source.rows, {}
    else:
        space = _space(before, source.scatter)
        learnt, known = before.learnt, before.starts
    shared = {
        "centre": space.centre,
        "plane": space.plane,
        "centroids": space.centroids,
        "directions": space.directions,
        "spreads": space.spreads,
    }

    def pieces() -> Iterator[dict[str, NDArray[Any]]]:
        done = 0
        for number, stretch in enumerate(source.stretches):
            done += stretch.rows
            start = known.get(stretch)
            copied = None
            if start is not None and before is not None:
                with contextlib.suppress(FrameDamageError):
                    copied = before.stretch(slice(start, start + stretch.rows))
            if copied is not None:
                yield copied
            else:
                means = source.means(number)
                coded = space.coded(means)
                yield {"means": means} | vars(coded)
                told(done, source.rows)

    written(path, source.statistics, source.stretches, learnt, shared, space.widths, pieces())


def _space(file: FrameFile, scatter: WithinScatter) -> CoarseSpace:
    return CoarseSpace(
        file.centre, file.plane, file.centroids, file.directions, file.spreads, scatter
    )


def _fitting(source: FrameSource, earlier: Sequence[Path]) -> FrameFile | None:
    """The earlier file of the same statistics from which most can be copied."""
    files = [file for path in earlier if (file := opened(path)) is not None]
    fitting = [
        file for file in files if _is_of(file, source) and source.rows <= _OUTGROWN * file.learnt
    ]
    wanted = set(source.stretches)
    return max(fitting, key=lambda file: len(wanted & file.starts.keys()), default=None)


def _sample(source: FrameSource) -> NDArray[np.float32]:
    """Means of rows drawn among all, as many as are learnt from."""
    drawn = drawn_rows(source.rows, LEARNT_FROM)
    found, start = [], 0
    for number, stretch in enumerate(source.stretches):
        first, last = np.searchsorted(drawn, [start, start + stretch.rows])
        if last > first:
            found.append(np.array(source.means(number)[drawn[first:last] - start]))
        start += stretch.rows
    return np.concatenate(found)
