"""Where a model's distance lies among those of its group, as coordinates of a small drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Strip", "strip"]

_WIDTH = 200.0
_INSET = 6.0


@dataclass(frozen=True)
class Strip:
    """Horizontal positions on a line from the nearest (left) to the farthest model (right).

    ``others`` are the ticks of all models of the group, ``own`` the dot of this one, ``width`` the
    length of the line's drawing.
    """

    own: float
    others: tuple[float, ...]
    width: float = _WIDTH
    inset: float = _INSET

    @property
    def end(self) -> float:
        """Where the line ends."""
        return self.width - self.inset


def strip(distance: float, distances: Sequence[float]) -> Strip:
    """Place ``distance`` among ``distances``; what is not finite goes to the far end."""
    finite = [value for value in distances if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)

    def place(value: float) -> float:
        if not math.isfinite(value):
            return _WIDTH - _INSET
        part = (value - low) / (high - low) if high > low else 0.0
        return round(_INSET + part * (_WIDTH - 2 * _INSET), 1)

    return Strip(place(distance), tuple(place(value) for value in distances))
