"""What the default score needs to know of a whole group, worked out when the index is written.

A sample says enough, and the index in memory takes one too: the same members by the same rule, so
that both rank alike to the last bit, and an addition costs no more however large the index is.
Sums over all members that additions go into would save that sample's reading, but would depend on
the order of all updates, and drift as members leave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.sample import SCATTER_MODELS, TEMPERATURE_MODELS, drawn_by_lot, sampled
from gmi_registry.index.stored.layout import ArrayLayout
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.confidence import fitted_temperature
from gmi_registry.spec.canonical import canonical_digest

__all__ = ["Statistics", "sample_of", "statistics_fault"]


def sample_of(digests: Sequence[str]) -> str:
    """A digest that changes whenever the statistics of these members, in order, may."""
    rows = sampled(digests, SCATTER_MODELS), drawn_by_lot(digests, TEMPERATURE_MODELS)
    chosen = [[digests[row] for row in some] for some in rows]
    return canonical_digest(chosen)


@dataclass(frozen=True, eq=False)
class _Decomposed(WithinScatter):
    """A scatter whose eigenvectors are known, which are the slow part of a first search."""

    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]

    @cached_property
    def _eigen(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.eigenvalues, self.eigenvectors


@dataclass(frozen=True, eq=False)
class Statistics:
    """Within-model scatter of a group with its eigenvectors, and the temperature of its chances."""

    scatter: WithinScatter
    temperature: float
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        digests: Sequence[str],
        images: Callable[[Sequence[int]], NDArray[np.float16]],
        image_prompt: NDArray[np.integer],
    ) -> Statistics:
        """Of the M models with these specifications, in the order of names; ``images`` gives
        [R, N, D] for at most 256 of these rows."""
        sample = images(sampled(digests, SCATTER_MODELS).tolist())
        scatter = WithinScatter.of(sample)
        fitted = images(drawn_by_lot(digests, TEMPERATURE_MODELS).tolist())
        dimensions = sample.shape[-1]
        values, vectors = np.zeros(dimensions), np.eye(dimensions)
        if scatter.freedom > 0:
            values, vectors = np.linalg.eigh(scatter.scatter / scatter.freedom)
        return cls(scatter, fitted_temperature(fitted, image_prompt), values, vectors)

    @staticmethod
    def layout(dimensions: int) -> ArrayLayout:
        """Of the file: eigenvalues [D], eigenvectors [D, D], the scatter's upper triangle."""
        return ArrayLayout(
            (
                ("eigenvalues", "F64", (dimensions,)),
                ("eigenvectors", "F64", (dimensions, dimensions)),
                ("scatter", "F64", (dimensions * (dimensions + 1) // 2,)),
            )
        )

    @property
    def arrays(self) -> dict[str, NDArray[np.float64]]:
        """What the file holds."""
        matrix = self.scatter.scatter
        return {
            "eigenvalues": self.eigenvalues,
            "eigenvectors": self.eigenvectors,
            "scatter": matrix[np.triu(np.ones(matrix.shape, bool))],
        }

    @classmethod
    def from_arrays(
        cls, arrays: dict[str, NDArray[Any]], freedom: int, temperature: float
    ) -> Statistics:
        """The inverse of ``arrays``, with what stands in ``index.json``."""
        dimensions = len(arrays["eigenvalues"])
        upper = np.triu(np.ones((dimensions, dimensions), bool))
        matrix = np.empty((dimensions, dimensions))
        matrix[upper] = arrays["scatter"]
        matrix.T[upper] = arrays["scatter"]
        values, vectors = arrays["eigenvalues"], arrays["eigenvectors"]
        scatter = _Decomposed(matrix, freedom, values, vectors)
        return cls(scatter, temperature, values, vectors)


def statistics_fault(arrays: dict[str, NDArray[Any]]) -> str | None:
    """What is wrong with the arrays of a statistics file, or None."""
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return "holds a number that is not finite"
    values, vectors = arrays["eigenvalues"], arrays["eigenvectors"]
    dimensions = len(values)
    diagonal = arrays["scatter"][np.cumsum([0, *range(dimensions, 1, -1)])]
    largest = max(float(np.abs(values).max()), 1e-30)
    if (np.diff(values) < 0).any() or values[0] < -1e-6 * largest or (diagonal < 0).any():
        return "holds no scatter of images: a variance is negative"
    if np.abs(np.einsum("ij,ij->j", vectors, vectors) - 1).max() > 1e-6:
        return "holds eigenvectors that are not of length 1"
    return None
