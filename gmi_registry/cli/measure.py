"""Sizes and time spans as people type them."""

from __future__ import annotations

import re

import typer

__all__ = ["parse_age", "parse_size"]

_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_SIZES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int:
    """Bytes: ``500MB``, ``2GB``, or a plain number. Raises typer.BadParameter."""
    return int(_parsed(text, _SIZES, "a size such as 500MB or 2GB"))


def parse_age(text: str) -> float:
    """Seconds: ``12h``, ``30d``, ``8w``. Raises typer.BadParameter."""
    return _parsed(text, _AGES, "a time such as 12h, 30d or 8w")


def _parsed(text: str, units: dict[str, int], wanted: str) -> float:
    found = _NUMBER.fullmatch(text.strip())
    unit = None if found is None else units.get(found.group(2).lower())
    if found is None or unit is None:
        raise typer.BadParameter(f"{text!r} is not {wanted}")
    return float(found.group(1)) * unit
