"""Every icon in every style as one array, drawn once and kept in the work folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from zoo.icons import IconSet, fetch
from zoo.names import names
from zoo.styles import PICTURE_SIZE, SOURCES, STYLES

EXCLUDED = ("skin-tone", "flag-", "oclock", "-thirty", "keycap", "japanese-", "input-", "-button")
"""Parts of names that even the encoder and the autoencoder do not see: letters, clocks, flags."""


@dataclass(frozen=True)
class Pictures:
    """``pixels`` uint8 [S, K, 64, 64, 3] for S styles and K names.

    ``present`` bool [S, K] is False where a set lacks an icon: such a row is white and must
    be masked. ``names`` holds the K names; those of ``zoo.names`` are present in all styles.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    present: np.ndarray[Any, np.dtype[np.bool_]]
    names: tuple[str, ...]

    def rows(self, wanted: tuple[str, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Positions of ``wanted`` on the second axis."""
        place = {name: row for row, name in enumerate(self.names)}
        return np.array([place[name] for name in wanted])


def load(work: Path) -> Pictures:
    """The pictures, drawn from the icon packages unless ``work`` holds them already."""
    cache = work / "pictures.npz"
    if not cache.exists():
        draw(work, cache)
    with np.load(cache) as stored:
        return Pictures(stored["pixels"], stored["present"], tuple(stored["names"].tolist()))


def draw(work: Path, cache: Path) -> None:
    sets = {
        source.package: IconSet.read(fetch(source.package, source.version, work / "npm"))
        for source in SOURCES.values()
    }
    known = [icons.names() for icons in sets.values()]
    shared = [
        name
        for name in sorted(frozenset().union(*known))
        if sum(name in each for each in known) >= len(known) - 1
        and not any(bad in name for bad in EXCLUDED)
    ]
    missing = [name for name in names() for each in known if name not in each]
    if missing:
        raise ValueError(f"icon sets lack {sorted(set(missing))}; take them out of names.txt")
    shape = (len(STYLES), len(shared), PICTURE_SIZE, PICTURE_SIZE, 3)
    pixels, present = np.full(shape, 255, np.uint8), np.zeros(shape[:2], np.bool_)
    for column in track(range(len(shared)), description="drawing icons"):
        for row, style in enumerate(STYLES):
            icons = sets[style.source]
            if shared[column] in icons.names():
                pixels[row, column] = style.draw(icons.render(shared[column]))
                present[row, column] = True
    partial = cache.with_suffix(".partial.npz")
    np.savez_compressed(partial, pixels=pixels, present=present, names=np.array(shared))
    partial.replace(cache)
