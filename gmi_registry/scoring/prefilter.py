"""Which of very many models are nearest, with as few exact distances as that takes.

**Estimates** may have the units of the distance (:func:`refine`), or only rise with it
(:func:`refine_by_line`). In the latter case it is taken that, among models with small estimates,

    distance = a + b · estimate + noise,

which the models whose distances were worked out show; and some models that are drawn from all show
whether others, too, may be near.

**The prefilter** makes estimates by one pass over a few leading numbers of each model. In whitened
coordinates x_m = Fᵀ(μ_m - c) and y = Fᵀ(z - c), with F Fᵀ = (S + λI)⁻¹ and c the centre of all
means, the default score without a prompt is

    d_m = ‖x_m‖² - 2 x_m·y + ‖y‖² - excess,

and all that is slow is one product. Of x_m the numbers along the k directions P in which models
vary most are kept, in eight bits each with a scale for the model, and the length as it is, so that

    d_m ≈ ‖x_m‖² - 2 (Pᵀx_m)·(Pᵀy) + ‖y‖² - excess

is off by what the other directions have to say of the query. The distances of some thousands that
are near by it are worked out from their means, and of more where these show that more may be near.

Where models vary nearly as much in the other directions, the leading ones do not carry the order.
That is measured once: below a share of the variance k is 0, and every query reads all means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats, products, row_norms, swept, working_dtype
from gmi_registry.scoring.scatter import WithinScatter, bounded_weights
from gmi_registry.scoring.scores import least

if TYPE_CHECKING:
    from numpy.polynomial import Polynomial

# Estimates are off by a normal deviate; so many standard deviations of it are looked into.
_DEVIATIONS = 3.0
_SAMPLE = 128
"""Models that are compared with the line wherever they are."""
_FEW = 16
"""A curve is not fitted to fewer points than this."""
_SEED = 0


class Care(NamedTuple):
    """Of so many models the distance is worked out at ``least``, and of so many for ``each`` that
    is asked for."""

    least: int
    each: int

    def models(self, count: int) -> int:
        """Where ``count`` are asked for."""
        return max(self.least, self.each * count)


LOOSE = Care(512, 24)
"""For estimates that know nothing of the prompt."""


class Refinement(NamedTuple):
    """``distances`` [R]: exact where ``exact`` [R] says so, estimates elsewhere, which are off by
    ``deviation`` (the root of the mean square); ``limit``: the last distance that was asked for, so
    that hardly any estimate stands for a distance below it."""

    distances: Floats
    exact: NDArray[np.bool_]
    deviation: float
    limit: float

    @classmethod
    def of(cls, distances: Floats) -> Refinement:
        """All of them exact."""
        return cls(distances, np.ones(len(distances), bool), 0.0, np.inf)


def refines_all(models: int, count: int, care: Care = LOOSE) -> bool:
    """Whether :func:`refine` would ask for all of so many models, whatever the estimates."""
    return 2 * care.models(count) >= models


def refine(
    estimates: Floats,
    exact: Callable[[NDArray[np.intp]], Floats],
    count: int,
    care: Care = LOOSE,
) -> Refinement:
    """``estimates`` [R] with distances in the place of those that may be among the ``count`` least.

    ``exact`` gives the distances of some rows, ascending. They are asked for until no other
    estimate is within three standard deviations, as far as estimates were found to be off, of the
    ``count``-th distance: so no estimate that is left is less than that. Where half of all would
    have to be asked for, all are. Raises ValueError for a ``count`` below 1.
    """
    _check_count(count)
    models = len(estimates)
    out = np.array(estimates, np.result_type(np.float32, estimates))
    known = np.zeros(models, bool)
    wanted = care.models(count)
    while True:
        rows = np.arange(models) if 2 * wanted >= models else least(estimates, wanted)
        rows = rows[~known[rows]]
        out[rows] = exact(rows)
        known[rows] = True
        some = np.flatnonzero(known)
        limit = _last(out[some], count)
        if len(some) == models:
            return Refinement(out, known, 0.0, limit)
        deviation = _root_mean_square(out[some] - estimates[some])
        needed = int(np.count_nonzero(estimates <= limit + _DEVIATIONS * deviation))
        if needed <= len(some):
            return Refinement(out, known, deviation, limit)
        wanted = max(needed, len(some) + 1)


def refine_by_line(
    estimates: Floats,
    exact: Callable[[NDArray[np.intp]], Floats],
    count: int,
    care: Care = LOOSE,
) -> Refinement:
    """The same for ``estimates`` [R] that only rise with distances; what the line makes of them
    stands in the place of distances that nobody asked for.

    ``exact`` gives the distances of some rows, ascending. They are asked for until no other is
    within three standard deviations of the ``count``-th distance, by the line through those that
    are near and by a sample of all. Where half of all would have to be asked for, or estimates say
    nothing of distances, all are. Raises ValueError for a ``count`` below 1.
    """
    _check_count(count)
    models = len(estimates)
    found, known = np.zeros(models), np.zeros(models, bool)
    sample = sample_rows(models, _SAMPLE)
    wanted = care.models(count)
    while True:
        everything = 2 * wanted >= models
        near = np.arange(models) if everything else least(estimates, wanted)
        rows = np.union1d(near, sample)
        rows = rows[~known[rows]]
        distances = exact(rows)
        found[rows], known[rows] = distances, True
        limit = _last(found[known], count)
        if everything:
            return Refinement(found.astype(distances.dtype), known, 0.0, limit)
        line, deviation = _fit(estimates[near], found[near], 1)
        elsewhere = np.setdiff1d(sample, near)
        reach = _reach(line, deviation, estimates[elsewhere], found[elsewhere], limit)
        needed = int(np.count_nonzero(~(estimates > reach)))
        if needed <= wanted:
            found[~known] = line(estimates[~known].astype(np.float64))
            return Refinement(found.astype(distances.dtype), known, deviation, limit)
        wanted = max(needed, 2 * wanted)


def log_kernels(means: Floats, query_images: Floats, gamma: float) -> Floats:
    """The logarithm of Σ_b k(μ, z_b) for ``means`` [M, D] and ``query_images`` [B, D]: [M].

    That of a mean, not the mean over images: it says in which order models come by kernel mean
    embeddings, nearly, and not how near they are. Does not underflow.
    """
    dtype = working_dtype(means, query_images)
    rows = means.astype(dtype, copy=False)
    norms = row_norms(rows)
    logs = np.empty((len(query_images), len(rows)), dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for image, out in zip(query_images.astype(dtype, copy=False), logs, strict=True):
            np.multiply(products(rows, image), 2, out=out)
            out -= norms
            out -= image @ image
            out *= gamma
    return np.asarray(np.logaddexp.reduce(logs, axis=0))


def estimates_of(log_kernels: Floats) -> Floats:
    """Estimates [M] that fall as kernels rise, -1 for the largest."""
    return np.asarray(-np.exp(log_kernels - log_kernels.max(initial=-np.inf)))


def _reach(
    line: Polynomial,
    deviation: float,
    estimates: Floats,
    found: NDArray[np.float64],
    limit: float,
) -> float:
    """Up to which estimate a model may be as near as ``limit``, by the ``line`` of those that are
    near, and by how much they are off it, and by ``estimates`` [n] and distances ``found`` [n] of a
    sample elsewhere; inf where they cannot tell."""
    level, slope = line(0.0), line(1.0) - line(0.0)
    if not slope > 0 or (found <= limit).any():
        return np.inf
    reach = float((limit + _DEVIATIONS * deviation - level) / slope)
    if len(found) > _FEW:
        # Far away distances need not be on that line, nor as near to one.
        curve, deviation = _fit(estimates, found, 2)
        doubtful = curve(estimates) - _DEVIATIONS * deviation <= limit
        reach = max(reach, float(estimates.max(initial=-np.inf, where=doubtful)))
    return reach


def _fit(x: Floats, y: NDArray[np.float64], degree: int) -> tuple[Polynomial, float]:
    """A polynomial of x that y is near to, and by how much it is off."""
    from numpy.polynomial import Polynomial

    if not np.ptp(x) > 0:
        return Polynomial([float(y.mean())]), float(y.std())
    curve = Polynomial.fit(x.astype(np.float64), y, degree)
    return curve, _root_mean_square(y - curve(x))


def sample_rows(models: int, most: int) -> NDArray[np.intp]:
    """``most`` of 0..models-1, ascending, or all of them; the same each time.

    Not evenly spaced ones: what is in order has rhythms.
    """
    if models <= most:
        return np.arange(models)
    return np.sort(np.random.default_rng(_SEED).choice(models, most, replace=False))


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")


def _last(distances: Floats, count: int) -> float:
    """The ``count``-th of ``distances`` [n], or the largest of fewer; -inf of none."""
    if not len(distances):
        return -np.inf
    last = min(count, len(distances)) - 1
    return float(np.partition(distances, last)[last])


def _root_mean_square(values: Floats) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


LEARN_FROM = 1 << 14
"""Models that the directions are learnt from."""

LEADING = 128
"""k, unless there are fewer numbers, or they do not carry the order."""

_LEAST_SHARE = 0.3
# Distances that are worked out in any case: so many, such a share of all, so many for each that is
# asked for. A model's own image is nearer to it than the leading numbers say, by twice the squared
# length of what they leave out.
_LEAST_EXACT = 8192
_EXACT_SHARE = 64
_EXACT_EACH = 8
_BLOCK_ROWS = 4096

_Single = NDArray[np.float32]
Means = Callable[[NDArray[np.intp]], Floats]
"""The means of the models at some rows [n]: [n, D]."""


@dataclass(frozen=True, eq=False)
class Summaries:
    """Of m models: ``lengths`` [m] = ‖x‖²; ``codes`` [m, k] int8 times ``scales`` [m] = Pᵀx."""

    lengths: _Single
    scales: _Single
    codes: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Prefilter:
    """``centre`` [D], ``directions`` P [D, k] in whitened coordinates, both float32, and the
    ``scatter`` that whitens."""

    centre: _Single
    directions: _Single
    scatter: WithinScatter

    @classmethod
    def learn(cls, means: Floats, scatter: WithinScatter) -> Prefilter:
        """From ``means`` [m, D], m at least 1, a sample of all; at most 16,384 of them are used.
        The same gives the same."""
        means = means[sample_rows(len(means), LEARN_FROM)]
        centre = means.mean(axis=0, dtype=np.float64).astype(np.float32)
        white = (means - centre) @ scatter.whitening(SHRINKAGE).astype(np.float32)
        # One model far out would have a direction to itself.
        lengths = np.sqrt(row_norms(white)).astype(np.float64)
        white *= bounded_weights(lengths).astype(np.float32)[:, None]
        values, vectors = np.linalg.eigh((white.T @ white).astype(np.float64))
        values, vectors = values[::-1], vectors[:, ::-1]
        total = float(values.sum())
        carried = total <= 0 or float(values[:LEADING].sum()) >= _LEAST_SHARE * total
        directions = vectors[:, : LEADING if carried else 0]
        return cls(centre, np.ascontiguousarray(directions.astype(np.float32)), scatter)

    @cached_property
    def _factor(self) -> NDArray[np.float64]:
        """F [D, D]."""
        return self.scatter.whitening(SHRINKAGE)

    @cached_property
    def _turned(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self._factor.T)

    def summaries(self, means: Floats) -> Summaries:
        """Of ``means`` [m, D], of each by itself but for rounding."""
        mahalanobis = self.scatter.mahalanobis(SHRINKAGE, np.dtype(np.float32))
        along = (self._factor @ self.directions).astype(np.float32)
        lengths, scales = np.empty((2, len(means)), np.float32)
        codes = np.empty((len(means), along.shape[1]), np.int8)
        for start in range(0, len(means), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            apart = means[part] - self.centre
            lengths[part] = mahalanobis.squared(apart)
            numbers = apart @ along
            scales[part] = np.abs(numbers).max(axis=1, initial=0) / np.float32(127)
            safe = np.maximum(scales[part], np.finfo(np.float32).tiny)
            codes[part] = np.rint(numbers / safe[:, None]).clip(-127, 127)
        return Summaries(lengths, scales, codes)

    def nearest(
        self,
        summaries: Summaries,
        means: Means,
        query_images: Floats,
        concentration: float,
        count: int,
        rows: NDArray[np.intp] | None = None,
    ) -> Refinement:
        """Mean distances to ``query_images`` [B, D] of all models, or of those at ``rows`` [R]:
        exact of those that may be among the ``count`` nearest, estimates of others.

        ``concentration`` is as in :class:`~gmi_registry.scoring.default.WhitenedMeans`. That a
        model is missed cannot be excluded, only made rare.
        """
        total = len(summaries.lengths)
        chosen = rows
        rows = np.arange(total) if rows is None else rows
        care = Care(max(_LEAST_EXACT, total // _EXACT_SHARE), _EXACT_EACH)

        def exact(places: NDArray[np.intp]) -> _Single:
            return self.distances(summaries, means, query_images, concentration, rows[places])

        if not self.directions.size or refines_all(len(rows), count, care):
            return Refinement.of(exact(np.arange(len(rows))))
        estimates = self.estimates(summaries, query_images, concentration)
        return refine(estimates if chosen is None else estimates[chosen], exact, count, care)

    def estimates(
        self, summaries: Summaries, query_images: Floats, concentration: float
    ) -> _Single:
        """Nearly the mean distances: [m]."""
        towards, own = self._towards(query_images, concentration)
        along = (-2 * towards @ self.directions).astype(np.float32)
        out = np.empty(len(summaries.lengths), np.float32)

        def work(part: slice) -> None:
            found = summaries.codes[part].astype(np.float32) @ along
            found *= summaries.scales[part]
            found += summaries.lengths[part]
            found += np.float32(own)
            out[part] = found

        swept(work, len(out), len(along), streamed=False, spread=True)
        return out

    def distances(
        self,
        summaries: Summaries,
        means: Means,
        query_images: Floats,
        concentration: float,
        rows: NDArray[np.intp],
    ) -> _Single:
        """The mean distances themselves, to rounding, of the models at ``rows`` [R]: [R]."""
        towards, own = self._towards(query_images, concentration)
        along = products(self._factor, towards).astype(np.float32)
        out = np.empty(len(rows), np.float32)

        def work(part: slice) -> None:
            found = products(means(rows[part]) - self.centre, along)
            found *= -2
            found += summaries.lengths[rows[part]]
            found += np.float32(own)
            out[part] = found

        swept(work, len(out), len(self.centre), streamed=False, spread=True)
        return out

    def _towards(
        self, query_images: Floats, concentration: float
    ) -> tuple[NDArray[np.float64], float]:
        """The mean of y [D], and of ‖y‖² less the excess."""
        images = query_images.astype(np.float64) - self.centre
        white = np.stack([products(self._turned, image) for image in images])
        excess = self.scatter.spread(SHRINKAGE) * concentration
        return white.mean(axis=0), float(np.square(white).sum(axis=1).mean() - excess)
