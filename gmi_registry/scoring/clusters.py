"""Cells of points by k-means (Lloyd's algorithm), for a coarse quantizer and nothing finer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["cell_means", "clustered", "nearest_cells"]

Single = NDArray[np.float32]

_ROUNDS = 8
_BLOCK_ELEMENTS = 1 << 24


def clustered(points: Single, cells: int) -> NDArray[np.intp]:
    """The cell of each of ``points`` [n, p] when there are at most ``cells``: [n], in 0..cells-1.

    The same points in the same order give the same cells. A cell may stay empty. Raises ValueError
    unless 1 <= cells <= n.
    """
    if not 1 <= cells <= len(points):
        raise ValueError(f"{len(points)} points cannot be put into {cells} cells")
    first = np.linspace(0, len(points) - 1, cells).round().astype(np.intp)
    centroids = points[first].copy()
    for _ in range(_ROUNDS):
        members = nearest_cells(points, centroids)
        centroids[np.unique(members)] = cell_means(points, members)
    return nearest_cells(points, centroids)


def cell_means(points: Single, members: NDArray[np.intp]) -> Single:
    """The mean of the ``points`` [n, p] of each cell that has any, by ``members`` [n]: [K, p]."""
    order = np.argsort(members, kind="stable")
    starts = np.flatnonzero(np.diff(members[order], prepend=-1))
    sums = np.add.reduceat(points[order], starts, axis=0, dtype=np.float64)
    sizes = np.diff(starts, append=len(points))
    return np.asarray((sums / sizes[:, None]).astype(np.float32))


def nearest_cells(points: Single, centroids: Single) -> NDArray[np.intp]:
    """Which of ``centroids`` [K, p] is nearest to each of ``points`` [n, p]: [n]; of several that
    are equally near the first."""
    half = np.einsum("kp,kp->k", centroids, centroids) / 2
    out = np.empty(len(points), np.intp)
    step = max(1, _BLOCK_ELEMENTS // len(centroids))
    for start in range(0, len(points), step):
        scores = points[start : start + step] @ centroids.T
        scores -= half
        out[start : start + step] = scores.argmax(axis=1)
    return out
