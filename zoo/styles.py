"""The sixteen art styles: six icon sets as they are, and ten made from four of them by a filter.

A filter draws from a set that is here anyway, so that each name has six drawings, not sixteen.
"""

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
        Source("openmoji", "1.2.29", "OpenMoji", "CC-BY-SA-4.0", "https://github.com/hfg-gmuend/openmoji"),
        Source("fluent-emoji", "1.2.7", "Microsoft Corporation", "MIT", "https://github.com/microsoft/fluentui-emoji"),
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
    paper = np.array([252, 240, 170])
    return _resize(Image.fromarray(np.where(inside[..., None], ink, paper).astype(np.uint8)))


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


def _neon(pixels: Pixels) -> Pixels:
    values = np.asarray(Image.fromarray(pixels).filter(ImageFilter.MinFilter(5)))
    lines = _edges(pixels)[..., None]
    tube = 90 + 165 * (values / np.maximum(values.max(axis=-1, keepdims=True), 1)) ** 2
    night = np.array([14, 8, 30], np.float32)
    lit = Image.fromarray((night + (tube - night) * lines).astype(np.uint8))
    glow = np.asarray(lit.filter(ImageFilter.GaussianBlur(5))).astype(np.float32)
    return _resize(
        Image.fromarray(np.clip(np.asarray(lit) + glow - night, 0, 255).astype(np.uint8))
    )


def _mosaic(pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    cell = 16
    seeds = np.random.default_rng(7).uniform(0, cell, (height // cell, width // cell, 2))
    corners = np.mgrid[: height // cell, : width // cell].transpose(1, 2, 0) * cell
    points = (corners + seeds).reshape(-1, 2)
    places = np.mgrid[:height, :width].transpose(1, 2, 0)[:, :, None]
    distances = np.linalg.norm(places - points, axis=-1)
    nearest = np.argsort(distances, axis=-1)[..., :2]
    first, second = np.take_along_axis(distances, nearest, -1).transpose(2, 0, 1)
    owner = nearest[..., 0].ravel()
    counts = np.maximum(np.bincount(owner, minlength=len(points)), 1)[:, None]
    sums = [np.bincount(owner, part, len(points)) for part in pixels.reshape(-1, 3).T]
    glass = (np.stack(sums, -1) / counts)[owner].reshape(pixels.shape)
    lead = (second - first < 2.2)[..., None]
    return _resize(Image.fromarray(np.where(lead, 40, glass).astype(np.uint8)))


def _woodcut(pixels: Pixels) -> Pixels:
    grey = np.asarray(Image.fromarray(pixels).convert("L")).astype(np.float32) / 255
    rows = np.mgrid[: grey.shape[0], : grey.shape[1]][0] % 8
    cut = rows < 8 * (1.05 - grey)
    ink = np.array([120, 20, 24])
    paper = np.array([244, 226, 196])
    print_ = np.where((cut & (grey < 0.97))[..., None], ink, paper)
    lines = _edges(pixels)[..., None] > 0.6
    return _resize(Image.fromarray(np.where(lines, ink, print_).astype(np.uint8)))


def _sepia(pixels: Pixels) -> Pixels:
    grey = np.asarray(Image.fromarray(pixels).convert("L")).astype(np.float32)[..., None] / 255
    height, width, _ = pixels.shape
    rows, columns = np.mgrid[:height, :width]
    far = np.hypot(rows - height / 2, columns - width / 2)[..., None] / (height / 2)
    vignette = 1 - 0.45 * np.clip(far - 0.55, 0, 1)
    tone = np.array([40, 22, 10]) + grey * np.array([190, 168, 128])
    return _resize(Image.fromarray((tone * vignette).astype(np.uint8)))


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

    @property
    def filtered(self) -> bool:
        """Whether a filter of ours stands between the artist's picture and the style's."""
        return self.draw is not _plain


STYLES = (
    Style("twemoji", "twemoji", ("flat cartoon icon", "bold flat vector"), ("flat", "colour", "vector")),
    Style("noto", "noto", ("soft gradient icon", "modern soft vector"), ("shaded", "colour", "vector")),
    Style("openmoji", "openmoji", ("black outline icon", "outlined flat drawing"), ("outline", "flat", "colour")),
    Style("fluent-3d", "fluent-emoji", ("3d glossy render", "rounded 3d icon"), ("3d", "colour", "glossy")),
    Style("fluent-contrast", "fluent-emoji-high-contrast", ("high contrast black glyph", "solid black symbol"), ("monochrome", "solid", "glyph")),
    Style("monotone", "emojione-monotone", ("monotone line glyph", "thin black line icon"), ("monochrome", "outline", "glyph")),
    Style("pixel-art", "twemoji", ("pixel art", "8 bit sprite"), ("pixel-art", "colour", "retro"), _pixel_art),
    Style("pencil", "noto", ("pencil sketch", "graphite drawing"), ("sketch", "monochrome", "hand-drawn"), _pencil),
    Style("oil", "fluent-emoji", ("oil painting", "daubed canvas painting"), ("painting", "colour", "textured"), _oil),
    Style("halftone", "twemoji", ("halftone print", "dotted comic print"), ("halftone", "colour", "print"), _halftone),
    Style("blueprint", "openmoji", ("blueprint", "white lines on blue paper"), ("blueprint", "outline", "technical"), _blueprint),
    Style("watercolour", "noto", ("watercolour wash", "pale wet painting"), ("painting", "colour", "pastel"), _watercolour),
    Style("neon", "noto", ("neon sign", "glowing lines at night"), ("neon", "outline", "dark"), _neon),
    Style("mosaic", "twemoji", ("stained glass mosaic", "leaded glass window"), ("mosaic", "colour", "glass"), _mosaic),
    Style("woodcut", "openmoji", ("woodcut print", "engraved block print"), ("woodcut", "monochrome", "print"), _woodcut),
    Style("sepia", "fluent-emoji", ("sepia photograph", "faded brown photo"), ("sepia", "monochrome", "photo"), _sepia),
)  # fmt: skip
