"""Confidence intervals by drawing the tasks anew, with replacement."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CONFIDENCE", "RESAMPLES", "SEED", "interval", "resampled_means"]

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 20240
_BLOCK = 1 << 22  # drawn tasks at a time: 32 MB of indices

Floats = NDArray[np.floating[Any]]


def resampled_means(
    values: Floats, *, resamples: int = RESAMPLES, seed: int = SEED
) -> NDArray[np.float64]:
    """The mean of each column in each resample: ``values`` [Q, S] gives [resamples, S].

    A resample draws Q of the Q tasks with replacement, and is the same for all columns: the
    difference of two columns is a paired one. The same seed gives the same draws. Raises ValueError
    where there is no task.
    """
    tasks = len(values)
    if tasks == 0:
        raise ValueError("there is no task to draw")
    wide = values.astype(np.float64, copy=False)
    generator = np.random.default_rng(seed)
    out = np.empty((resamples, values.shape[1]))
    step = max(1, _BLOCK // tasks)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, tasks, (rows, tasks))
        # How often each task was drawn turns all the means into one product.
        drawn += tasks * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * tasks).reshape(rows, tasks)
        out[start : start + rows] = counts @ wide / tasks
    return out


def interval(
    means: Floats, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval of each column: [resamples, S] gives the lower and upper ends, [S] each.

    Where all tasks agree, it has no width: what never happened cannot be drawn.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high
