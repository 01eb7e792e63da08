"""How far two sets of pictures are apart: the maximum mean discrepancy with the RBF kernel.

It asks whether two sets could come of one distribution, whichever picture answers which. With a
kernel on an encoder's embeddings it stands where a Fréchet distance would, but needs no covariance,
and so says something about a few dozen pictures too.
"""

from __future__ import annotations

import numpy as np

from gmi_registry.scoring.kernels import Floats, rbf, squared_distances

__all__ = ["median_gamma", "squared_discrepancy"]


def squared_discrepancy(x: Floats, y: Floats, gamma: float) -> float:
    """The unbiased estimate of MMD²: mean k(x, x') + mean k(y, y') - 2 mean k(x, y).

    ``x`` [n, D] and ``y`` [m, D] are independent draws; x' and y' are other rows than x and y. Its
    expectation is 0 where both come of one distribution, so that it may fall below. It is the same
    for (y, x), and for rows in any order. Raises ValueError for fewer than two rows on a side,
    other widths, or γ that is not positive.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a discrepancy needs two rows on each side, got {len(x)} and {len(y)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"rows of {x.shape[1]} and of {y.shape[1]} numbers cannot be compared")
    across = rbf(x, y, gamma).mean(dtype=np.float64)
    return float(_others(x, gamma) + _others(y, gamma) - 2 * across)


def median_gamma(rows: Floats) -> float:
    """γ = 1/median ‖x - x'‖² over the pairs of ``rows`` [n, D], for a kernel that sees all of them.

    1 where at least half of the pairs are equal. Raises ValueError for fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError("a median distance needs two rows")
    above = np.triu_indices(len(rows), 1)
    median = float(np.median(squared_distances(rows, rows)[above]))
    return 1 / median if median > 0 else 1.0


def _others(rows: Floats, gamma: float) -> float:
    """The mean of k over all pairs of two different rows."""
    count = len(rows)
    # The kernel of a row with itself is exactly 1.
    total = rbf(rows, rows, gamma).sum(dtype=np.float64) - count
    return float(total / (count * (count - 1)))
