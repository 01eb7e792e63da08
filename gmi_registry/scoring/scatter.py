"""How images of one model differ among themselves, pooled over models; lengths measured by it.

The scatter of a model, Σ_i (z_i - μ)(z_i - μ)ᵀ, says in which directions embeddings move with the
content of the prompt rather than with the model. All distances are measured by the scatter that is
pooled over models, so whoever could move it would move the ranking of everybody else. A plain sum
can be moved: rows of norm 9,000 make one model all there is of it. So each model has a weight,

    w_m = min(1, c median_k(λ_k) / λ_m),    λ_m = the largest eigenvalue of Fᵀ S_m F,

with S_m the model's own covariance and F Fᵀ = (S + λI)⁻¹ of the pooled one. In no direction does a
model then count for more than c times what the median model does where that counts most: of M
models one changes xᵀ(S + λI)x by a factor of about 1 + c median(λ) / M, whatever it holds. The
weights depend on S and S on them, so both are worked out in turns: an M-estimator of scatter whose
influence is bounded by model (Maronna, Annals of Statistics 4, 1976, bounds it by row). λ_m is
estimated from above. Honest models are within c, have the weight 1, and what comes out is the plain
sum.

Lengths xᵀAx under A = (S + λI)⁻¹ take half of the usual products: with A = L Lᵀ and L triangular,
xᵀAx = ‖Lᵀx‖², and the zeros of L need no multiplying. L is cut into blocks of columns, each without
the rows above the diagonal, so that BLAS does all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import row_norms, swept

if TYPE_CHECKING:
    from gmi_registry.scoring.kernels import Floats

# With k blocks (k + 1)/2k of the products are left; thinner ones are multiplied more slowly.
_BLOCKS = 4


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """``blocks`` of L's columns by where they start: rows from there on, [D - start, width]."""

    blocks: tuple[tuple[int, Floats], ...]

    @classmethod
    def of(cls, factor: NDArray[np.float64], dtype: np.dtype[Any]) -> Mahalanobis:
        """For A = F Fᵀ of a ``factor`` F [D, D]; lengths of vectors of ``dtype``."""
        triangle = np.linalg.qr(factor.T).R.T
        edges = np.linspace(0, len(triangle), _BLOCKS + 1).round().astype(int).tolist()
        return cls(
            tuple(
                (start, np.ascontiguousarray(triangle[start:, start:stop], dtype))
                for start, stop in pairwise(edges)
            )
        )

    def squared(self, rows: Floats) -> Floats:
        """xᵀAx of each of ``rows`` [n, D]: [n], at least 0."""
        total = np.zeros(len(rows), rows.dtype)
        for start, block in self.blocks:
            total += row_norms(rows[:, start:] @ block)
        return total


_BLOCK_MODELS = 64
# Ten thousand rows pin down a covariance of a thousand dimensions better than the shrinkage cares
# for; beyond this many models only the time would grow.
_ENOUGH_MODELS = 256
# c: of the zoo's models the most uneven one reaches 2.1 times the median.
_MOST_INFLUENCE = 3.0
# The shrinkage of the distances that the weights are for.
_SHRINKAGE = 1.0
# Weights settle by a factor of about four a turn where one model is far out.
_TURNS = 12
# The share by which a weight may still change.
_SETTLED = 0.02


@dataclass(frozen=True, eq=False)
class WithinScatter:
    """Pooled within-model scatter: ``scatter`` [D, D] float64, ``freedom`` = Σ_m (N_m - 1)."""

    scatter: NDArray[np.float64]
    freedom: int

    @classmethod
    def empty(cls, dimensions: int) -> WithinScatter:
        """No model yet, for embeddings of ``dimensions`` values."""
        return cls(np.zeros((dimensions, dimensions)), 0)

    @classmethod
    def of(cls, image_embeddings: Floats) -> WithinScatter:
        """Of models [M, N, D], none of which counts for much more than the others; with more than
        256 of them, of 256 spread evenly over M."""
        models, rows, dimensions = image_embeddings.shape
        if models > _ENOUGH_MODELS:
            kept = np.linspace(0, models - 1, _ENOUGH_MODELS).round().astype(np.intp)
            image_embeddings = image_embeddings[kept]
        if models == 0 or rows < 2:
            return cls.empty(dimensions)
        weights, pooled = model_weights(image_embeddings)
        freedom = len(image_embeddings) * (rows - 1)
        return cls(pooled * (freedom / (weights.sum() * (rows - 1))), freedom)

    @cached_property
    def _eigen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues and eigenvectors of S: the slow part, and the same for every query."""
        values, vectors = np.linalg.eigh(self.scatter / self.freedom)
        return values, vectors

    def whitening(self, shrinkage: float) -> NDArray[np.float64]:
        """F [D, D] with F Fᵀ = (S + λI)⁻¹, S = scatter/freedom, λ = shrinkage x mean eigenvalue.

        The identity where nothing is known about S: no model, one image a model, or images that
        are all the same. Fewer rows than dimensions are no trouble, since λ fills what is missing.
        Raises ValueError unless shrinkage > 0.
        """
        if not shrinkage > 0:
            raise ValueError(f"shrinkage must be positive, got {shrinkage}")
        dimensions = len(self.scatter)
        trace = float(np.trace(self.scatter))
        if self.freedom < 1 or not trace > 0:
            return np.eye(dimensions)
        eigenvalues, vectors = self._eigen
        # Removing models may leave eigenvalues a rounding below zero.
        floor = shrinkage * trace / self.freedom / dimensions
        return np.asarray(vectors / np.sqrt(np.maximum(eigenvalues, 0) + floor))

    def mahalanobis(self, shrinkage: float, dtype: np.dtype[Any]) -> Mahalanobis:
        """Lengths under (S + λI)⁻¹ of vectors of ``dtype``; kept for the next query.

        Raises ValueError unless shrinkage > 0.
        """
        known = self._lengths.get((shrinkage, dtype))
        if known is None:
            known = Mahalanobis.of(self.whitening(shrinkage), dtype)
            self._lengths[shrinkage, dtype] = known
        return known

    @cached_property
    def _lengths(self) -> dict[tuple[float, np.dtype[Any]], Mahalanobis]:
        return {}

    def spread(self, shrinkage: float) -> float:
        """tr((S + λI)⁻¹ S): the mean squared length of a whitened image, taken from its own mean.

        Lies in 0..D, near the number of directions in which images vary by more than λ; 0 where
        nothing is known about S. Raises ValueError unless shrinkage > 0.
        """
        if not shrinkage > 0:
            raise ValueError(f"shrinkage must be positive, got {shrinkage}")
        if self.freedom < 1 or not np.trace(self.scatter) > 0:
            return 0.0
        eigenvalues = np.maximum(self._eigen[0], 0)
        return float((eigenvalues / (eigenvalues + shrinkage * eigenvalues.mean())).sum())


def model_weights(
    image_embeddings: Floats,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """w of the module's text for models [M, N, D] of two images or more, [M] in (0, 1], and the
    scatter that they weigh, Σ_m w_m Σ_i (z_i - μ_m)(z_i - μ_m)ᵀ: [D, D].

    A model whose images are all the same has no scatter, and counts as any other.
    """
    models, rows, width = image_embeddings.shape
    sizes = np.empty(models)

    def traces(part: slice) -> None:
        centred = _centred(image_embeddings[part])
        # In double precision, since rows may be as long as a float16 can say.
        sizes[part] = np.einsum("mnd,mnd->m", centred, centred, dtype=np.float64)

    swept(traces, models, rows * width, streamed=False, spread=True)
    weights = bounded_weights(sizes)
    for _ in range(_TURNS):
        pooled = np.zeros((width, width))
        for start in range(0, models, _BLOCK_MODELS):
            part = slice(start, start + _BLOCK_MODELS)
            pooled += _scatter(image_embeddings[part], weights[part])
        covariance = pooled / (weights.sum() * (rows - 1))
        floor = _SHRINKAGE * np.trace(covariance) / width
        if not floor > 0:
            break
        covariance[np.diag_indices(width)] += floor
        whitening = np.linalg.inv(np.linalg.cholesky(covariance)).T

        def largest(part: slice, whitening: NDArray[np.float64] = whitening) -> None:
            centred = _centred(image_embeddings[part])
            white = centred.reshape(-1, width) @ whitening.astype(centred.dtype)
            sizes[part] = _largest_eigenvalues(white.reshape(centred.shape))

        swept(largest, models, rows * width, streamed=True, spread=True)
        found = bounded_weights(sizes)
        if np.abs(found / weights - 1).max() < _SETTLED:
            break
        weights = found
    return weights, pooled


def _largest_eigenvalues(rows: Floats) -> NDArray[np.float64]:
    """Of XXᵀ for each X [N, D] of [M, N, D], from above, by tr((XXᵀ)⁸)^(1/8), which is at most
    N^(1/8) times as large (1.65 for 55 rows): [M]. Much faster than finding them."""
    grams = np.matmul(rows, rows.transpose(0, 2, 1))
    traces = np.trace(grams, axis1=1, axis2=2)
    grams /= np.maximum(traces, np.finfo(grams.dtype).tiny)[:, None, None]
    for _ in range(2):
        grams = np.matmul(grams, grams)
    eighth = np.einsum("mij,mij->m", grams, grams, dtype=np.float64)
    return np.asarray(traces * eighth**0.125)


def bounded_weights(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights in (0, 1] that bring each of ``sizes`` [M], 0 at least, to c times their median at
    most: 1 for all that are no larger. A size of 0 says nothing of the median."""
    known = np.sort(sizes[sizes > 0])
    if not len(known):
        return np.ones(len(sizes))
    # Of an even number the lower: of two models either may be the one that is out.
    limit = _MOST_INFLUENCE * known[(len(known) - 1) // 2]
    return np.asarray(limit / np.maximum(sizes, limit))


def _scatter(image_embeddings: Floats, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ_m w_m S_m [D, D] of models [M, N, D] with weights [M]."""
    centred = _centred(image_embeddings)
    if (weights < 1).any():
        centred *= np.sqrt(weights).astype(centred.dtype)[:, None, None]
    flat = centred.reshape(-1, centred.shape[-1])
    return (flat.T @ flat).astype(np.float64)


def _centred(image_embeddings: Floats) -> Floats:
    """Models [M, N, D] less their own means, in single precision at least."""
    wide = image_embeddings.astype(np.result_type(np.float32, image_embeddings), copy=False)
    return np.asarray(wide - wide.mean(axis=1, keepdims=True))
