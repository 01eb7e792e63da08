"""How sure an answer is: from its margin over the runner-up to the chance that it is right.

The chance is read off a curve that was fitted on dev tasks: margins are sorted into bins of equally
many tasks, the share of right answers in each is made non-decreasing (pool adjacent violators), and
between the bins the curve is straight. It asks nothing of the scale or shape of a method's
distances but that a wider margin is no worse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "Reliability", "first_margins", "fit_calibration", "reliability"]

BINS = 10
"""Of the fitted curve, and as many of the measured one."""

FEWEST = 25
"""Tasks in a bin; fewer would say little about a chance."""

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A non-decreasing curve: at ``margins`` [K], ascending, the chances are ``chances`` [K]."""

    margins: NDArray[np.float64]
    chances: NDArray[np.float64]

    def confidence(self, margins: Floats) -> NDArray[np.float64]:
        """The chance of being right in 0..1, of the shape of ``margins``; flat beyond the ends."""
        return np.asarray(np.interp(margins, self.margins, self.chances))


@dataclass(frozen=True, eq=False)
class Reliability:
    """Measured on tasks the curve has not seen, in bins of equally many by confidence.

    ``confidence``, ``accuracy``, ``tasks`` [K]: mean confidence, share of right answers and number
    of tasks of each bin. ``error`` is the expected calibration error, Σ tasks |confidence -
    accuracy| / Q.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    tasks: NDArray[np.int64]
    error: float


def first_margins(distances: Floats) -> NDArray[np.float64]:
    """Second smallest minus smallest distance: [Q, M] gives [Q]; 0 for a tie, M is at least 2."""
    two = np.partition(distances, 1, axis=1)[:, :2].astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps = two[:, 1] - two[:, 0]
    # inf - inf: two models that are both infinitely far are no distance apart.
    return np.nan_to_num(gaps, nan=0.0, posinf=1e300)


def fit_calibration(margins: Floats, right: Floats) -> Calibration:
    """The curve for dev tasks: their margins [Q] and whether the first was right [Q], in 0..1.

    Raises ValueError where there is no task.
    """
    if len(margins) == 0:
        raise ValueError("there is no task to fit a confidence to")
    order = np.argsort(margins, kind="stable")
    parts = np.array_split(order, _bins(len(order)))
    places = [float(margins[part].mean()) for part in parts]
    shares = [float(right[part].mean()) for part in parts]
    sizes = [len(part) for part in parts]
    chances = np.repeat(*_pooled(shares, sizes))
    # Equal margins in two bins: the curve would be two-valued there.
    knots, first, counts = np.unique(places, return_index=True, return_counts=True)
    weights = np.array(sizes, dtype=np.float64)
    ends = first + counts
    joined = [
        float(np.average(chances[start:end], weights=weights[start:end]))
        for start, end in zip(first, ends, strict=True)
    ]
    # Averaging may part equal neighbours by a rounding.
    return Calibration(knots, np.maximum.accumulate(joined))


def reliability(confidence: Floats, right: Floats) -> Reliability:
    """Compare confidences [Q] with what was right [Q], in 0..1. Raises ValueError for Q = 0."""
    if len(confidence) == 0:
        raise ValueError("there is no task to measure a confidence on")
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, _bins(len(order)))
    means = np.array([confidence[part].mean() for part in parts])
    shares = np.array([right[part].mean() for part in parts])
    tasks = np.array([len(part) for part in parts], dtype=np.int64)
    error = float((tasks * np.abs(means - shares)).sum() / tasks.sum())
    return Reliability(means, shares, tasks, error)


def _bins(tasks: int) -> int:
    return max(1, min(BINS, tasks // FEWEST))


def _pooled(shares: list[float], sizes: list[int]) -> tuple[list[float], list[int]]:
    """Non-decreasing values nearest to ``shares`` weighted by ``sizes``, and how many bins each
    stands for."""
    values: list[float] = []
    weights: list[int] = []
    spans: list[int] = []
    for share, size in zip(shares, sizes, strict=True):
        values.append(share)
        weights.append(size)
        spans.append(1)
        while len(values) > 1 and values[-2] > values[-1]:
            weight = weights[-2] + weights[-1]
            mean = (values[-2] * weights[-2] + values[-1] * weights[-1]) / weight
            values[-2:], weights[-2:] = [mean], [weight]
            spans[-2:] = [spans[-2] + spans[-1]]
    return values, spans
