"""The ``default`` score: the distance to a model's mean embedding, after whitening.

For a query image z and a model with mean embedding μ̂_m = Σ_i a_i z_i,

    d_m = (z - μ̂_m)ᵀ (S + λI)⁻¹ (z - μ̂_m) - tr((S + λI)⁻¹ S) Σ_i a_i²,

with S the covariance of images *within* a model, pooled over the models, and λ its mean eigenvalue.
A query image differs from the mean of its own model mostly in content. S is large along content, so
dividing by it leaves what tells models apart.

The second term is what the first is too large by on average, because μ̂_m is a mean of few images
and not the model's true mean: d_m estimates the distance to the latter without bias. Models with
equal coefficients all have the same term; models with fewer images have a larger one, without which
they would come too far behind. As an unbiased estimate d_m can fall below zero.

The coefficients a are the clamped prompt weights (sum 1), or 1/N without a pseudo-prompt. Taking
the mean over models of each prompt off both z and μ̂_m would cancel in the difference, hence is not
done. For several query images the distance is the mean of theirs; with equal weights this differs
from the distance to the mean query image by something that is the same for all models.

What else was tried, and what it gave on the dev tasks, is in docs/research.md.
"""

from __future__ import annotations

import numpy as np

from gmi_registry.scoring.kernels import Floats, widened, working_dtype
from gmi_registry.scoring.sweep import swept
from gmi_registry.scoring.weights import clamped
from gmi_registry.scoring.within import WithinScatter

__all__ = ["SHRINKAGE", "mean_distances", "mean_images", "whitened_distances"]

SHRINKAGE = 1.0
# A row of a product of matrices is worth a thread sooner than a row that is read.
_PRODUCT = 4


def whitened_distances(
    image_embeddings: Floats,
    weights: Floats,
    query_images: Floats,
    *,
    scatter: WithinScatter | None = None,
    shrinkage: float = SHRINKAGE,
) -> Floats:
    """The squared whitened distance of each query image to each model.

    ``image_embeddings`` [M, N, D]; ``weights`` [B, N] (any sign and scale: they are clamped and
    normalised here); ``query_images`` [B, D]; ``scatter``: the pooled statistics, taken from the
    candidates themselves if None. Returns [B, M]. With no more than one image a model there is no
    S, and the distance is the plain squared one. Raises ValueError unless shrinkage > 0.
    """
    dtype = working_dtype(image_embeddings, weights, query_images)
    scatter = WithinScatter.of(image_embeddings) if scatter is None else scatter
    coefficients = clamped(weights).astype(dtype, copy=False)
    concentration = np.einsum("bn,bn->b", coefficients, coefficients)
    excess = (scatter.spread(shrinkage) * concentration).astype(dtype)
    lengths = scatter.mahalanobis(shrinkage, dtype)
    images = query_images.astype(dtype, copy=False)
    # Query images without a prompt all have the same coefficients.
    different, places = np.unique(coefficients, axis=0, return_inverse=True)
    same = [np.flatnonzero(places.reshape(-1) == number) for number in range(len(different))]
    models, rows, width = image_embeddings.shape
    out = np.empty((len(images), models), dtype)

    def work(part: slice) -> None:
        block = widened(image_embeddings[part], dtype)
        for own, queries in zip(different, same, strict=True):
            means = np.einsum("mnd,n->md", block, own)
            for b in queries:
                out[b, part] = lengths.squared(means - images[b]) - excess[b]

    streamed = len(different) == 1 and image_embeddings.dtype == dtype
    swept(work, models, rows * width, streamed=streamed, spread=True)
    return out


def mean_distances(
    means: Floats,
    query_images: Floats,
    concentration: float,
    *,
    scatter: WithinScatter,
    shrinkage: float = SHRINKAGE,
) -> Floats:
    """:func:`whitened_distances` from the models' mean embeddings alone: [B, M].

    ``means`` [M, D], ``query_images`` [B, D]; ``concentration`` is Σ_i a_i² of the coefficients
    that made the means, 1/N for N equal ones. Raises ValueError unless shrinkage > 0.
    """
    dtype = working_dtype(means, query_images)
    lengths = scatter.mahalanobis(shrinkage, dtype)
    excess = dtype.type(scatter.spread(shrinkage) * concentration)
    out = np.empty((len(query_images), len(means)), dtype)

    def work(part: slice) -> None:
        block = means[part].astype(dtype, copy=False)
        for b, image in enumerate(query_images):
            out[b, part] = lengths.squared(block - image.astype(dtype)) - excess

    swept(work, len(means), means.shape[1] * _PRODUCT, streamed=True, spread=True)
    return out


def mean_images(image_embeddings: Floats) -> Floats:
    """The mean image of every model: [M, N, D] gives [M, D], float32 at least.

    A model's mean depends on that model alone, to the last bit.
    """
    models, rows, width = image_embeddings.shape
    dtype = working_dtype(image_embeddings)
    shares = np.full(rows, 1 / rows, dtype)
    means = np.empty((models, width), dtype)

    def work(part: slice) -> None:
        np.einsum("mnd,n->md", widened(image_embeddings[part], dtype), shares, out=means[part])

    streamed = image_embeddings.dtype == dtype
    swept(work, models, rows * width, streamed=streamed, spread=True)
    return means
