"""Squared Mahalanobis lengths xᵀAx of many vectors, with half of the usual products.

With A = L Lᵀ and L triangular, xᵀAx = ‖Lᵀx‖², and the zeros of L need no multiplying. L is cut into
blocks of columns, each without the rows above the diagonal, so that all is left to BLAS.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.sweep import row_norms

__all__ = ["Mahalanobis"]

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
