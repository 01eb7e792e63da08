"""How sure a ranking is: the chance that each model made the query's images.

The default score's distance of an image to a model is, up to a constant, minus twice the logarithm
of a Gaussian density. If exactly one of the ranked models made the images, and each was as likely
to before anything was seen, then the chance of model m is

    p_m = exp(-B d_m / 2T) / Σ_n exp(-B d_n / 2T),

with d_m the mean distance of B images. A temperature T of 1 would hold for embeddings that are as
Gaussian, and images as independent, as the formula has them; they are less so, and T makes up for
it. How much it must make up depends on the encoder and the models, which tell it themselves
(:mod:`gmi_registry.scoring.temperature`); the benchmark's test tasks say how far the chances can be
believed (docs/research.md).

The chances are about the models that are ranked: they say nothing of one that is not among them.
"""

from __future__ import annotations

import numpy as np

from gmi_registry.scoring.kernels import Floats, working_dtype

__all__ = ["TEMPERATURE", "confidences"]

TEMPERATURE = 1.7
"""Where nothing is known: the best on the dev tasks of the benchmark's zoo."""


def confidences(distances: Floats, images: int, *, temperature: float = TEMPERATURE) -> Floats:
    """The chance of each model, in 0..1 and 1 together, from distances of the default score.

    ``distances`` [..., M], each the mean of ``images`` query images; returns the same shape. Rows
    without a model stay empty. An infinite distance gives 0; where all are infinite, or some are
    not a number, each model gets the same. Raises ValueError unless images and temperature are
    positive.
    """
    if images < 1 or not temperature > 0:
        raise ValueError(f"needs at least one image and T > 0, got {images} and {temperature}")
    if distances.shape[-1] == 0:
        return distances.astype(working_dtype(distances))
    logits = -distances.astype(np.float64) * (images / (2 * temperature))
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chances = weights / weights.sum(axis=-1, keepdims=True)
    even = ~np.isfinite(chances).all(axis=-1, keepdims=True)
    chances = np.where(even, 1 / distances.shape[-1], chances)
    return np.asarray(chances, working_dtype(distances))
