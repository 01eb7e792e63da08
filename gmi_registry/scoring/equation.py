"""Eq. 9 with one query's numbers put in: what is left is asked of each model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gmi_registry.scoring.invariants import gram_sums
from gmi_registry.scoring.kernels import Floats, row_kernel, widened, working_dtype
from gmi_registry.scoring.sweep import products, row_norms

__all__ = ["Equation"]

# Of so many query images each takes its own turn with the rows in the cache; more make a product
# of matrices worth its threads, and worth that BLAS rounds a row by where it stands.
_TURNS = 8


@dataclass(frozen=True, eq=False)
class Equation:
    """``queries`` [B, D] and ``coefficients`` w/N [B, N], both in the dtype of the arithmetic."""

    queries: Floats
    coefficients: Floats
    gamma: float

    @classmethod
    def of(
        cls, image_embeddings: Floats, weights: Floats, query_images: Floats, gamma: float
    ) -> Equation:
        """For models like ``image_embeddings`` [M, N, D], ``weights`` [B, N] and ``query_images``
        [B, D]. Raises ValueError where shapes disagree or γ is not positive."""
        rows = image_embeddings.shape[1]
        if weights.shape != (len(query_images), rows):
            raise ValueError(
                f"weights have shape {weights.shape}, expected {(len(query_images), rows)}"
            )
        if not gamma > 0:
            raise ValueError(f"gamma must be positive, got {gamma}")
        dtype = working_dtype(image_embeddings, weights, query_images)
        coefficients = weights.astype(dtype, copy=False) / rows
        return cls(query_images.astype(dtype, copy=False), coefficients, gamma)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.queries.dtype

    @property
    def is_batch(self) -> bool:
        """Whether there are so many query images that BLAS multiplies them all at once."""
        return len(self.queries) > _TURNS

    def streams(self, image_embeddings: Floats) -> bool:
        """Whether parts may be larger than a core's cache: BLAS wants them so, and what is read
        once, as it is, does not mind."""
        return self.is_batch or (image_embeddings.dtype == self.dtype and len(self.queries) == 1)

    def distances(
        self,
        image_embeddings: Floats,
        grams: Floats,
        *,
        norms: Floats | None = None,
        sums: Floats | None = None,
    ) -> Floats:
        """Of a part of the models: [B, m], for images [m, N, D] and Gram matrices [m, N, N].

        ``norms`` [m, N] and ``sums`` [m] as in :class:`~gmi_registry.scoring.invariants.Invariants`
        if they are known.
        """
        models, rows, width = image_embeddings.shape
        flat = widened(image_embeddings.reshape(models * rows, width), self.dtype)
        if norms is None or norms.dtype != self.dtype:
            norms = row_norms(flat)
        norms = norms.reshape(-1)
        spread = self.spread(grams, sums)
        if self.is_batch:
            kernel = row_kernel(flat, norms, flat @ self.queries.T, self.queries, self.gamma)
            kernel = kernel.reshape(models, rows, -1)
            kernel *= self.coefficients.T
            cross = kernel.sum(axis=1).T
        else:
            cross = np.empty_like(spread)
            for b, query in enumerate(self.queries):
                kernel = row_kernel(flat, norms, products(flat, query), query, self.gamma)
                cross[b] = products(kernel.reshape(models, rows), self.coefficients[b])
        return np.asarray(spread - 2 * cross + 1)

    def spread(self, grams: Floats, sums: Floats | None = None) -> Floats:
        """wᵀG_m w/N² of each query image's own weights: [B, m]."""
        models, rows, _ = grams.shape
        first = self.coefficients[:, :1]
        if (self.coefficients == first).all():
            sums = gram_sums(grams) if sums is None else sums
            return np.asarray(np.square(first) * sums.astype(self.dtype, copy=False))
        pairs = np.einsum("bi,bj->bij", self.coefficients, self.coefficients)
        pairs = pairs.reshape(-1, rows * rows)
        flat = grams.reshape(models, rows * rows).astype(self.dtype, copy=False)
        if self.is_batch:
            return np.asarray(pairs @ flat.T)
        return np.stack([products(flat, pair) for pair in pairs])
