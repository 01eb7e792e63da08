"""Codes of very many models, from which the default score without a prompt can nearly be told.

In whitened coordinates x_m = Fᵀ(μ_m - c) and y = Fᵀ(z - c), with F Fᵀ = (S + λI)⁻¹ and c a centre
of all means,

    d_m = ‖x_m‖² - 2 x_m·y + ‖y‖² - excess,

and all that is slow is one product. A coarse quantizer splits x_m into the centroid of its cell and
a residual, of which some numbers are kept along the directions P in which residuals vary most:

    x_m·y ≈ centroid·y + (Pᵀ residual_m)·(Pᵀ y).

Lengths are kept as they are, so the error is what the rest of the residual has to say of the query:
nothing that models of a cell have in common is lost. Which models are looked at, and how closely,
is the business of :mod:`gmi_registry.scoring.inverted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.clusters import cell_means, clustered, nearest_cells
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.scatter import WithinScatter, bounded_weights
from gmi_registry.scoring.sweep import products, row_norms, swept

__all__ = ["LEARNT_FROM", "Asked", "CoarseCodes", "CoarseSpace", "drawn_rows"]

Single = NDArray[np.float32]

LEARNT_FROM = 1 << 16
"""Models of which cells and directions are learnt."""

_WIDTHS = (48, 80, 256)
"""Numbers of a residual, in the three steps in which they are read."""
_PLANE = 128
"""Directions in which cells are told apart."""
_MOST_CELLS = 4096
# Cells for the square root of so many models each; but a cell is learnt from so many of them.
_CELLS = 16
_LEARNT_EACH = 8
_SPECTRUM_FROM = 1 << 13
# One of so many models is kept from what cells are learnt from, unless there are few.
_OTHERS = 8
_FEW = 256
_BLOCK_ROWS = 4096
# What half precision holds; a model that is so far off may as well have a wrong estimate.
_MOST = 60_000.0
_SEED = 0


@dataclass(frozen=True, eq=False)
class CoarseCodes:
    """Of m models: ``lengths`` [m] = ‖x‖², ``cells`` [m] int32, and of Pᵀ residual the numbers of
    three steps: ``first`` [m, a] and ``second`` [m, b] float32, ``third`` [m, c] float16."""

    lengths: Single
    cells: NDArray[np.int32]
    first: Single
    second: Single
    third: NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Asked:
    """A query in the terms of codes. A model's distance is nearly ``near`` [K] of its cell, plus
    its length, plus the product of its numbers with ``along`` [a + b + c]; ``variances`` [4] are
    those over all models of what is left out of that without any numbers, and with those of one
    step, of two and of three."""

    near: Single
    along: Single
    variances: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CoarseSpace:
    """``centre`` [D], ``plane`` [D, p], ``centroids`` [K, D] and ``directions`` [D, a + b + c], all
    float32 and, but for the centre, in whitened coordinates; ``spreads`` [a + b + c + 1], how
    residuals vary along these and, last, along any other direction; and the ``scatter`` that
    whitens."""

    centre: Single
    plane: Single
    centroids: Single
    directions: Single
    spreads: Single
    scatter: WithinScatter

    @classmethod
    def learnt(
        cls, means: Floats, scatter: WithinScatter, *, models: int | None = None
    ) -> CoarseSpace:
        """From ``means`` [m, D], m at least 1, as a sample of ``models``. The same gives the same.

        Some seconds for 65,536, and no more for more, of which so many are drawn.
        """
        means = means[drawn_rows(len(means), LEARNT_FROM)]
        centre = means.mean(axis=0, dtype=np.float64).astype(np.float32)
        white = (means - centre) @ scatter.whitening(SHRINKAGE).astype(np.float32)
        # One model far out would have a direction to itself.
        lengths = np.sqrt(row_norms(white)).astype(np.float64)
        white *= bounded_weights(lengths).astype(np.float32)[:, None]
        plane = _leading(white, _PLANE)
        # Centroids are nearer to those that they are learnt from than to others, so what is left
        # of models is learnt from others.
        own, others = _parted(white)
        wanted = _CELLS * np.sqrt(len(means) if models is None else models)
        wanted = min(wanted, _MOST_CELLS, len(own) / _LEARNT_EACH)
        cells = int(2 ** np.floor(np.log2(max(1.0, wanted))))
        centroids = cell_means(own, clustered(own @ plane, cells))
        left = others - centroids[nearest_cells(others @ plane, centroids @ plane)]
        directions = _leading(left, sum(_WIDTHS))
        spreads = np.square(left @ directions).mean(axis=0, dtype=np.float64)
        unseen = float(row_norms(left).mean(dtype=np.float64) - spreads.sum())
        width, kept = directions.shape
        spreads = np.append(spreads, max(unseen, 0) / max(width - kept, 1))
        return cls(centre, plane, centroids, directions, spreads.astype(np.float32), scatter)

    @cached_property
    def factor(self) -> NDArray[np.float64]:
        """F [D, D]."""
        return self.scatter.whitening(SHRINKAGE)

    @cached_property
    def _turned(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.factor.T)

    @cached_property
    def _across(self) -> Single:
        return np.ascontiguousarray(self.directions.T)

    @property
    def widths(self) -> tuple[int, int, int]:
        """a, b and c."""
        first, second, third = _WIDTHS
        kept = self.directions.shape[1]
        nearer = min(first + second, kept)
        return min(first, kept), nearer - min(first, kept), min(third, kept - nearer)

    def coded(self, means: Floats) -> CoarseCodes:
        """Codes of ``means`` [m, D], of each by itself but for rounding."""
        narrow: Single = self.factor.astype(np.float32)
        seeds = self.centroids @ self.plane
        lengths = np.empty(len(means), np.float32)
        cells = np.empty(len(means), np.int32)
        a, b, c = self.widths
        first, second = (np.empty((len(means), width), np.float32) for width in (a, b))
        third = np.empty((len(means), c), np.float16)
        for start in range(0, len(means), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            white = np.asarray((means[part] - self.centre) @ narrow, np.float32)
            lengths[part] = row_norms(white)
            cells[part] = nearest_cells(white @ self.plane, seeds)
            white -= self.centroids[cells[part]]
            along = white @ self.directions
            first[part] = along[:, :a]
            second[part] = along[:, a : a + b]
            np.clip(along[:, a + b :], -_MOST, _MOST, out=third[part], casting="same_kind")
        return CoarseCodes(lengths, cells, first, second, third)

    def asked(self, query_images: Floats, concentration: float) -> Asked:
        """For the mean distance to ``query_images`` [B, D]; ``concentration`` as in
        :func:`~gmi_registry.scoring.default.mean_distances`."""
        towards, own = self._towards(query_images, concentration)
        narrow = (-2 * towards).astype(np.float32)
        near = products(self.centroids, narrow) + np.float32(own)
        along = products(self._across, narrow)
        squared = np.square(along, dtype=np.float64)
        outside = max(float(narrow.astype(np.float64) @ narrow) - float(squared.sum()), 0)
        told = np.append(squared, outside) * self.spreads
        steps = np.cumsum([0, *self.widths])
        return Asked(near, along, np.array([told[step:].sum() for step in steps]))

    def distances(
        self, means: Floats, lengths: Single, query_images: Floats, concentration: float
    ) -> Single:
        """The mean distances themselves, to rounding, for ``means`` [m, D] with ``lengths``."""
        towards, own = self._towards(query_images, concentration)
        along = products(self.factor, towards).astype(np.float32)
        out = np.empty(len(means), np.float32)

        def work(part: slice) -> None:
            found = products(means[part] - self.centre, along)
            found *= -2
            found += lengths[part]
            found += np.float32(own)
            out[part] = found

        swept(work, len(out), len(self.centre), streamed=False, spread=True)
        return out

    def _towards(
        self, query_images: Floats, concentration: float
    ) -> tuple[NDArray[np.float64], float]:
        """The mean of y, and of ‖y‖² less the excess."""
        images = query_images.astype(np.float64) - self.centre
        white = np.stack([products(self._turned, image) for image in images])
        excess = self.scatter.spread(SHRINKAGE) * concentration
        return white.mean(axis=0), float(np.square(white).sum(axis=1).mean() - excess)


def drawn_rows(models: int, most: int) -> NDArray[np.intp]:
    """``most`` of 0..models-1, ascending, or all of them; the same each time.

    Not evenly spaced ones: what is in order has rhythms.
    """
    if models <= most:
        return np.arange(models)
    return np.sort(np.random.default_rng(_SEED).choice(models, most, replace=False))


def _parted(rows: Single) -> tuple[Single, Single]:
    """Most of ``rows``, and others; a few are both."""
    if len(rows) < _FEW:
        return rows, rows
    apart = np.zeros(len(rows), bool)
    apart[drawn_rows(len(rows), len(rows) // _OTHERS)] = True
    return rows[~apart], rows[apart]


def _leading(rows: Single, most: int) -> Single:
    """The directions in which ``rows`` [m, D] vary most: [D, k], k at most ``most``."""
    step = -(-len(rows) // _SPECTRUM_FROM)
    some = rows[::step]
    some = some - some.mean(axis=0)
    vectors = np.linalg.eigh((some.T @ some).astype(np.float64))[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :most].astype(np.float32))
