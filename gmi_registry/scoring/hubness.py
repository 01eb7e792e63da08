"""How often a model is first for images that are not its own: hubs, and models that are like all.

Asked with an image whose own model takes no part, every model should be the nearest about as often
as any other. In spaces of many dimensions some are far more often, which are called hubs
(Radovanović et al., JMLR 11, 2010); so is a specification that was made to be near everything, such
as the mean of all models. Each image asked counts the same, and each model that was drawn has as
many, so that what one member holds moves any share by no more than one over the number of these
models. Models that repeat each other are one, on both sides: copies of one model have no more to
say than it has, and a model that is published twelve times is counted as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.repeats import REPEATED, separations

__all__ = ["TOP", "Counts", "Drawn", "counted", "lower_share", "nearest"]

TOP = 10
"""Places that are counted besides the first."""

_BLOCK_ROWS = 4096
# Of a normal deviate: one in two thousand is beyond it by chance.
_DEVIATIONS = 3.29


class Drawn(NamedTuple):
    """Whitened ``images`` [n, D] of a member that was drawn, and its ``mean`` [D]."""

    member: int
    images: Floats
    mean: Floats


class Counts(NamedTuple):
    """For each of G models, where those that repeat each other are one, how many images it was
    ``first`` [G] for, and among the first ten for, ``tenth`` [G]; of how many models any of these
    images were, ``breadth`` [G]."""

    first: NDArray[np.intp]
    tenth: NDArray[np.intp]
    breadth: NDArray[np.intp]


def nearest(
    members: int,
    means: Callable[[range], Floats],
    drawn: Sequence[Drawn],
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
    for start in range(0, members, _BLOCK_ROWS):
        rows = range(start, min(start + _BLOCK_ROWS, members))
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


def counted(who: NDArray[np.intp], drawn: int, models: int) -> Counts:
    """Of images [Q, 10] of ``drawn`` models, as many of each, whose nearest are ``who`` in
    0..``models``-1, -1 for nobody."""
    first = np.bincount(who[who[:, 0] >= 0, 0], minlength=models)
    tenth, breadth = np.zeros(models, np.intp), np.zeros(models, np.intp)
    for row in who:
        tenth[np.unique(row[row >= 0])] += 1
    for block in np.split(who, drawn) if drawn else ():
        breadth[np.unique(block[block[:, 0] >= 0, 0])] += 1
    return Counts(first, tenth, breadth)


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
