"""Eq. 2 on raw pixels, which are too many to be held for all pictures at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gmi_registry.scoring.kernels import Floats, gram
from gmi_registry.scoring.paper import paper_distances

__all__ = ["pixel_distances"]

_BLOCK = 1 << 24  # values: 128 MB


def pixel_distances(
    models: Sequence[Sequence[Path]], gammas: Sequence[float], asked: Sequence[Path]
) -> Floats:
    """[I, M] for I query pictures and the N pictures of each of M models, all of one size.

    Model by model and block by block; pixels are in 0..1.
    """
    columns = []
    for pictures, gamma in zip(models, gammas, strict=True):
        own = _pixels(pictures)
        known = gram(own, gamma)[None]
        step = max(1, _BLOCK // own.shape[1])
        parts = []
        for start in range(0, len(asked), step):
            rows = _pixels(asked[start : start + step])
            ones = np.ones((len(rows), len(own)))
            parts.append(paper_distances(own[None], ones, rows, gamma, model_grams=known))
        columns.append(np.concatenate(parts))
    return np.concatenate(columns, axis=1)


def _pixels(pictures: Sequence[Path]) -> Floats:
    """[B, W] in 0..1."""
    rows = []
    for path in pictures:
        with Image.open(path) as image:
            rows.append(np.asarray(image.convert("RGB")).ravel())
    return np.stack(rows) / 255.0
