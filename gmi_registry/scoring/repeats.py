"""Which specifications repeat one another, and which are near everything.

**Repeats** are nearer than two sets of images of one model would be. A specification is compared by
the mean of its images, as the default score does. Where two means μ_a and μ_b come from N images
each, drawn independently by one and the same model, then on average

    (μ_a - μ_b)ᵀ(S + λI)⁻¹(μ_a - μ_b) = 2 tr((S + λI)⁻¹ S) / N,

with S and λ as in :mod:`gmi_registry.scoring.default`. The *separation* of two specifications is
the left side in units of the right one: about 1 for two draws of one model, less where both
answered the same prompts, and much more for models that differ. Means do not depend on the order of
rows, so that a copy whose rows changed places is one; and one mean may be multiplied by what brings
it nearest to the other, between a half and twice, so that longer or shorter rows do not matter.
What the limit was chosen from is in docs/explanation/trust.md.

**Hubs.** Asked with an image whose own model takes no part, every model should be the nearest about
as often as any other. In spaces of many dimensions some are far more often, which are called hubs
(Radovanović et al., JMLR 11, 2010); so is a specification that was made to be near everything, such
as the mean of all models. Each image asked counts the same, and each model that was drawn has as
many, so that what one member holds moves any share by no more than one over the number of these
models. Models that repeat each other are one, on both sides: copies of one model have no more to
say than it has, and a model that is published twelve times is counted as one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.default import SHRINKAGE

if TYPE_CHECKING:
    from gmi_registry.scoring.kernels import Floats
    from gmi_registry.scoring.scatter import WithinScatter

REPEATED = 0.1
"""Below this separation two specifications repeat each other. A tenth of what two sets of images of
one model have."""

WINDOW = 512
"""Repeats have nearly the same distance to any query, so that in a ranking they are near."""

_PAIR_ROWS = 256
# How much longer the mean of a copy may be made.
_LONGEST = 2.0
# Copies of one original lie twice as far from each other as from it. No further: whoever puts a
# specification between two models must not make one of models that differ.
_REACH = 2.0
# Half precision moves a mean by less than this part of its squared length.
_ROUNDING = 1e-6


def whiten(means: Floats, scatter: WithinScatter, images: int) -> tuple[NDArray[np.float64], float]:
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


def repeat_groups(whitened: Floats, excess: float, window: int = WINDOW) -> list[list[int]]:
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
    for start in range(0, rows, _PAIR_ROWS):
        block = slice(start, min(start + _PAIR_ROWS, rows))
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


TOP = 10
"""Places that are counted besides the first."""

_MEMBER_ROWS = 4096
# Of a normal deviate: one in two thousand is beyond it by chance.
_DEVIATIONS = 3.29


class SampleModel(NamedTuple):
    """Whitened ``images`` [n, D] of a member that was drawn, and its ``mean`` [D]."""

    member: int
    images: Floats
    mean: Floats


class NeighbourCounts(NamedTuple):
    """For each of G models, where those that repeat each other are one, how many images it was
    ``first`` [G] for, and among the first ten for, ``tenth`` [G]; of how many models any of these
    images were, ``breadth`` [G]."""

    first: NDArray[np.intp]
    tenth: NDArray[np.intp]
    breadth: NDArray[np.intp]


def nearest_members(
    members: int,
    means: Callable[[range], Floats],
    drawn: Sequence[SampleModel],
    pictures: Floats,
    excess: float,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The ten members nearest to each image of ``drawn`` models, [Q, 10], one model's after the
    other's, and to each of ``pictures`` [B, D], [B, 10]; -1 where there are no more.

    All are whitened. ``means`` gives whitened means [R, D] of the members at R rows. A model does
    not compete for its own images, nor do those that repeat it, for which ``excess`` is wanted (see
    :mod:`gmi_registry.scoring.repeats`).
    """
    asked = np.concatenate([*(it.images for it in drawn), pictures]).astype(np.float32)
    lengths = np.einsum("qd,qd->q", asked, asked)
    places = np.cumsum([0, *(len(it.images) for it in drawn)])
    best: NDArray[np.float32] = np.full((len(asked), TOP), np.inf, np.float32)
    who: NDArray[np.intp] = np.full((len(asked), TOP), -1, np.intp)
    for start in range(0, members, _MEMBER_ROWS):
        rows = range(start, min(start + _MEMBER_ROWS, members))
        block = means(rows)
        narrow = block.astype(np.float32)
        found = asked @ narrow.T
        found *= -2
        found += np.einsum("md,md->m", narrow, narrow)
        found += lengths[:, None]
        for number, it in enumerate(drawn):
            same = separations(it.mean, block, excess) <= REPEATED
            if it.member in rows:
                same[it.member - start] = True
            found[places[number] : places[number + 1], same] = np.inf
        chosen = np.argpartition(found, min(TOP, found.shape[1]) - 1, axis=1)[:, :TOP]
        best = np.concatenate([best, np.take_along_axis(found, chosen, axis=1)], axis=1)
        who = np.concatenate([who, chosen + start], axis=1)
        # Equal ones in the order of their rows, whatever the blocks.
        order = np.lexsort((who, best), axis=1)[:, :TOP]
        best = np.take_along_axis(best, order, axis=1)
        who = np.take_along_axis(who, order, axis=1)
    who[~np.isfinite(best)] = -1
    return who[: places[-1]], who[places[-1] :]


def count_neighbours(who: NDArray[np.intp], drawn: int, models: int) -> NeighbourCounts:
    """Of images [Q, 10] of ``drawn`` models, as many of each, whose nearest are ``who`` in
    0..``models``-1, -1 for nobody."""
    first = np.bincount(who[who[:, 0] >= 0, 0], minlength=models)
    tenth, breadth = np.zeros(models, np.intp), np.zeros(models, np.intp)
    for row in who:
        tenth[np.unique(row[row >= 0])] += 1
    for block in np.split(who, drawn) if drawn else ():
        breadth[np.unique(block[block[:, 0] >= 0, 0])] += 1
    return NeighbourCounts(first, tenth, breadth)


def lower_share(count: int, asked: int) -> float:
    """What share of all images is beyond doubt, where ``count`` of ``asked`` were counted.

    Wilson's bound at 3.29 standard deviations, which chance passes once in 2,000 times; 0 where
    nothing was asked.
    """
    if asked < 1:
        return 0.0
    share, z = count / asked, _DEVIATIONS**2 / asked
    centre = share + z / 2
    spread = np.sqrt(z * (share * (1 - share) + z / 4))
    return float(max(0.0, (centre - spread) / (1 + z)))
