"""From estimates to the nearest models, with as few distances worked out as that takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.ranking import least

__all__ = ["CLOSE", "LOOSE", "Care", "Settled", "settled", "settles_all"]

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


class Settled(NamedTuple):
    """``distances`` [R], some of them estimates unless all had to be worked out, which is
    ``exhausted``."""

    distances: Floats
    exhausted: bool


def settles_all(models: int, count: int, care: Care = LOOSE) -> bool:
    """Whether :func:`settled` would ask for all of so many models, whatever the estimates."""
    return 2 * care.models(count) >= models


def settled(
    estimates: Floats,
    exact: Callable[[NDArray[np.intp]], Floats],
    count: int,
    care: Care = LOOSE,
) -> Settled:
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
        settled_rows = np.flatnonzero(known)
        if len(settled_rows) == models:
            return Settled(out, exhausted=True)
        found = out[settled_rows]
        off = float(np.sqrt(np.square(found - estimates[settled_rows], dtype=np.float64).mean()))
        limit = float(np.partition(found, count - 1)[count - 1]) + _DEVIATIONS * off
        needed = int(np.count_nonzero(estimates <= limit))
        if needed <= len(settled_rows):
            return Settled(out, exhausted=False)
        wanted = max(needed, len(settled_rows) + 1)
