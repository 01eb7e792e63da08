"""Specifications made of random numbers, with the spectrum that CLIP's embeddings have.

As in ``benchmarks/stored_index.py``: content that all models share (variance 52), styles in 250
families (14, and 13 of their own), and what only one image shows (17). The shares of directions
fall as powers of their number. Everything is turned by no rotation, which nothing here would feel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.lower_bounds import LowerBounds
from gmi_registry.scoring import WithinScatter, grams
from gmi_registry.scoring.default import mean_images
from gmi_registry.scoring.paper import Invariants

GAMMA = 0.02
_FAMILIES = 250
_BLOCK = 100

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Hub:
    """``images`` [M, N, D], ``grams`` [M, N, N], ``queries`` [64, D], ``weights`` [64, N], and all
    that is computed once for many queries."""

    images: Array
    grams: Array
    queries: Array
    weights: Array
    invariants: Invariants
    scatter: WithinScatter
    means: Array
    lower_bounds: LowerBounds

    @classmethod
    def made(cls, models: int, rows: int, width: int, directions: int, queries: int) -> Hub:
        rng = np.random.default_rng(5)

        def drawn(count: int, variance: float, slope: float) -> Array:
            scale = np.arange(1, width + 1, dtype=np.float32) ** (slope / 2)
            scale *= np.sqrt(variance / np.square(scale).sum())
            return rng.standard_normal((count, width), np.float32) * scale

        content = drawn(rows, 52, -2.9)
        families = drawn(_FAMILIES, 14, -0.8)
        images = np.empty((models, rows, width), np.float32)
        for start in range(0, models, _BLOCK):
            block = images[start : start + _BLOCK]
            styles = families[np.arange(start, start + len(block)) % _FAMILIES]
            styles = styles + drawn(len(block), 13, -0.8)
            own = drawn(len(block) * rows, 17, -2.9).reshape(block.shape)
            block[:] = content + styles[:, None] + own
        asked = rng.integers(0, models, queries)
        # Each in the style of some model, of content that none of its images shows.
        styles = images[asked].mean(axis=1) - content.mean(axis=0)
        pictures = drawn(queries, 52, -2.9) + styles + drawn(queries, 17, -2.9)
        known = grams(images, GAMMA)
        return cls(
            images=images,
            grams=known,
            queries=pictures,
            weights=rng.uniform(0.3, 0.9, (queries, rows)).astype(np.float32),
            invariants=Invariants.of(images, known),
            scatter=WithinScatter.of(images),
            means=mean_images(images),
            lower_bounds=LowerBounds.of(images, known, directions=directions),
        )
