"""Means as they are written down: with the ends of their intervals, and no digit too many."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.bench.bootstrap import interval, resampled_means
from gmi_registry.bench.results import Estimate

__all__ = ["DIGITS", "estimates", "mean_estimates", "rounded"]

DIGITS = 6
"""Of what is written: beyond lie the differences between processors."""

Floats = NDArray[np.floating[Any]]


def estimates(values: Floats, means: Floats) -> list[Estimate]:
    """One for each of S values, [S], with the interval of its resampled means, [resamples, S]."""
    return [
        Estimate(value=value, low=low, high=high)
        for value, low, high in zip(*map(rounded, (values, *interval(means))), strict=True)
    ]


def mean_estimates(columns: Floats) -> list[Estimate]:
    """The mean of each column of [Q, S], its rows drawn anew. Raises ValueError for Q = 0."""
    return estimates(columns.mean(axis=0), resampled_means(columns))


def rounded(values: Floats) -> list[float]:
    """[S] as numbers with at most six decimals."""
    # + 0.0: a difference that rounds to -0 is 0.
    return [round(float(value), DIGITS) + 0.0 for value in values]
