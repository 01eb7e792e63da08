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
CLOSE = Care(256, 8)
"""For estimates that are off by little."""


class Refinement(NamedTuple):
    """``distances`` [R], some of them estimates unless all had to be worked out, which is
    ``exhausted``."""

    distances: Floats
    exhausted: bool


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
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    models = len(estimates)
    out = np.array(estimates, np.result_type(np.float32, estimates))
    known = np.zeros(models, bool)
    wanted = care.models(count)
    while True:
        if 2 * wanted >= models:
            rows = np.flatnonzero(~known)
        else:
            rows = least(estimates, wanted)
            rows = rows[~known[rows]]
        out[rows] = exact(rows)
        known[rows] = True
        found_rows = np.flatnonzero(known)
        if len(found_rows) == models:
            return Refinement(out, exhausted=True)
        found = out[found_rows]
        off = float(np.sqrt(np.square(found - estimates[found_rows], dtype=np.float64).mean()))
        limit = float(np.partition(found, count - 1)[count - 1]) + _DEVIATIONS * off
        needed = int(np.count_nonzero(estimates <= limit))
        if needed <= len(found_rows):
            return Refinement(out, exhausted=False)
        wanted = max(needed, len(found_rows) + 1)


_DRAWN = 128
"""Models that are looked at wherever they are."""
_FEW = 16
"""Of so many drawn ones no curve is learnt."""


class LineRefinement(NamedTuple):
    """``places`` [n], ascending, of models that were looked at, and their ``distances`` [n];
    ``others`` [M - n]: what those of all others nearly are, if they are on the line too, and
    ``off`` the standard deviation from it."""

    places: NDArray[np.intp]
    distances: Floats
    others: NDArray[np.float64]
    off: float


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


def refine_by_line(
    estimates: Floats,
    exact: Callable[[NDArray[np.intp]], Floats],
    count: int,
    care: Care = LOOSE,
) -> LineRefinement:
    """The models that may be among the ``count`` nearest, by ``estimates`` [M] that rise with
    distances; their distances are exact.

    ``exact`` gives the distances of some rows, ascending. They are asked for until no other is
    within three standard deviations of the ``count``-th distance, by the line through those that
    are near and by those that were drawn. Where half of all would have to be asked for, or
    estimates say nothing of distances, all are. Raises ValueError for a ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    models = len(estimates)
    found, known = np.zeros(models), np.zeros(models, bool)
    # A search of few models comes nowhere near this.
    from gmi_registry.scoring.coarse import drawn_rows

    drawn = drawn_rows(models, _DRAWN)
    wanted = care.models(count)
    while True:
        everything = 2 * wanted >= models
        near = np.arange(models) if everything else least(estimates, wanted)
        rows = np.union1d(near, drawn)
        rows = rows[~known[rows]]
        distances = exact(rows)
        found[rows], known[rows] = distances, True
        if everything:
            return LineRefinement(near, found.astype(distances.dtype), np.empty(0), 0.0)
        line, off = _fitted(estimates[near], found[near], 1)
        limit = float(np.partition(found[known], count - 1)[count - 1])
        elsewhere = np.setdiff1d(drawn, near)
        reach = _reach(line, off, estimates[elsewhere], found[elsewhere], limit)
        needed = int(np.count_nonzero(~(estimates > reach)))
        if needed <= wanted:
            break
        wanted = max(needed, 2 * wanted)
    places = np.flatnonzero(known)
    others = line(estimates[~known].astype(np.float64))
    return LineRefinement(places, found[places].astype(distances.dtype), others, off)


def _reach(
    line: Polynomial, off: float, estimates: Floats, found: NDArray[np.float64], limit: float
) -> float:
    """Up to which estimate a model may be as near as ``limit``, by the ``line`` of those that are
    near, which they are ``off``, and by ``estimates`` [n] and distances ``found`` [n] of those that
    were drawn elsewhere; inf where they cannot tell."""
    level, slope = line(0.0), line(1.0) - line(0.0)
    if not slope > 0 or (found <= limit).any():
        return np.inf
    reach = float((limit + _DEVIATIONS * off - level) / slope)
    if len(found) > _FEW:
        # Far away distances need not be on that line, nor as near to one.
        curve, off = _fitted(estimates, found, 2)
        doubtful = curve(estimates) - _DEVIATIONS * off <= limit
        reach = max(reach, float(estimates.max(initial=-np.inf, where=doubtful)))
    return reach


def _fitted(x: Floats, y: NDArray[np.float64], degree: int) -> tuple[Polynomial, float]:
    """A polynomial of x that y is near to, and by how much it is off."""
    from numpy.polynomial import Polynomial

    if not np.ptp(x) > 0:
        return Polynomial([float(y.mean())]), float(y.std())
    curve = Polynomial.fit(x.astype(np.float64), y, degree)
    return curve, float(np.sqrt(np.square(y - curve(x)).mean()))
