"""Which of very many models may be near, without looking at them all.

Codes stand in the order of their cells, as in an inverted file. Of a query the cells are put in
order, by the centroid and by how long their models are; the models of the nearest are looked at,
first through few numbers, then the better ones through more, and of the best the distance is worked
out. How near these are says whether more cells are worth it, and more models a closer look: all but
those among which hardly any can be expected to be as near, if what is left out is normal, with the
variance that it has along this query. Where numbers say little, all models are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.coarse import Asked, CoarseCodes, Single
from gmi_registry.scoring.confidence import TailMass
from gmi_registry.scoring.kernels import Floats, widened
from gmi_registry.scoring.ranking import least
from gmi_registry.scoring.sweep import products, row_norms, swept

__all__ = ["Exact", "InvertedFile", "Positions", "cell_starts"]

Positions = NDArray[np.signedinteger[Any]]
Exact = Callable[[Positions], Single]

_SINGLE = np.dtype(np.float32)
_STEPS = 3
# So many models are looked at in any case, such a share of all, and so many for each asked for.
_LOOKED_AT = 16_384
_LOOKED_SHARE = 16
_LOOKED_EACH = 64
# Of those through the second numbers, and of those through the third.
_SECOND = 8192
_THIRD = 2048
_BETTER_SHARE = 32
_BETTER_EACH = 24
# So many distances are worked out for each that is asked for.
_TRIED = 2
# So many are expected to be missed at most at each step, for each that is asked for.
_MISSED = 1 / 400
# Beyond so many standard deviations nothing is, and each is parted into so many classes.
_FARTHEST = 7.0
_CLASSES = 8
_MOST_CLASSES = 1000


@dataclass(eq=False)
class _Looked:
    """Models that were looked at: their ``places`` in what was asked about, where their codes are,
    ``estimates`` of their distances, and through the numbers of how many ``steps``: [n] each."""

    places: Positions
    at: Positions
    estimates: Single
    steps: NDArray[np.int8]

    def joined(self, other: _Looked) -> _Looked:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Looked(*(np.concatenate(pair) for pair in pairs))

    def best(self, steps: int, count: int) -> Positions:
        """Of those that were looked at so closely the ``count`` nearest, or all."""
        some = np.flatnonzero(self.steps == steps)
        return some[least(self.estimates[some], count)]


@dataclass(frozen=True, eq=False)
class InvertedFile:
    """T models in the order of their cells: their ``codes``, and ``centroids`` [K, D]; those that
    are not ``alive`` [T] count no more."""

    codes: CoarseCodes
    centroids: Single
    alive: NDArray[np.bool_] | None = None

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        return cell_starts(self.codes.cells, len(self.centroids))

    @cached_property
    def _sizes(self) -> NDArray[np.intp]:
        return np.diff(self._starts)

    @cached_property
    def _living(self) -> NDArray[np.intp]:
        """How many of each cell count: [K]."""
        if self.alive is None:
            return self._sizes
        return np.bincount(self.codes.cells[self.alive], minlength=len(self.centroids))

    @cached_property
    def _mean_lengths(self) -> NDArray[np.float64]:
        """[K]; 0 of a cell without models."""
        running = np.concatenate([[0.0], np.cumsum(self.codes.lengths, dtype=np.float64)])
        totals = running[self._starts[1:]] - running[self._starts[:-1]]
        return np.asarray(totals / np.maximum(self._sizes, 1))

    @cached_property
    def _length_variance(self) -> float:
        """Of lengths within a cell."""
        apart = self.codes.lengths - np.repeat(self._mean_lengths, self._sizes)
        return float(np.square(apart).mean())

    @cached_property
    def _shares(self) -> NDArray[np.float64]:
        """How much longer than the mean of all the residuals of each cell are, squared: [K]."""
        squared = np.maximum(self._mean_lengths - row_norms(self.centroids), 0)
        mean = float(squared @ self._sizes) / max(1, len(self.codes.lengths))
        return squared / mean if mean > 0 else np.ones(len(squared))

    def near(
        self, asked: Asked, count: int, exact: Exact, positions: Positions | None = None
    ) -> tuple[Positions, Single, TailMass]:
        """The models that may be among the ``count`` nearest, estimates of their distances, and
        what is known of all others.

        Of all, or of those at ``positions`` [R]; returns places in these, in no order, [n], and
        [n]. ``exact`` gives the distances of models by where their codes are. That a model is
        missed cannot be excluded, only made rare.
        """
        sizes = self._living
        if positions is not None:
            sizes = np.bincount(self.codes.cells[positions], minlength=len(self.centroids))
        levels = asked.near + self._mean_lengths
        order = np.argsort(levels, kind="stable")
        reached = np.cumsum(sizes[order])
        looked_at = max(_LOOKED_AT, int(reached[-1]) // _LOOKED_SHARE, _LOOKED_EACH * count)
        first = int(np.searchsorted(reached, looked_at)) + 1
        found = self._looked_at(order[:first], asked, positions)
        if not len(found.places):
            return found.places, found.estimates, TailMass.nobody()
        limit = self._limit(found, asked, count, exact)
        further = order[first:]
        deviations = np.sqrt(asked.variances[0] * self._shares[further] + self._length_variance)
        worth = _worth(levels[further] - limit, deviations, sizes[further], _MISSED * count)
        if worth:
            found = found.joined(self._looked_at(further[:worth], asked, positions))
        for step in (1, 2):
            some = np.flatnonzero(found.steps == step)
            deviation = float(np.sqrt(asked.variances[step]))
            worthy = _worthy(found.estimates[some] - limit, deviation, _MISSED * count)
            self._look_closer(found, some[worthy], asked)
        unseen = further[worth:]
        left = TailMass(sizes[unseen].astype(float), levels[unseen], deviations[worth:], limit)
        closely = np.flatnonzero(found.steps == _STEPS)
        left = left.joined(_grouped(found, asked, limit))
        return found.places[closely], found.estimates[closely], left

    def _limit(self, found: _Looked, asked: Asked, count: int, exact: Exact) -> float:
        """The ``count``-th least distance of those that turn out to be the best; or the largest."""
        for step, fewest in ((1, _SECOND), (2, _THIRD)):
            models = int(np.count_nonzero(found.steps == step))
            better = max(fewest, models // _BETTER_SHARE, _BETTER_EACH * count)
            self._look_closer(found, found.best(step, better), asked)
        best = found.best(_STEPS, _TRIED * count)
        distances = exact(found.at[best])
        last = min(count, len(distances)) - 1
        return float(np.partition(distances, last)[last])

    def _looked_at(self, cells: Positions, asked: Asked, positions: Positions | None) -> _Looked:
        """The models of ``cells``, through their first numbers."""
        codes = self.codes
        along = asked.along[: codes.first.shape[1]]
        places, at = self._models(cells, positions)
        estimates = np.empty(len(at), np.float32)

        def look(part: slice) -> None:
            rows = at[part]
            found = products(codes.first[rows], along)
            found += asked.near[codes.cells[rows]]
            found += codes.lengths[rows]
            estimates[part] = found

        swept(look, len(at), len(along), streamed=False, spread=True)
        return _Looked(places, at, estimates, np.ones(len(at), np.int8))

    def _models(self, cells: Positions, positions: Positions | None) -> tuple[Positions, Positions]:
        """The models of ``cells``: their places, and where their codes are."""
        if positions is not None:
            chosen = np.zeros(len(self.centroids), bool)
            chosen[cells] = True
            places = np.flatnonzero(chosen[self.codes.cells[positions]])
            return places, positions[places]
        cells = np.sort(cells)
        sizes = self._sizes[cells]
        ends = np.cumsum(sizes)
        at = np.arange(ends[-1]) + np.repeat(self._starts[cells] - (ends - sizes), sizes)
        if self.alive is not None:
            at = at[self.alive[at]]
        return at, at

    def _look_closer(self, found: _Looked, some: Positions, asked: Asked) -> None:
        """Add what the next numbers of ``some`` say, all of which were looked at equally."""
        if not len(some):
            return
        steps = (self.codes.first, self.codes.second, self.codes.third)
        step = int(found.steps[some[0]])
        start, numbers = sum(array.shape[1] for array in steps[:step]), steps[step]
        along = asked.along[start : start + numbers.shape[1]]

        def look(part: slice) -> None:
            rows = some[part]
            found.estimates[rows] += products(widened(numbers[found.at[rows]], _SINGLE), along)

        swept(look, len(some), len(along), streamed=False, spread=True)
        found.steps[some] += 1


def cell_starts(cells: NDArray[np.int32], count: int) -> NDArray[np.intp]:
    """Where each of ``count`` cells begins in ``cells`` [T], which are in order: [count + 1]."""
    return np.searchsorted(cells, np.arange(count + 1))


def _worthy(beyond: Floats, deviation: float, missed: float) -> Positions:
    """Which of those whose estimates are so far ``beyond`` a limit may be within it: all but the
    farthest, of which together no more than ``missed`` are expected to be."""
    near = np.flatnonzero(beyond < _FARTHEST * deviation)
    beyond = beyond[near]
    classes = (_scaled(beyond, deviation) * _CLASSES).astype(np.intp)
    expected = np.cumsum(np.bincount(classes, _chances(beyond, deviation))[::-1])[::-1]
    return near[(beyond <= 0) | (classes < np.count_nonzero(expected > missed))]


def _worth(beyond: Floats, deviations: Floats, sizes: NDArray[np.intp], missed: float) -> int:
    """How many of cells, nearest first, are worth a look, if their models are so far ``beyond`` a
    limit: all but the farthest, of which together no more than ``missed`` are expected within."""
    expected = np.cumsum((sizes * _chances(beyond, deviations))[::-1])[::-1]
    return int(np.count_nonzero(expected > missed))


def _grouped(found: _Looked, asked: Asked, limit: float) -> TailMass:
    """Those that were not looked at through all numbers, by how far their estimates are."""
    left = TailMass.nobody()
    for step in range(1, _STEPS):
        estimates = found.estimates[found.steps == step]
        if not len(estimates):
            continue
        deviation = float(np.sqrt(asked.variances[step]))
        nearest, span = float(estimates.min()), float(np.ptp(estimates))
        width = max(deviation / _CLASSES, span / _MOST_CLASSES, 1e-6)
        classes = (estimates - np.float32(nearest)) / np.float32(width)
        sizes = np.bincount(classes.astype(np.int32)).astype(float)
        levels = np.linspace(nearest, nearest + width * len(sizes), len(sizes), endpoint=False)
        spread = np.full(len(sizes), deviation)
        left = left.joined(TailMass(sizes, levels + width / 2, spread, limit))
    return left


def _scaled(beyond: Floats, deviations: Any) -> Floats:
    """How many standard deviations ``beyond`` a limit is: not below 0, and no more than counts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.clip(np.nan_to_num(beyond / deviations, nan=0.0), 0, _FARTHEST))


def _chances(beyond: Floats, deviations: Any) -> Floats:
    """The chance to be within a limit nonetheless is no more than this, for a normal deviate."""
    bounds = np.exp(-np.square(_scaled(beyond, deviations)) / 2) / 2
    return np.where(beyond <= 0, 1.0, bounds)
