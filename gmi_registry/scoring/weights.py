"""How much each generated image counts for a query: w_i = cos(q_prompt(i), q̂).

Two conventions for vectors of norm zero, for which a cosine does not exist:

- a prompt whose embedding is zero is related to nothing and gets weight 0;
- a pseudo-prompt whose embedding is zero says nothing, exactly like a missing one, so every
  image gets weight 1 (and Eq. 9 becomes its unweighted form rather than a constant).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats, working_dtype

__all__ = ["clamped", "cosine_weights", "uniform", "unit_rows"]


def cosine_weights(
    prompt_embeddings: Floats, image_prompt: NDArray[np.integer], pseudo_prompt: Floats
) -> Floats:
    """The weights of Eq. 9, raw cosines in [-1, 1].

    ``prompt_embeddings`` [P, E], ``image_prompt`` [N] with values in 0..P-1, ``pseudo_prompt`` [E];
    returns [N]. See the module for vectors of norm zero. Raises IndexError if ``image_prompt``
    points outside the prompts.
    """
    _check_rows(image_prompt, len(prompt_embeddings))
    dtype = working_dtype(prompt_embeddings, pseudo_prompt)
    query = unit_rows(pseudo_prompt.astype(dtype)[None, :])[0]
    if not query.any():
        return uniform(len(image_prompt)).astype(dtype)
    cosines = np.clip(unit_rows(prompt_embeddings.astype(dtype)) @ query, -1, 1)
    return np.asarray(cosines[image_prompt])


def uniform(n: int) -> Floats:
    """w_i = 1 for ``n`` images: the unweighted mean embedding of Eq. 2; returns [n] float32."""
    return np.ones(n, np.float32)


def clamped(weights: Floats) -> Floats:
    """Negative weights set to 0, then scaled to sum 1 over the last axis; same shape.

    Where no weight is positive nothing is known about the images, and each gets 1/N.
    These are coefficients of a mean: unlike ``cosine_weights`` they already hold the 1/N.
    """
    positive = np.maximum(weights, 0).astype(working_dtype(weights), copy=False)
    total = positive.sum(axis=-1, keepdims=True)
    hopeless = total <= 0
    positive = np.where(hopeless, 1, positive).astype(positive.dtype, copy=False)
    return np.asarray(positive / positive.sum(axis=-1, keepdims=True))


def unit_rows(rows: Floats) -> Floats:
    """Rows scaled to norm 1; a row of zeros stays zero."""
    # Dividing by the largest entry first keeps the square from over- or underflowing.
    peak = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
    rows = rows / np.where(peak == 0, 1, peak)
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norm == 0, 1, norm))


def _check_rows(image_prompt: NDArray[np.integer], prompts: int) -> None:
    if image_prompt.size and (image_prompt.min() < 0 or image_prompt.max() >= prompts):
        raise IndexError(f"image_prompt must lie in 0..{prompts - 1}")
