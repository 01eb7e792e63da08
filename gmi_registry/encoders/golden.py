"""Pictures and texts that are the same everywhere, by which an exported encoder is checked."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.encoders.protocol import Encoder

__all__ = ["GOLDEN_TEXTS", "TOLERANCE", "deviation", "golden_embeddings", "golden_pictures"]

TOLERANCE = 1e-3
"""How far a row may be from its golden one, as a part of that one's length."""

_SIZES = ((64, 64), (97, 41), (40, 151), (300, 200), (33, 34))

GOLDEN_TEXTS = (
    "a red apple",
    "An ORANGE cat, 3 icons; isn't it neat?",
    "café – naïve ½ ☕ 日本語 &amp; & æther",
    " ".join(f"word{number}" for number in range(120)),
    "",
)


def golden_pictures() -> list[Image.Image]:
    """Five RGB pictures of odd sizes, with slopes, edges and fine patterns.

    The value of channel c in column x of row y is (x (7 + 4c) + y (13 - 3c) + floor(x y / (5 + c)))
    mod 256.
    """
    pictures = []
    for width, height in _SIZES:
        x, y, c = np.arange(width)[None, :, None], np.arange(height)[:, None, None], np.arange(3)
        values = (x * (7 + 4 * c) + y * (13 - 3 * c) + x * y // (5 + c)) % 256
        pictures.append(Image.fromarray(values.astype(np.uint8)))
    return pictures


def golden_embeddings(encoder: Encoder) -> dict[str, NDArray[np.float32]]:
    """What an encoder makes of them: ``image_embeddings`` [5, D], ``text_embeddings`` [5, E]."""
    return {
        "image_embeddings": encoder.encode_images(golden_pictures()),
        "text_embeddings": encoder.encode_texts(GOLDEN_TEXTS),
    }


def deviation(rows: NDArray[np.float32], golden: NDArray[np.float32]) -> float:
    """The largest distance between a row and its golden one, divided by the golden one's length.

    Infinite where shapes differ or a value is not finite.
    """
    if rows.shape != golden.shape or not (np.isfinite(rows).all() and np.isfinite(golden).all()):
        return float("inf")
    wide, exact = rows.astype(np.float64), golden.astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1)
    if not (lengths > 0).all():
        return float("inf")
    return float((np.linalg.norm(wide - exact, axis=1) / lengths).max(initial=0.0))
