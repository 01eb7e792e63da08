"""Distances and probabilities as text, and positions on a small line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmi_registry.index.result import Universal


def percent(chance: float | None) -> str:
    """A chance in 0..1 in whole percent; nothing where there is none, never certain or impossible.

    0 % and 100 % would say more than a formula can know.
    """
    if chance is None:
        return ""
    if chance < 0.01:
        return "< 1 %"
    return "> 99 %" if chance >= 0.995 else f"{100 * chance:.0f} %"


def near_everything(universal: Universal) -> str:
    """One line that says how often a model that is near everything is first."""
    told = f"near everything: first for {percent(universal.first)} of other models' images"
    told += f"; its share would be {percent(universal.share)}"
    if universal.pictures is not None and universal.pictures > universal.first:
        told += f", and for {percent(universal.pictures)} of background pictures"
    return told


def number(value: float) -> str:
    """Four significant digits, without an exponent where that stays short."""
    if math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    size = abs(value)
    if size != 0 and (size < 1e-4 or size >= 1e6):
        return f"{value:.2e}"
    decimals = 4 if size < 1 else max(0, 3 - math.floor(math.log10(size)))
    return f"{value:.{decimals}f}"


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
