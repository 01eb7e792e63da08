"""The sixteen art styles: ten icon sets as they are, and six made from them by a filter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

PICTURE_SIZE = 64
"""Pixels a side of every picture that the zoo trains on and generates."""


@dataclass(frozen=True)
class Source:
    """An npm package of icons, pinned, with what its licence asks to be named."""

    package: str
    version: str
    artist: str
    licence: str
    url: str


SOURCES = {
    source.package: source
    for source in (
        Source("twemoji", "1.2.5", "Twitter", "CC-BY-4.0", "https://github.com/jdecked/twemoji"),
        Source("noto", "1.2.9", "Google Inc", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
        Source("noto-v1", "1.2.5", "Google Inc", "Apache-2.0", "https://github.com/googlefonts/noto-emoji"),
        Source("openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0", "https://github.com/hfg-gmuend/openmoji"),
        Source("emojione", "1.2.3", "Emoji One", "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo"),
        Source("emojione-v1", "1.2.3", "Emoji One", "CC-BY-SA-4.0", "https://github.com/joypixels/emojione-legacy"),
        Source("fluent-emoji", "1.2.7", "Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji"),
        Source("fluent-emoji-flat", "1.2.6", "Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji"),
        Source("fluent-emoji-high-contrast", "1.2.6", "Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji"),
        Source("emojione-monotone", "1.2.1", "Emoji One", "CC-BY-4.0", "https://github.com/EmojiTwo/emojitwo"),
    )
}  # fmt: skip


def _plain(pixels: Pixels) -> Pixels:
    return _resize(Image.fromarray(pixels))


def _resize(image: Image.Image) -> Pixels:
    return np.asarray(image.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS))


def _pixel_art(pixels: Pixels) -> Pixels:
    small = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BOX)
    few = small.quantize(8, dither=Image.Dither.NONE).convert("RGB")
    return np.asarray(few.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.NEAREST))


def _edges(pixels: Pixels) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Edge strength in 0 to 1, float32 [H, W], the strongest of the three channels."""
    image = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1.0))
    values = np.asarray(image).astype(np.float32) / 255
    rows, columns = np.gradient(values, axis=(0, 1))
    strength: np.ndarray[Any, np.dtype[np.float32]] = np.hypot(rows, columns).max(axis=-1)
    clipped: np.ndarray[Any, np.dtype[np.float32]] = np.minimum(strength * 5, np.float32(1))
    return clipped


def _pencil(pixels: Pixels) -> Pixels:
    shade = np.asarray(Image.fromarray(pixels).convert("L")).astype(np.float32) / 255
    height, width = shade.shape
    rows, columns = np.mgrid[:height, :width]
    hatching = ((rows + columns) % 8 < 3) * (1 - shade) * 0.45
    paper = 0.96 - 0.75 * _edges(pixels) - hatching
    grey = (np.clip(paper, 0, 1) * 255).astype(np.uint8)
    return _resize(Image.fromarray(np.repeat(grey[..., None], 3, axis=-1)))


def _oil(pixels: Pixels) -> Pixels:
    daubed = Image.fromarray(pixels).filter(ImageFilter.ModeFilter(11))
    values = np.asarray(daubed).astype(np.float32) / 255
    canvas = np.array([0.95, 0.90, 0.80], np.float32)
    return _resize(Image.fromarray((values * canvas * 255).astype(np.uint8)))


def _halftone(pixels: Pixels) -> Pixels:
    cell = 8
    height, width, _ = pixels.shape
    blocks = pixels.reshape(height // cell, cell, width // cell, cell, 3).mean(axis=(1, 3))
    rows, columns = np.mgrid[:height, :width] % cell - (cell - 1) / 2
    radius = np.sqrt((255 - blocks.min(axis=-1)) / 255) * cell * 0.62
    inside = np.hypot(rows, columns) <= np.kron(radius, np.ones((cell, cell)))
    ink = np.kron(blocks, np.ones((cell, cell, 1)))
    return _resize(Image.fromarray(np.where(inside[..., None], ink, 255).astype(np.uint8)))


def _blueprint(pixels: Pixels) -> Pixels:
    lines = _edges(pixels)[..., None]
    paper = np.array([28, 78, 160], np.float32)
    return _resize(Image.fromarray((paper + (255 - paper) * lines).astype(np.uint8)))


def _watercolour(pixels: Pixels) -> Pixels:
    wash = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(4))).astype(
        np.float32
    )
    pale = 255 - (255 - wash) * 0.6
    rim = 1 - 0.25 * _edges(np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2))))
    return _resize(Image.fromarray(np.clip(pale * rim[..., None], 0, 255).astype(np.uint8)))


@dataclass(frozen=True)
class Style:
    """One model's style: where its pictures come from and how people would word it."""

    name: str
    source: str
    words: tuple[str, ...]
    tags: tuple[str, ...]
    draw: Callable[[Pixels], Pixels] = _plain

    @property
    def licence(self) -> str:
        return SOURCES[self.source].licence


STYLES = (
    Style("twemoji", "twemoji", ("flat cartoon icon", "bold flat vector"), ("flat", "colour", "vector")),
    Style("noto", "noto", ("soft gradient icon", "modern soft vector"), ("shaded", "colour", "vector")),
    Style("noto-v1", "noto-v1", ("blobby retro icon", "old glossy vector"), ("shaded", "colour", "retro")),
    Style("openmoji", "openmoji", ("black outline icon", "outlined flat drawing"), ("outline", "flat", "colour")),
    Style("emojione", "emojione", ("bright flat icon", "clean flat vector"), ("flat", "colour", "clean")),
    Style("emojione-v1", "emojione-v1", ("shaded classic icon", "detailed classic vector"), ("shaded", "colour", "classic")),
    Style("fluent-3d", "fluent-emoji", ("3d glossy render", "rounded 3d icon"), ("3d", "colour", "glossy")),
    Style("fluent-flat", "fluent-emoji-flat", ("flat fluent icon", "simple rounded flat"), ("flat", "colour", "rounded")),
    Style("fluent-contrast", "fluent-emoji-high-contrast", ("high contrast black glyph", "solid black symbol"), ("monochrome", "solid", "glyph")),
    Style("monotone", "emojione-monotone", ("monotone line glyph", "thin black line icon"), ("monochrome", "outline", "glyph")),
    Style("pixel-art", "twemoji", ("pixel art", "8 bit sprite"), ("pixel-art", "colour", "retro"), _pixel_art),
    Style("pencil", "noto", ("pencil sketch", "graphite drawing"), ("sketch", "monochrome", "hand-drawn"), _pencil),
    Style("oil", "fluent-emoji", ("oil painting", "daubed canvas painting"), ("painting", "colour", "textured"), _oil),
    Style("halftone", "emojione", ("halftone print", "dotted comic print"), ("halftone", "colour", "print"), _halftone),
    Style("blueprint", "openmoji", ("blueprint", "white lines on blue paper"), ("blueprint", "outline", "technical"), _blueprint),
    Style("watercolour", "fluent-emoji-flat", ("watercolour wash", "pale wet painting"), ("painting", "colour", "pastel"), _watercolour),
)  # fmt: skip
