"""How far two sets of images are apart: the maximum mean discrepancy (MMD), RBF kernel, unbiased.

It asks whether two sets could come of one distribution, whichever image answers which. With a
kernel on an encoder's embeddings it stands where a Fréchet distance would, but needs no covariance,
and so says something about a few dozen images too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats, rbf, squared_distances


def squared_discrepancy(
    x: Floats,
    y: Floats,
    gamma: float,
    *,
    strata: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None,
) -> float:
    """The unbiased estimate of MMD²: mean k(x, x') + mean k(y, y') - 2 mean k(x, y).

    ``x`` [n, D] and ``y`` [m, D] are independent draws; x' and y' are other rows than x and y. Its
    expectation is 0 where both come of one distribution, so that it may fall below. It is the same
    for (y, x), and for rows in any order.

    Where rows answer prompts that both sides share they are not independent: pairs of one prompt
    are alike, and there are more of these across than within. ``strata`` ([n] and [m], the prompt
    of each row) leaves such pairs out of all three means, which makes the prompts the draws.

    Raises ValueError for fewer than two rows, or fewer than two strata, on a side, other widths or
    lengths, or γ that is not positive.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a discrepancy needs two rows on each side, got {len(x)} and {len(y)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"rows of {x.shape[1]} and of {y.shape[1]} numbers cannot be compared")
    if strata is None:
        across = float(rbf(x, y, gamma).mean(dtype=np.float64))
        return _others(x, gamma) + _others(y, gamma) - 2 * across
    own, other = strata
    if (len(own), len(other)) != (len(x), len(y)):
        raise ValueError(f"{len(own)} and {len(other)} strata cannot be those of the rows")
    if min(len(np.unique(own)), len(np.unique(other))) < 2:
        raise ValueError("a discrepancy needs two rows of different strata on each side")
    return (
        _apart(x, x, own, own, gamma)
        + _apart(y, y, other, other, gamma)
        - 2 * _apart(x, y, own, other, gamma)
    )


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


def _apart(
    x: Floats, y: Floats, own: NDArray[np.integer], other: NDArray[np.integer], gamma: float
) -> float:
    """The mean of k over pairs of different strata."""
    return float(rbf(x, y, gamma)[own[:, None] != other].mean(dtype=np.float64))
