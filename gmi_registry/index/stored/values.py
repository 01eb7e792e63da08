"""Whether numbers can be what they are said to be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.spec.tensors import NORM_RANGE

__all__ = ["MEAN_NORMS", "kernel_fault", "norm_fault"]

MEAN_NORMS = (0.0, NORM_RANGE[1])
"""Of a mean: that of long vectors that point everywhere may be short."""

_ROWS_AT_ONCE = 512
# A kernel is computed in 32 bits.
_SLACK = 1e-3


def norm_fault(vectors: NDArray[Any], allowed: tuple[float, float]) -> str | None:
    """Why ``vectors`` [..., D] are no embeddings, or None: one has an L2 norm outside ``allowed``,
    or a value that is not finite."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE].astype(np.float32, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", piece, piece))
        # Written so that NaN, for which every comparison is false, counts as bad.
        bad = ~((norms >= allowed[0]) & (norms <= allowed[1]))
        if bad.any():
            row = int(np.argmax(bad))
            return (
                f"holds a vector of norm {norms[row]:g} at {start + row}, outside "
                f"{allowed[0]:g} to {allowed[1]:g}"
            )
    return None


def kernel_fault(rows: NDArray[np.float32]) -> str | None:
    """Why [R, ...] are no values of a kernel that is 1 at most, or None."""
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        piece = rows[start : start + _ROWS_AT_ONCE]
        if not ((piece >= 0) & (piece <= 1 + _SLACK)).all():
            return "holds a kernel outside 0 to 1"
    return None
