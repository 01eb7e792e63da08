"""Which of very many models may be near, by one pass over a few leading numbers of each.

In whitened coordinates x_m = Fᵀ(μ_m - c) and y = Fᵀ(z - c), with F Fᵀ = (S + λI)⁻¹ and c the centre
of all means, the default score without a prompt is

    d_m = ‖x_m‖² - 2 x_m·y + ‖y‖² - excess,

and all that is slow is one product. Of x_m the numbers along the k directions P in which models
vary most are kept, in eight bits each with a scale for the model, and the length as it is, so that

    d_m ≈ ‖x_m‖² - 2 (Pᵀx_m)·(Pᵀy) + ‖y‖² - excess

is off by what the other directions have to say of the query. The distances of some thousands that
are near by it are worked out from their means, and of more where these show that more may be near
(:mod:`gmi_registry.scoring.refine`).

Where models vary nearly as much in the other directions, the leading ones do not carry the order.
That is measured once: below a share of the variance k is 0, and every query reads all means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.refine import Care, Refinement, refine, refines_all, sample_rows
from gmi_registry.scoring.scatter import WithinScatter, bounded_weights
from gmi_registry.scoring.sweep import products, row_norms, swept

LEARN_FROM = 1 << 14
"""Models that the directions are learnt from."""

LEADING = 128
"""k, unless there are fewer numbers, or they do not carry the order."""

_LEAST_SHARE = 0.3
# Distances that are worked out in any case: so many, such a share of all, so many for each that is
# asked for. A model's own image is nearer to it than the leading numbers say, by twice the squared
# length of what they leave out.
_LEAST_EXACT = 8192
_EXACT_SHARE = 64
_EXACT_EACH = 8
_BLOCK_ROWS = 4096

_Single = NDArray[np.float32]
Means = Callable[[NDArray[np.intp]], Floats]
"""The means of the models at some rows [n]: [n, D]."""


@dataclass(frozen=True, eq=False)
class Summaries:
    """Of m models: ``lengths`` [m] = ‖x‖²; ``codes`` [m, k] int8 times ``scales`` [m] = Pᵀx."""

    lengths: _Single
    scales: _Single
    codes: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class Prefilter:
    """``centre`` [D], ``directions`` P [D, k] in whitened coordinates, both float32, and the
    ``scatter`` that whitens."""

    centre: _Single
    directions: _Single
    scatter: WithinScatter

    @classmethod
    def learn(cls, means: Floats, scatter: WithinScatter) -> Prefilter:
        """From ``means`` [m, D], m at least 1, a sample of all; at most 16,384 of them are used.
        The same gives the same."""
        means = means[sample_rows(len(means), LEARN_FROM)]
        centre = means.mean(axis=0, dtype=np.float64).astype(np.float32)
        white = (means - centre) @ scatter.whitening(SHRINKAGE).astype(np.float32)
        # One model far out would have a direction to itself.
        lengths = np.sqrt(row_norms(white)).astype(np.float64)
        white *= bounded_weights(lengths).astype(np.float32)[:, None]
        values, vectors = np.linalg.eigh((white.T @ white).astype(np.float64))
        values, vectors = values[::-1], vectors[:, ::-1]
        total = float(values.sum())
        carried = total <= 0 or float(values[:LEADING].sum()) >= _LEAST_SHARE * total
        directions = vectors[:, : LEADING if carried else 0]
        return cls(centre, np.ascontiguousarray(directions.astype(np.float32)), scatter)

    @cached_property
    def _factor(self) -> NDArray[np.float64]:
        """F [D, D]."""
        return self.scatter.whitening(SHRINKAGE)

    @cached_property
    def _turned(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self._factor.T)

    def summaries(self, means: Floats) -> Summaries:
        """Of ``means`` [m, D], of each by itself but for rounding."""
        mahalanobis = self.scatter.mahalanobis(SHRINKAGE, np.dtype(np.float32))
        along = (self._factor @ self.directions).astype(np.float32)
        lengths, scales = np.empty((2, len(means)), np.float32)
        codes = np.empty((len(means), along.shape[1]), np.int8)
        for start in range(0, len(means), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            apart = means[part] - self.centre
            lengths[part] = mahalanobis.squared(apart)
            numbers = apart @ along
            scales[part] = np.abs(numbers).max(axis=1, initial=0) / np.float32(127)
            safe = np.maximum(scales[part], np.finfo(np.float32).tiny)
            codes[part] = np.rint(numbers / safe[:, None]).clip(-127, 127)
        return Summaries(lengths, scales, codes)

    def nearest(
        self,
        summaries: Summaries,
        means: Means,
        query_images: Floats,
        concentration: float,
        count: int,
        rows: NDArray[np.intp] | None = None,
    ) -> Refinement:
        """Mean distances to ``query_images`` [B, D] of all models, or of those at ``rows`` [R]:
        exact of those that may be among the ``count`` nearest, estimates of others.

        ``concentration`` is as in :class:`~gmi_registry.scoring.default.WhitenedMeans`. That a
        model is missed cannot be excluded, only made rare.
        """
        total = len(summaries.lengths)
        chosen = rows
        rows = np.arange(total) if rows is None else rows
        care = Care(max(_LEAST_EXACT, total // _EXACT_SHARE), _EXACT_EACH)

        def exact(places: NDArray[np.intp]) -> _Single:
            return self.distances(summaries, means, query_images, concentration, rows[places])

        if not self.directions.size or refines_all(len(rows), count, care):
            return Refinement.of(exact(np.arange(len(rows))))
        estimates = self.estimates(summaries, query_images, concentration)
        return refine(estimates if chosen is None else estimates[chosen], exact, count, care)

    def estimates(
        self, summaries: Summaries, query_images: Floats, concentration: float
    ) -> _Single:
        """Nearly the mean distances: [m]."""
        towards, own = self._towards(query_images, concentration)
        along = (-2 * towards @ self.directions).astype(np.float32)
        out = np.empty(len(summaries.lengths), np.float32)

        def work(part: slice) -> None:
            found = summaries.codes[part].astype(np.float32) @ along
            found *= summaries.scales[part]
            found += summaries.lengths[part]
            found += np.float32(own)
            out[part] = found

        swept(work, len(out), len(along), streamed=False, spread=True)
        return out

    def distances(
        self,
        summaries: Summaries,
        means: Means,
        query_images: Floats,
        concentration: float,
        rows: NDArray[np.intp],
    ) -> _Single:
        """The mean distances themselves, to rounding, of the models at ``rows`` [R]: [R]."""
        towards, own = self._towards(query_images, concentration)
        along = products(self._factor, towards).astype(np.float32)
        out = np.empty(len(rows), np.float32)

        def work(part: slice) -> None:
            found = products(means(rows[part]) - self.centre, along)
            found *= -2
            found += summaries.lengths[rows[part]]
            found += np.float32(own)
            out[part] = found

        swept(work, len(out), len(self.centre), streamed=False, spread=True)
        return out

    def _towards(
        self, query_images: Floats, concentration: float
    ) -> tuple[NDArray[np.float64], float]:
        """The mean of y [D], and of ‖y‖² less the excess."""
        images = query_images.astype(np.float64) - self.centre
        white = np.stack([products(self._turned, image) for image in images])
        excess = self.scatter.spread(SHRINKAGE) * concentration
        return white.mean(axis=0), float(np.square(white).sum(axis=1).mean() - excess)
