"""How a picture becomes the input of an image tower, in Pillow and numpy, as open_clip does it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gmi_registry.errors import InputError
from gmi_registry.spec import Preprocess

__all__ = ["Pixels"]

_RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}


class Pixels:
    """Pictures to the numbers that the tower was trained on.

    ``fill_color`` (0 to 255) is what the mode ``longest`` pads with. Raises InputError for an
    interpolation that open_clip has not.
    """

    def __init__(self, preprocess: Preprocess, fill_color: int = 0) -> None:
        if preprocess.interpolation not in _RESAMPLING:
            raise InputError(
                f"pictures are never resized by {preprocess.interpolation} here",
                hint=f"one of {', '.join(_RESAMPLING)}",
            )
        self._mode = preprocess.resize_mode
        self._side = preprocess.size
        self._resampling = _RESAMPLING[preprocess.interpolation]
        self._fill = (fill_color,) * 3
        self._mean = np.array(preprocess.mean, dtype=np.float32)
        self._std = np.array(preprocess.std, dtype=np.float32)

    def square(self, image: Image.Image) -> NDArray[np.uint8]:
        """One picture, made RGB where it is not, to uint8 [S, S, 3] before normalisation."""
        if image.mode != "RGB":  # a copy of a large picture takes as much again
            image = image.convert("RGB")
        side = self._side
        if self._mode == "squash":
            image = image.resize((side, side), self._resampling)
        elif self._mode == "shortest":
            image = self._cropped(image.resize(self._covering(image), self._resampling))
        else:
            image = self._cropped(self._padded(image.resize(self._within(image), self._resampling)))
        return np.asarray(image, dtype=np.uint8)

    def __call__(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """B pictures to float32 [B, 3, S, S]."""
        rows = np.stack([self.square(image) for image in images]).astype(np.float32)
        # The order of the operations is that of torchvision: another one rounds differently.
        rows = (rows / np.float32(255) - self._mean) / self._std
        return np.ascontiguousarray(rows.transpose(0, 3, 1, 2))

    def _covering(self, image: Image.Image) -> tuple[int, int]:
        """The size at which the short side fits; the long one is rounded down."""
        width, height = image.size
        long = int(self._side * max(width, height) / min(width, height))
        return (self._side, long) if width <= height else (long, self._side)

    def _within(self, image: Image.Image) -> tuple[int, int]:
        """The size at which the long side fits; the short one is rounded to the nearest."""
        ratio = max(length / self._side for length in image.size)
        width, height = (max(1, round(length / ratio)) for length in image.size)
        return width, height

    def _padded(self, image: Image.Image) -> Image.Image:
        missing = [max(0, self._side - length) for length in image.size]
        if not any(missing):
            return image
        left, top = (some // 2 for some in missing)
        right, bottom = ((some + 1) // 2 for some in missing)
        return ImageOps.expand(image, border=(left, top, right, bottom), fill=self._fill)

    def _cropped(self, image: Image.Image) -> Image.Image:
        # round() takes a half to the even neighbour, here as in torchvision.
        left, top = (round((length - self._side) / 2) for length in image.size)
        return image.crop((left, top, left + self._side, top + self._side))
