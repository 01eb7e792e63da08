"""From estimates to the nearest models, with as few exact distances as that takes.

Estimates may have the units of the distance (:func:`refine`), or only rise with it
(:func:`refine_by_line`). In the latter case it is taken that, among models with small estimates,

    distance = a + b · estimate + noise,

which the models whose distances were worked out show; and some models that are drawn from all show
whether others, too, may be near.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.ranking import least
from gmi_registry.scoring.sweep import products, row_norms

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
    ``deviation`` (the root of the mean square); ``limit``: the last distance that was requested, so
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
