"""How the background pictures were made: ``python -m zoo.background`` writes them.

They are computed from nothing but numbers, so that nobody has rights in them but this project, and
they stand for what people might ask with: scenes with a horizon, landscapes, rooms, heads and
shoulders, things on a table, icons, lettering, patterns, textures, and pictures out of focus. They
are no photographs, and are not meant to look like any model's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["drawn", "sheet"]

SIDE = 96
"""Pixels of a picture."""
ACROSS = 8
"""Pictures in a row of the sheet, which has as many rows."""

Colours = NDArray[np.float64]
_SEED = 20_240_611


def sheet() -> Image.Image:
    """All pictures in one, row by row."""
    cells = np.stack([drawn(number) for number in range(ACROSS * ACROSS)])
    rows = cells.reshape(ACROSS, ACROSS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4)
    return Image.fromarray(np.ascontiguousarray(rows.reshape(ACROSS * SIDE, ACROSS * SIDE, 3)))


def drawn(number: int) -> NDArray[np.uint8]:
    """One picture, [96, 96, 3]: eight kinds, one a row of the sheet."""
    canvas = _Canvas(np.random.default_rng([_SEED, number]))
    _KINDS[number // ACROSS](canvas)
    # Few levels, so that the file is small; no eye and no encoder sees the difference.
    return (np.clip(canvas.pixels, 0, 1) * 63).round().astype(np.uint8) * 4


class _Canvas:
    """``pixels`` [96, 96, 3] in 0..1; ``x`` to the right and ``y`` down, both in 0..1."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        at = (np.arange(SIDE) + 0.5) / SIDE
        self.y, self.x = np.meshgrid(at, at, indexing="ij")
        self.pixels: Colours = np.ones((SIDE, SIDE, 3))

    def colour(self, dark: float = 0.0, light: float = 1.0) -> Colours:
        return np.asarray(self.random.uniform(dark, light, 3))

    def fill(self, colour: Colours) -> None:
        self.pixels[:] = colour

    def fade(self, above: Colours, below: Colours, start: float = 0.0, end: float = 1.0) -> None:
        part = np.clip((self.y - start) / (end - start), 0, 1)[..., None]
        inside = (self.y >= start) & (self.y <= end)
        self.pixels[inside] = (above * (1 - part) + below * part)[inside]

    def paint(self, level: Colours, colour: Colours | list[float], edge: float = 0.008) -> None:
        """Where ``level`` is below 0, with an edge that is soft by as much."""
        cover = np.clip(0.5 - level / edge, 0, 1)[..., None]
        self.pixels[:] = self.pixels * (1 - cover) + np.asarray(colour) * cover

    def disc(self, x: float, y: float, wide: float, high: float) -> Colours:
        far = np.sqrt(((self.x - x) / wide) ** 2 + ((self.y - y) / high) ** 2)
        return np.asarray((far - 1) * min(wide, high))

    def box(self, x: float, y: float, wide: float, high: float) -> Colours:
        return np.maximum(np.abs(self.x - x) - wide, np.abs(self.y - y) - high)

    def cloud(self, finest: int, roughness: float = 0.6) -> Colours:
        """Noise of several sizes, from a third of the picture to ``finest`` cells, in 0..1."""
        total, weight = np.zeros((SIDE, SIDE)), 1.0
        cells = 3
        while cells <= finest:
            total += weight * self._smooth(self.random.random((cells + 1, cells + 1)), cells)
            cells, weight = cells * 2, weight * roughness
        total -= total.min()
        return np.asarray(total / total.max())

    def _smooth(self, corners: Colours, cells: int) -> Colours:
        across, down = self.x * cells, self.y * cells
        left, top = across.astype(int), down.astype(int)
        right, low = across - left, down - top
        right, low = right * right * (3 - 2 * right), low * low * (3 - 2 * low)
        above = corners[top, left] * (1 - right) + corners[top, left + 1] * right
        below = corners[top + 1, left] * (1 - right) + corners[top + 1, left + 1] * right
        return np.asarray(above * (1 - low) + below * low)

    def light(self, amount: float) -> None:
        """Brighter on one side, as things are in a room."""
        turn = self.random.uniform(0, 2 * np.pi)
        side = (self.x - 0.5) * np.cos(turn) + (self.y - 0.5) * np.sin(turn)
        self.pixels *= 1 + amount * side[..., None]


def _landscape(it: _Canvas) -> None:
    horizon = it.random.uniform(0.35, 0.65)
    it.fade(it.colour(0.3, 0.9), it.colour(0.6, 1.0), 0, 1)
    x, y = it.random.uniform(0.15, 0.45, 2)
    it.paint(it.disc(x, y, 0.08, 0.08), it.colour(0.8, 1.0), 0.05)
    for step in range(3):
        line = horizon + 0.13 * step + 0.12 * (it.cloud(6 * 2**step)[0] - 0.5)
        it.paint(line[None, :] - it.y, it.colour(0.1, 0.35 + 0.15 * step))
    for _ in range(int(it.random.integers(0, 12))):
        x, y, size = it.random.uniform(0, 1), it.random.uniform(horizon, 0.95), 0.04
        it.paint(it.box(x, y, 0.006, size), it.colour(0.1, 0.4))
        it.paint(it.disc(x, y - size, size, size * 1.3), it.colour(0.1, 0.5), 0.02)


def _street(it: _Canvas) -> None:
    it.fade(it.colour(0.4, 0.9), it.colour(0.6, 1.0))
    ground = it.random.uniform(0.7, 0.85)
    left = 0.0
    while left < 1:
        wide, high = it.random.uniform(0.08, 0.22), it.random.uniform(0.2, 0.6)
        wall, pane = it.colour(0.15, 0.8), it.colour(0.5, 1.0)
        it.paint(it.box(left + wide / 2, ground - high / 2, wide / 2, high / 2), wall)
        for y in np.arange(ground - high + 0.04, ground - 0.03, 0.07):
            for x in np.arange(left + 0.025, left + wide - 0.02, 0.045):
                if it.random.random() < 0.7:
                    it.paint(it.box(x, y, 0.012, 0.02), pane)
        left += wide + it.random.uniform(0, 0.03)
    it.fade(it.colour(0.2, 0.5), it.colour(0.2, 0.6), ground, 1)
    it.pixels *= (0.9 + 0.2 * it.cloud(48))[..., None]


def _portrait(it: _Canvas) -> None:
    it.fill(it.colour(0.2, 1.0))
    it.pixels *= (0.8 + 0.3 * it.cloud(6))[..., None]
    skin = np.array([0.95, 0.75, 0.6]) * it.random.uniform(0.35, 1.05)
    hair, shirt = it.colour(0.0, 0.6), it.colour()
    x, size = it.random.uniform(0.42, 0.58), it.random.uniform(0.16, 0.22)
    it.paint(it.disc(x, 0.42 - size * 0.35, size * 1.2, size * 1.35), hair, 0.03)
    it.paint(it.disc(x, 1.05, size * 2.2, 0.36), shirt, 0.02)
    it.paint(it.box(x, 0.65, size * 0.38, 0.12), skin * 0.9, 0.02)
    it.paint(it.disc(x, 0.45, size, size * 1.3), skin, 0.02)
    for side in (-1, 1):
        it.paint(it.disc(x + side * size * 0.4, 0.42, size * 0.17, size * 0.1), [0.95] * 3)
        it.paint(it.disc(x + side * size * 0.4, 0.42, size * 0.08, size * 0.09), it.colour(0, 0.4))
        it.paint(it.box(x + side * size * 0.4, 0.37, size * 0.22, size * 0.04), hair)
    it.paint(it.disc(x, 0.49, size * 0.09, size * 0.16), skin * 0.85, 0.02)
    it.paint(it.disc(x, 0.57, size * 0.3, size * 0.08), [0.7, 0.3, 0.3])
    it.light(0.5)


def _still_life(it: _Canvas) -> None:
    table = it.random.uniform(0.5, 0.7)
    it.fade(it.colour(0.2, 0.9), it.colour(0.2, 0.9), 0, table)
    it.fade(it.colour(0.3, 0.7), it.colour(0.1, 0.5), table, 1)
    for _ in range(int(it.random.integers(2, 6))):
        x, size, colour = it.random.uniform(0.15, 0.85), it.random.uniform(0.07, 0.17), it.colour()
        y = table + it.random.uniform(0.02, 0.15)
        it.paint(it.disc(x + 0.04, y + size * 0.9, size * 1.1, size * 0.25), [0.1] * 3, 0.06)
        if it.random.random() < 0.6:
            it.paint(it.disc(x, y, size, size), colour)
            it.paint(
                it.disc(x - size * 0.35, y - size * 0.4, size * 0.25, size * 0.2), [1.0] * 3, 0.05
            )
        else:
            it.paint(it.box(x, y - size * 0.5, size * 0.55, size * 1.4), colour)
            it.paint(it.box(x, y - size * 2, size * 0.2, size * 0.3), colour * 0.8)
    it.light(0.6)


def _icon(it: _Canvas) -> None:
    it.fill(np.ones(3) if it.random.random() < 0.6 else it.colour(0.7, 1.0))
    ink = it.colour(0.0, 0.7)
    for _ in range(int(it.random.integers(1, 4))):
        x, y = it.random.uniform(0.3, 0.7, 2)
        wide, high = it.random.uniform(0.12, 0.35, 2)
        level = (it.disc if it.random.random() < 0.5 else it.box)(x, y, wide, high)
        it.paint(level, it.colour())
        if it.random.random() < 0.6:
            it.paint(np.abs(level) - 0.02, ink)
    points = int(it.random.integers(3, 8))
    around = np.arctan2(it.y - 0.5, it.x - 0.5) + it.random.uniform(0, 6)
    star = np.hypot(it.x - 0.5, it.y - 0.5) - 0.2 - 0.07 * np.cos(points * around)
    it.paint(star, it.colour())


def _lettering(it: _Canvas) -> None:
    it.fill(it.colour(0.75, 1.0))
    ink, rows = it.colour(0.0, 0.35), int(it.random.integers(3, 9))
    pitch = 0.9 / rows
    for row in range(rows):
        y, x = 0.05 + pitch * (row + 0.5), 0.07
        while x < 0.9:
            size = pitch * 0.3
            for _ in range(int(it.random.integers(1, 4))):
                dx, dy = it.random.uniform(-0.3, 0.3, 2) * pitch
                upright = it.random.random() < 0.5
                wide, high = (0.1, 1.0) if upright else (0.8, 0.12)
                it.paint(it.box(x + dx, y + dy * 0.5, size * wide, size * high), ink)
            x += pitch * (0.7 if it.random.random() < 0.8 else 1.5)
    if it.random.random() < 0.5:
        x, y = it.random.uniform(0.3, 0.7, 2)
        it.paint(it.disc(x, y, 0.2, 0.2), it.colour(), 0.01)


def _pattern(it: _Canvas) -> None:
    count, turn = it.random.uniform(3, 12), it.random.uniform(0, np.pi)
    along = it.x * np.cos(turn) + it.y * np.sin(turn)
    across = -it.x * np.sin(turn) + it.y * np.cos(turn)
    kind = int(it.random.integers(0, 4))
    waves = np.sin(2 * np.pi * count * along)
    if kind == 1:
        waves = waves * np.sin(2 * np.pi * count * across)
    elif kind == 2:
        waves = np.sin(2 * np.pi * count * np.hypot(it.x - 0.5, it.y - 0.5))
    elif kind == 3:
        waves = np.maximum(waves, np.sin(2 * np.pi * count * across)) - 0.5
    it.fill(it.colour())
    it.paint(waves * 0.05, it.colour(), 0.02 if it.random.random() < 0.6 else 0.2)


def _texture(it: _Canvas) -> None:
    first, second, third = it.colour(), it.colour(), it.colour()
    rough = it.random.uniform(0.4, 0.85)
    one = it.cloud(int(it.random.choice([6, 24, 48])), rough)[..., None]
    two = it.cloud(12, rough)[..., None]
    it.pixels[:] = first * one + second * (1 - one)
    it.pixels[:] = it.pixels * two + third * (1 - two)
    it.light(0.5)


_KINDS: tuple[Callable[[_Canvas], None], ...] = (
    _landscape,
    _street,
    _portrait,
    _still_life,
    _icon,
    _lettering,
    _pattern,
    _texture,
)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("gmi_registry/background.png")
    sheet().save(target, optimize=True)
