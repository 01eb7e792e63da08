"""Distances for which images are read: some at a time, and of few models where means say enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gmi_registry.index.question import Near
from gmi_registry.index.selection import as_rows
from gmi_registry.index.stack import Stack
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.refine import refine_by_line, refines_all

__all__ = ["Distances", "by_portions", "near_by_means"]

Distances = Callable[[Sequence[int]], Floats]
"""Of the members at some rows [R]: [R], each by itself."""


def by_portions(stack: Stack, rows: Sequence[int], distances: Distances) -> Floats:
    """``distances`` of the members at ``rows`` [R], asked for as many at a time as should be read
    at once: [R]."""
    portions = stack.portions(rows)
    if len(portions) == 1:
        return distances(rows)
    members = as_rows(rows)
    found = [distances(members[portion].tolist()) for portion in portions]
    out = np.empty(len(members), found[0].dtype)
    for portion, some in zip(portions, found, strict=True):
        out[portion] = some
    return out


def near_by_means(
    stack: Stack,
    rows: Sequence[int],
    count: int,
    distances: Distances,
    each: Callable[[Floats], Floats],
    estimates: Callable[[Floats], Floats] = np.asarray,
) -> Near:
    """Those of ``rows`` [R] that may be among the ``count`` nearest.

    ``each`` says something of raw means, [n, D] to [n], of which ``estimates`` makes what distances
    rise with, [R] to [R]. Where members are few, or their images in memory, it is not asked.
    """
    if refines_all(len(rows), count):
        return Near.everything(distances(rows))
    members, estimator = as_rows(rows), stack.estimator
    if estimator is not None:
        said = estimator.of_means(rows, each)
    elif len(stack.portions(rows)) > 1:
        everything = len(rows) == len(stack.names)
        said = each(stack.means if everything else stack.means[members])
    else:
        return Near.everything(distances(rows))
    found = refine_by_line(estimates(said), lambda some: distances(members[some].tolist()), count)
    return Near(found.places, found.distances, found.distances[:0])
