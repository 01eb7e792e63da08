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

Where the means stay the same from query to query, the distance is expanded, with both sides taken
from a centre c of all means so that little is lost in rounding, and A = (S + λI)⁻¹:

    (z - μ)ᵀA(z - μ) = (z-c)ᵀA(z-c) - 2 (μ-c)ᵀA(z-c) + (μ-c)ᵀA(μ-c).

The last term is the slow one, a product of all means with a matrix, and no query changes it.

What else was tried, and what it gave on the dev tasks, is in docs/research.md.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import (
    Floats,
    one_thread,
    products,
    row_norms,
    swept,
    widened,
    working_dtype,
)
from gmi_registry.scoring.query import clamped
from gmi_registry.scoring.scatter import WithinScatter

SHRINKAGE = 1.0


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


_BLOCK_ROWS = 1024
# How much longer than the differences among means the mean of all may be before it is taken off a
# copy: up to there three more bits are lost, and memory is worth more.
_NEAR = 64.0
# Fewer of the models than this share are not worth the product of all.
_MOST = 4


@dataclass(frozen=True, eq=False)
class WhitenedMeans:
    """``means`` [M, D] less ``shift`` [D] (zeros, or the centre where that is far), ``centre`` [D],
    ``lengths`` [M] = (μ-c)ᵀA(μ-c), ``factor`` F [D, D] float64 with F Fᵀ = A, and ``spread`` the
    trace that the excess is made of."""

    means: Floats
    shift: Floats
    centre: Floats
    lengths: Floats
    factor: NDArray[np.float64]
    spread: float

    @classmethod
    def of(
        cls,
        means: Floats,
        scatter: WithinScatter,
        *,
        centre: Floats | None = None,
    ) -> WhitenedMeans:
        """Of ``means`` [M, D]; ``centre`` [D] is their mean if None."""
        dtype = working_dtype(means)
        factor = scatter.whitening(SHRINKAGE)
        if centre is None:
            centre = _centre(means)
        mahalanobis = scatter.mahalanobis(SHRINKAGE, dtype)
        lengths = np.empty(len(means), dtype)
        apart = 0.0
        for start in range(0, len(means), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            difference = means[part].astype(dtype, copy=False) - centre
            apart = max(apart, float(row_norms(difference).max()))
            lengths[part] = mahalanobis.squared(difference)
        shift = np.zeros_like(centre)
        if float(centre @ centre) > _NEAR * apart:
            means, shift = means - centre, centre
        return cls(means, shift, centre, lengths, factor, scatter.spread(SHRINKAGE))

    def distances(
        self,
        query_images: Floats,
        concentration: float,
        rows: NDArray[np.intp] | None = None,
    ) -> Floats:
        """:func:`whitened_distances` from the means alone, [B, M], or of the models at ``rows`` [R]
        alone: [B, R].

        ``query_images`` [B, D]; ``concentration`` is Σ_i a_i² of the coefficients that made the
        means, 1/N for N equal ones.
        """
        dtype = working_dtype(self.means, query_images)
        means = self.means if rows is None else self.means[rows]
        lengths = (self.lengths if rows is None else self.lengths[rows]).astype(dtype, copy=False)
        means = means.astype(dtype, copy=False)
        out = np.empty((len(query_images), len(means)), dtype)
        for b, image in enumerate(query_images):
            image = image.astype(np.float64) - self.centre
            # Threads of BLAS keep a core busy for a while after so small a product.
            with one_thread():
                white = image @ self.factor
                towards = self.factor @ white
            own = white @ white + 2 * ((self.centre.astype(np.float64) - self.shift) @ towards)
            added = dtype.type(own - self.spread * concentration)
            self._write(out[b], means, lengths, towards.astype(dtype), added)
        return out

    @staticmethod
    def _write(
        out: Floats, means: Floats, lengths: Floats, towards: Floats, added: np.floating
    ) -> None:
        def work(part: slice) -> None:
            found = products(means[part], towards)
            found *= -2
            found += lengths[part]
            found += added
            out[part] = found

        swept(work, len(means), means.shape[1], streamed=True, spread=True)


_KEPT: weakref.WeakKeyDictionary[WithinScatter, tuple[weakref.ref[Floats], WhitenedMeans]] = (
    weakref.WeakKeyDictionary()
)


def whitened_means(
    means: Floats,
    scatter: WithinScatter,
    rows: NDArray[np.intp] | None = None,
) -> tuple[WhitenedMeans, NDArray[np.intp] | None]:
    """What :meth:`WhitenedMeans.of` gives for ``means`` [M, D], and where in it ``rows`` are.

    It is kept as long as ``scatter`` is and remembered for the same two objects, which is how the
    members of a group ask for each query; ``means`` must not be written to. For a few rows of
    means that nobody asked for as a whole it is worked out for those alone.
    """
    known = _KEPT.get(scatter)
    if known is not None and known[0]() is means:
        return known[1], rows
    if rows is not None and len(rows) * _MOST < len(means):
        chosen = WhitenedMeans.of(means[rows], scatter, centre=_centre(means))
        return chosen, None
    made = WhitenedMeans.of(means, scatter)
    _KEPT[scatter] = (weakref.ref(means), made)
    return made, rows


def _centre(means: Floats) -> Floats:
    if len(means) == 0:
        return np.zeros(means.shape[1], working_dtype(means))
    return np.asarray(means.mean(axis=0, dtype=np.float64).astype(working_dtype(means)))
