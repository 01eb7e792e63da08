"""The default score over mean images that stay the same from query to query.

The whitened distance is expanded, with both sides taken from a centre c of all means so that little
is lost in rounding, and A = (S + λI)⁻¹:

    (z - μ)ᵀA(z - μ) = (z-c)ᵀA(z-c) - 2 (μ-c)ᵀA(z-c) + (μ-c)ᵀA(μ-c).

The last term is the slow one, a product of all means with a matrix, and no query changes it.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmi_registry.blas import one_thread
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.sweep import products, row_norms, swept
from gmi_registry.scoring.within import WithinScatter

__all__ = ["WhitenedMeans", "whitened_means"]

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
        shrinkage: float = SHRINKAGE,
        centre: Floats | None = None,
    ) -> WhitenedMeans:
        """Of ``means`` [M, D]; ``centre`` [D] is their mean if None.

        Raises ValueError unless shrinkage > 0.
        """
        dtype = working_dtype(means)
        factor = scatter.whitening(shrinkage)
        if centre is None:
            centre = _centre(means)
        mahalanobis = scatter.mahalanobis(shrinkage, dtype)
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
        return cls(means, shift, centre, lengths, factor, scatter.spread(shrinkage))

    def distances(
        self,
        query_images: Floats,
        concentration: float,
        rows: NDArray[np.intp] | None = None,
    ) -> Floats:
        """As :func:`~gmi_registry.scoring.default.mean_distances`, [B, M], or of the models at
        ``rows`` [R] alone: [B, R]."""
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


_KEPT: weakref.WeakKeyDictionary[
    WithinScatter, tuple[weakref.ref[Floats], float, WhitenedMeans]
] = weakref.WeakKeyDictionary()


def whitened_means(
    means: Floats,
    scatter: WithinScatter,
    rows: NDArray[np.intp] | None = None,
    *,
    shrinkage: float = SHRINKAGE,
) -> tuple[WhitenedMeans, NDArray[np.intp] | None]:
    """What :meth:`WhitenedMeans.of` gives for ``means`` [M, D], and where in it ``rows`` are.

    It is kept as long as ``scatter`` is and remembered for the same two objects, which is how the
    members of a group ask for each query; ``means`` must not be written to. For a few rows of
    means that nobody asked for as a whole it is worked out for those alone.
    """
    known = _KEPT.get(scatter)
    if known is not None and known[0]() is means and known[1] == shrinkage:
        return known[2], rows
    if rows is not None and len(rows) * _MOST < len(means):
        chosen = WhitenedMeans.of(means[rows], scatter, shrinkage=shrinkage, centre=_centre(means))
        return chosen, None
    made = WhitenedMeans.of(means, scatter, shrinkage=shrinkage)
    _KEPT[scatter] = (weakref.ref(means), shrinkage, made)
    return made, rows


def _centre(means: Floats) -> Floats:
    if len(means) == 0:
        return np.zeros(means.shape[1], working_dtype(means))
    return np.asarray(means.mean(axis=0, dtype=np.float64).astype(working_dtype(means)))
