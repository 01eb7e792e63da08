"""The default score without a prompt of very many models, nearly, at a sixth of the bytes.

In whitened coordinates x_m = Fᵀ(μ_m - c) and y = Fᵀ(z - c), with F Fᵀ = (S + λI)⁻¹ and c a centre
of all means,

    d_m = ‖x_m‖² - 2 x_m·y + ‖y‖² - excess,

and all that is slow is one product. A coarse quantizer splits x_m into the centroid of its cell and
a residual, of which some numbers are kept along the directions P in which residuals vary most:

    x_m·y ≈ centroid·y + (Pᵀ residual_m)·(Pᵀ y).

The first of these are read of all models, the further ones of those alone that are near by the
first. Lengths are kept as they are, so the error is what the rest of the residual has to say of the
query: nothing that models of a cell have in common is lost. Unlike with an inverted file no cell is
left out: every model has an estimate, which a filter needs, and chances too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.clusters import clustered, nearest_cells
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats, widened
from gmi_registry.scoring.ranking import least
from gmi_registry.scoring.sweep import products, row_norms, swept
from gmi_registry.scoring.within import WithinScatter

__all__ = ["LEARNT_FROM", "CoarseCodes", "CoarseSpace", "settled", "settles_all"]

Single = NDArray[np.float32]

LEARNT_FROM = 1 << 16
"""Models of which cells and directions are learnt."""

_SINGLE = np.dtype(np.float32)

_DIRECTIONS = 128
_FURTHER = 256
_PLANE = 64
"""Directions in which cells are told apart."""
_MOST_CELLS = 4096
_SPECTRUM_FROM = 1 << 13
_BLOCK_ROWS = 4096
# What half precision holds; a model that is so far off may as well have a wrong estimate.
_MOST = 60_000.0
# Of less than such a share of all, rows are picked; more are read with all others, in order.
_SCATTERED = 32
# Of so many the further numbers are read at least, and of such a share of all.
_REFINED = 16_384
_REFINED_SHARE = 16
# Of so many the distance is worked out at least, and of so many for each that is asked for.
_FIRST = 1024
_EACH = 24
# Estimates are off by a normal deviate; so many standard deviations of it are looked into.
_DEVIATIONS = 3.0


@dataclass(frozen=True, eq=False)
class CoarseCodes:
    """Of m models: ``lengths`` [m] = ‖x‖², ``cells`` [m] int32, and of Pᵀ residual the first r in
    ``codes`` [m, r], the others in ``further`` [m, s] float16."""

    lengths: Single
    cells: NDArray[np.int32]
    codes: Single
    further: NDArray[np.float16]

    def at(self, rows: NDArray[np.intp]) -> CoarseCodes:
        """Those of ``rows`` alone."""
        return CoarseCodes(
            self.lengths[rows], self.cells[rows], self.codes[rows], self.further[rows]
        )


@dataclass(frozen=True, eq=False)
class CoarseSpace:
    """``centre`` [D], ``plane`` [D, p], ``centroids`` [K, D] and ``directions`` [D, r + s], all
    float32 and, but for the centre, in whitened coordinates; and the ``scatter`` that whitens."""

    centre: Single
    plane: Single
    centroids: Single
    directions: Single
    scatter: WithinScatter

    @classmethod
    def learnt(
        cls, means: Floats, scatter: WithinScatter, *, models: int | None = None
    ) -> CoarseSpace:
        """From ``means`` [m, D], m at least 1, as a sample of ``models``. The same gives the same.

        Some seconds for 65,536, and no more for more, of which so many are taken, spread evenly.
        """
        if len(means) > LEARNT_FROM:
            means = means[np.linspace(0, len(means) - 1, LEARNT_FROM).round().astype(np.intp)]
        centre = means.mean(axis=0, dtype=np.float64).astype(np.float32)
        white = (means - centre) @ scatter.whitening(SHRINKAGE).astype(np.float32)
        plane = _leading(white, _PLANE)
        wanted = 4 * np.sqrt(len(means) if models is None else models)
        cells = int(2 ** round(np.log2(max(1.0, min(wanted, _MOST_CELLS, len(means) / 8)))))
        flat = white @ plane
        members = clustered(flat, cells)
        centroids = np.stack(
            [white[members == cell].mean(axis=0, dtype=np.float64) for cell in np.unique(members)]
        ).astype(np.float32)
        white -= centroids[nearest_cells(flat, centroids @ plane)]
        return cls(centre, plane, centroids, _leading(white, _DIRECTIONS + _FURTHER), scatter)

    @cached_property
    def factor(self) -> NDArray[np.float64]:
        """F [D, D]."""
        return self.scatter.whitening(SHRINKAGE)

    @cached_property
    def _turned(self) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.factor.T)

    @property
    def kept(self) -> tuple[int, int]:
        """r, and r + s."""
        last = self.directions.shape[1]
        return min(_DIRECTIONS, last), last

    def coded(self, means: Floats) -> CoarseCodes:
        """Codes of ``means`` [m, D], of each by itself but for rounding."""
        narrow: Single = self.factor.astype(np.float32)
        seeds = self.centroids @ self.plane
        lengths = np.empty(len(means), np.float32)
        cells = np.empty(len(means), np.int32)
        first, last = self.kept
        codes = np.empty((len(means), first), np.float32)
        further = np.empty((len(means), last - first), np.float16)
        for start in range(0, len(means), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            white = np.asarray((means[part] - self.centre) @ narrow, np.float32)
            lengths[part] = row_norms(white)
            cells[part] = nearest_cells(white @ self.plane, seeds)
            white -= self.centroids[cells[part]]
            along = white @ self.directions
            codes[part] = along[:, :first]
            np.clip(along[:, first:], -_MOST, _MOST, out=further[part], casting="same_kind")
        return CoarseCodes(lengths, cells, codes, further)

    def estimates(
        self,
        coded: CoarseCodes,
        query_images: Floats,
        concentration: float,
        rows: NDArray[np.intp] | None = None,
    ) -> Single:
        """Nearly :func:`~gmi_registry.scoring.default.mean_distances`, the mean over
        ``query_images`` [B, D], of ``rows`` [R] of the m models, or of all: [R] or [m].

        ``concentration`` as there.
        """
        towards, own = self._asked(query_images, concentration)
        narrow = (-2 * towards).astype(np.float32)
        near = products(self.centroids, narrow) + np.float32(own)
        along = products(np.ascontiguousarray(self.directions.T), narrow)
        first, last = self.kept
        models = len(coded.lengths)
        if rows is not None and _SCATTERED * len(rows) < models:
            coded, rows = coded.at(rows), None
        out = np.empty(len(coded.lengths), np.float32)

        def work(part: slice) -> None:
            found = products(coded.codes[part], along[:first])
            found += near[coded.cells[part]]
            found += coded.lengths[part]
            out[part] = found

        swept(work, len(out), first, streamed=True, spread=True)
        if rows is not None:
            out = out[rows]
        chosen = least(out, max(_REFINED, len(out) // _REFINED_SHARE))
        places = chosen if rows is None else rows[chosen]

        def refine(part: slice) -> None:
            further = widened(coded.further[places[part]], _SINGLE)
            out[chosen[part]] += products(further, along[first:])

        swept(refine, len(chosen), last - first, streamed=False, spread=True)
        return out

    def distances(
        self, means: Floats, lengths: Single, query_images: Floats, concentration: float
    ) -> Single:
        """What :meth:`estimates` estimates, to rounding, for ``means`` [m, D] with ``lengths``."""
        towards, own = self._asked(query_images, concentration)
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

    def _asked(
        self, query_images: Floats, concentration: float
    ) -> tuple[NDArray[np.float64], float]:
        """The mean of y, and of ‖y‖² less the excess."""
        images = query_images.astype(np.float64) - self.centre
        white = np.stack([products(self._turned, image) for image in images])
        excess = self.scatter.spread(SHRINKAGE) * concentration
        return white.mean(axis=0), float(np.square(white).sum(axis=1).mean() - excess)


def settles_all(models: int, count: int) -> bool:
    """Whether :func:`settled` would ask for all of so many models, whatever the estimates."""
    return 2 * max(_FIRST, _EACH * count) >= models


def settled(estimates: Floats, exact: Callable[[NDArray[np.intp]], Floats], count: int) -> Floats:
    """``estimates`` [R] with distances in the place of those that may be among the ``count`` least.

    ``exact`` gives the distances of some rows, ascending. They are asked for until no other
    estimate is within three standard deviations, as far as estimates were found to be off, of the
    ``count``-th distance: so no estimate that is left is less than that. Where half of all would
    have to be asked for, all are. Raises ValueError for a ``count`` below 1.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    models = len(estimates)
    out = np.array(estimates, np.result_type(np.float32, estimates))
    known = np.zeros(models, bool)
    wanted = max(_FIRST, _EACH * count)
    while True:
        if 2 * wanted >= models:
            rows = np.flatnonzero(~known)
        else:
            rows = least(estimates, wanted)
            rows = rows[~known[rows]]
        out[rows] = exact(rows)
        known[rows] = True
        settled_rows = np.flatnonzero(known)
        if len(settled_rows) == models:
            return out
        found = out[settled_rows]
        off = float(np.sqrt(np.square(found - estimates[settled_rows], dtype=np.float64).mean()))
        limit = float(np.partition(found, count - 1)[count - 1]) + _DEVIATIONS * off
        needed = int(np.count_nonzero(estimates <= limit))
        if needed <= len(settled_rows):
            return out
        wanted = max(needed, len(settled_rows) + 1)


def _leading(rows: Single, most: int) -> Single:
    """The directions in which ``rows`` [m, D] vary most: [D, k], k at most ``most``."""
    step = -(-len(rows) // _SPECTRUM_FROM)
    some = rows[::step]
    some = some - some.mean(axis=0)
    vectors = np.linalg.eigh((some.T @ some).astype(np.float64))[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :most].astype(np.float32))
