"""The rivals: Modelverse (Lu et al. 2022) for image queries, and the download count.

Modelverse scores by a likelihood of the query under a model's distribution of unit-norm embeddings.
Here each becomes a distance, lower is better: one minus the cosine for the first moment, and the
negative logarithm of the likelihood, up to a constant shared by all models, for the other two (so
these may be negative). Several query images are independent draws: the mean of their distances.

Shapes: ``image_embeddings`` [M, N, D] and ``query_images`` [B, D] give [B, M]. Embeddings of norm
zero stay zero. β is the logit scale of the encoder, 100 for CLIP.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.query import unit_rows

__all__ = [
    "LOGIT_SCALE",
    "download_distances",
    "first_moment_distances",
    "monte_carlo_distances",
    "second_moment_distances",
]

LOGIT_SCALE = 100.0
_BLOCK_MODELS = 64


def first_moment_distances(image_embeddings: Floats, query_images: Floats) -> Floats:
    """1 - cos(z, μ_m), μ_m the mean of the model's unit-norm embeddings; in [0, 2]."""
    queries = _unit_queries(image_embeddings, query_images)
    out = np.empty((len(queries), len(image_embeddings)), queries.dtype)
    for part, rows in _unit_blocks(image_embeddings, queries.dtype):
        out[:, part] = 1 - queries @ unit_rows(rows.mean(axis=1)).T
    return out


def second_moment_distances(
    image_embeddings: Floats, query_images: Floats, *, logit_scale: float = LOGIT_SCALE
) -> Floats:
    """-(β z·μ_m + β²/2 zᵀΣ_m z), Σ_m the model's covariance (divided by N) of unit-norm embeddings.

    zᵀΣ_m z is the variance of the N cosines with z, so no [D, D] matrix is formed.
    """
    cosines = _cosines(image_embeddings, query_images)
    mean, variance = cosines.mean(axis=-1), cosines.var(axis=-1)
    return np.asarray(-(logit_scale * mean + logit_scale**2 / 2 * variance))


def monte_carlo_distances(
    image_embeddings: Floats, query_images: Floats, *, logit_scale: float = LOGIT_SCALE
) -> Floats:
    """-log((1/N) Σ_i exp(β cos(z_i, z))), computed without overflow."""
    logits = logit_scale * _cosines(image_embeddings, query_images)
    peak = logits.max(axis=-1, keepdims=True)
    return np.asarray(-(peak[..., 0] + np.log(np.exp(logits - peak).mean(axis=-1))))


def download_distances(downloads: Floats) -> Floats:
    """Minus the download count [M]: the most downloaded first; 1 where it is unknown: last."""
    return np.asarray(np.where(np.isnan(downloads), 1, -downloads))


def _unit_queries(image_embeddings: Floats, query_images: Floats) -> Floats:
    return unit_rows(query_images.astype(working_dtype(image_embeddings, query_images)))


def _unit_blocks(image_embeddings: Floats, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Floats]]:
    """Unit-norm rows of a few models at a time: a widened copy of a whole hub would be large."""
    for start in range(0, len(image_embeddings), _BLOCK_MODELS):
        part = slice(start, start + _BLOCK_MODELS)
        yield part, unit_rows(image_embeddings[part].astype(dtype, copy=False))


def _cosines(image_embeddings: Floats, query_images: Floats) -> Floats:
    """cos(z_m,i, z_b): [B, M, N]."""
    queries = _unit_queries(image_embeddings, query_images)
    out = np.empty((len(queries), *image_embeddings.shape[:2]), queries.dtype)
    for part, rows in _unit_blocks(image_embeddings, queries.dtype):
        out[:, part] = np.moveaxis(rows @ queries.T, -1, 0)
    return out
