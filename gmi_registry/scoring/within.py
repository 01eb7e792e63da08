"""How the images of one model differ among themselves, pooled over models.

The scatter of a model, Σ_i (z_i - μ)(z_i - μ)ᵀ, says in which directions embeddings move with the
content of the prompt rather than with the model. Scatters add, so a model can join or leave without
a new pass over the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.mahalanobis import Mahalanobis

__all__ = ["WithinScatter"]

_BLOCK_MODELS = 64
# Ten thousand rows pin down a covariance of a thousand dimensions better than the shrinkage cares
# for; beyond this many models only the time would grow.
_ENOUGH_MODELS = 256


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
        """Of models [M, N, D]; with more than 256 of them, of 256 spread evenly over M."""
        models, _, dimensions = image_embeddings.shape
        if models > _ENOUGH_MODELS:
            kept = np.linspace(0, models - 1, _ENOUGH_MODELS).round().astype(np.intp)
        else:
            kept = np.arange(models)
        total = cls.empty(dimensions)
        for start in range(0, len(kept), _BLOCK_MODELS):
            total = total.added(image_embeddings[kept[start : start + _BLOCK_MODELS]])
        return total

    def added(self, image_embeddings: Floats) -> WithinScatter:
        """With a model [N, D] or several [M, N, D] more."""
        scatter, freedom = _scatter(image_embeddings)
        return WithinScatter(self.scatter + scatter, self.freedom + freedom)

    def removed(self, image_embeddings: Floats) -> WithinScatter:
        """Without a model [N, D], or several [M, N, D], that were added before.

        Raises ValueError where more is taken out than was put in.
        """
        scatter, freedom = _scatter(image_embeddings)
        if freedom > self.freedom:
            raise ValueError("these models were never added")
        return WithinScatter(self.scatter - scatter, self.freedom - freedom)

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


def _scatter(image_embeddings: Floats) -> tuple[NDArray[np.float64], int]:
    """Scatter [D, D] and degrees of freedom of [N, D] or [M, N, D]."""
    rows, dimensions = image_embeddings.shape[-2:]
    models = image_embeddings.reshape(-1, rows, dimensions)
    wide = models.astype(np.result_type(np.float32, models), copy=False)
    centred = (wide - wide.mean(axis=1, keepdims=True)).reshape(-1, dimensions)
    return (centred.T @ centred).astype(np.float64), len(models) * (rows - 1)
