"""Which specifications repeat one another: nearer than two sets of images of one model would be.

A specification is compared by the mean of its images, as the default score does. Where two means
μ_a and μ_b come from N images each, drawn independently by one and the same model, then on average

    (μ_a - μ_b)ᵀ(S + λI)⁻¹(μ_a - μ_b) = 2 tr((S + λI)⁻¹ S) / N,

with S and λ as in :mod:`gmi_registry.scoring.default`. The *separation* of two specifications is
the left side in units of the right one: about 1 for two draws of one model, less where both
answered the same prompts, and much more for models that differ. Means do not depend on the order of
rows, so that a copy whose rows changed places is one; and one mean may be multiplied by what brings
it nearest to the other, between a half and twice, so that longer or shorter rows do not matter.

What the limit was chosen from is in docs/explanation/trust.md.
"""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.within import WithinScatter

__all__ = ["REPEATED", "WINDOW", "repeats", "separations", "whitened"]

REPEATED = 0.1
"""Below this separation two specifications repeat each other. A tenth of what two sets of images of
one model have."""

WINDOW = 512
"""Repeats have nearly the same distance to any query, so that in a ranking they are near."""

_BLOCK_ROWS = 256
# How much longer the mean of a copy may be made.
_LONGEST = 2.0
# Copies of one original lie twice as far from each other as from it. No further: whoever puts a
# specification between two models must not make one of models that differ.
_REACH = 2.0
# Half precision moves a mean by less than this part of its squared length.
_ROUNDING = 1e-6


def whitened(
    means: Floats, scatter: WithinScatter, images: int
) -> tuple[NDArray[np.float64], float]:
    """Fᵀμ of ``means`` [R, D], each of so many ``images``, with F Fᵀ = (S + λI)⁻¹: [R, D]; and
    tr((S + λI)⁻¹ S) / N."""
    turned = means.astype(np.float64) @ scatter.whitening(SHRINKAGE)
    return turned, scatter.spread(SHRINKAGE) / images


def separations(one: Floats, others: Floats, excess: float) -> NDArray[np.float64]:
    """Of a whitened mean [D] to ``others`` [R, D]: [R], at least 0; see above.

    ``excess`` is tr((S + λI)⁻¹ S) / N. Where it is 0, because models have one image each or all the
    same, only means that are equal but for rounding have less than infinity.
    """
    a, b = one.astype(np.float64), others.astype(np.float64)
    return _separations(float(a @ a), np.einsum("rd,rd->r", b, b), b @ a, excess)


def _separations(
    own: NDArray[np.float64] | float,
    theirs: NDArray[np.float64],
    across: NDArray[np.float64],
    excess: float,
) -> NDArray[np.float64]:
    """From squared lengths on both sides and the products, which broadcast."""
    # Both ways, and the larger: making the longer one shorter makes every difference smaller.
    found = np.zeros_like(across)
    for fixed, scaled in ((own, theirs), (theirs, own)):
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = across / scaled
        # NaN: a mean of nothing stays that, whatever its factor.
        factor = np.clip(np.nan_to_num(factor, nan=1.0), 1 / _LONGEST, _LONGEST)
        np.maximum(found, fixed - 2 * factor * across + factor**2 * scaled, out=found)
    found[found <= _ROUNDING * np.maximum(own, theirs)] = 0
    if not excess > 0:
        return np.where(found > 0, np.inf, 0.0)
    return np.asarray(found / (2 * excess))


def repeats(whitened: Floats, excess: float, window: int = WINDOW) -> list[list[int]]:
    """The rows of ``whitened`` means [R, D], in groups that repeat each other; most are alone.

    Groups are in the order of their first rows, each in the order of its rows. Each row of a group
    repeats another one of it, and is no further than twice the limit from any: a chain of models
    that each differ a little is not one group, and nobody can make one of two that differ by
    putting something between them. Each row is compared with so many that follow, which will do
    for the order of a ranking.
    """
    rows = len(whitened)
    near: list[list[int]] = [[] for _ in range(rows)]
    lengths = np.einsum("rd,rd->r", whitened, whitened, dtype=np.float64)
    for start in range(0, rows, _BLOCK_ROWS):
        block = slice(start, min(start + _BLOCK_ROWS, rows))
        following = slice(start, block.stop + window)
        across = whitened[block].astype(np.float64) @ whitened[following].astype(np.float64).T
        apart = _separations(lengths[block, None], lengths[following], across, excess)
        for one, other in zip(*np.nonzero(apart <= REPEATED), strict=True):
            if 0 < other - one <= window:
                near[start + one].append(int(start + other))
                near[start + other].append(int(start + one))
    groups: list[list[int]] = []
    taken = [False] * rows
    for leader in range(rows):
        if taken[leader]:
            continue
        taken[leader] = True
        group, waiting = [leader], deque([leader])
        while waiting:
            for other in near[waiting.popleft()]:
                if taken[other]:
                    continue
                apart = separations(whitened[other], whitened[group], excess)
                if apart.max() <= _REACH * REPEATED:
                    taken[other] = True
                    group.append(other)
                    waiting.append(other)
        groups.append(sorted(group))
    return groups
