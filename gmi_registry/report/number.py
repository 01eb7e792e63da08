"""Distances and chances for people: enough digits to tell neighbours apart, not more."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmi_registry.index.result import Universal

__all__ = ["number", "percent"]


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
    told += f", where {percent(universal.share)} would be its share"
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
