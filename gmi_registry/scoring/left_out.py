"""What models that nobody looked at would have to say, when chances are given out.

A chance is a share of Σ_m exp(-β d_m). Of models that were left out no distance is known, but how
distances of such are spread: normally around a level, and beyond the limit within which all were
looked at. With d ~ N(μ, σ²), given d > l, and a = (μ - l)/σ,

    E exp(-βd) = exp(-βμ + β²σ²/2) Φ(a - βσ)/Φ(a).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats

__all__ = ["LeftOut"]

# Below this Φ has a form of its own.
_FAR = -2.0
# From here on it is one.
_ALL = 40.0
_TERMS = 40
_COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
# Distances are hundreds; less than this nobody can tell.
_LEAST = 1e-3


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Models in groups: ``sizes`` [g], the ``levels`` [g] of their distances and the ``deviations``
    [g] from these; hardly any is within ``limit``."""

    sizes: NDArray[np.float64]
    levels: NDArray[np.float64]
    deviations: NDArray[np.float64]
    limit: float

    @classmethod
    def nobody(cls) -> LeftOut:
        """No group at all."""
        return cls(np.empty(0), np.empty(0), np.empty(0), np.inf)

    def joined(self, other: LeftOut) -> LeftOut:
        """Both, within the limit of this one."""
        return LeftOut(
            np.concatenate([self.sizes, other.sizes]),
            np.concatenate([self.levels, other.levels]),
            np.concatenate([self.deviations, other.deviations]),
            self.limit,
        )

    def distances(self, beta: float) -> Floats:
        """The distance of a model that alone would have the chance of a group: [g], those of groups
        without a model left out. ``beta`` is what distances are multiplied with, above 0."""
        some = self.sizes > 0
        sizes, levels, deviations = self.sizes[some], self.levels[some], self.deviations[some]
        deviations = np.maximum(deviations, _LEAST)
        above = (levels - self.limit) / deviations
        scaled = beta * deviations
        # Φ(a - s) underflows where exp(s²/2) overflows, so both stay logarithms.
        told = _log_normal(above - scaled) - _log_normal(above) + np.square(scaled) / 2
        return np.asarray(levels - (told + np.log(sizes)) / beta)


def _log_normal(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """log Φ, to a hundred-thousandth: numpy has no error function."""
    # Abramowitz and Stegun, 7.1.26, for erfc(|x|/√2).
    size = np.minimum(np.abs(values), _ALL) / math.sqrt(2)
    step = 1 / (1 + 0.3275911 * size)
    outer = np.polyval(_COEFFICIENTS, step) * step * np.exp(-np.square(size)) / 2
    share = np.where(values < 0, outer, 1 - outer)
    near = np.log(np.where(values < _FAR, 1.0, share))
    # Farther out the continued fraction of Mills' ratio, 26.2.14 there.
    distance = np.maximum(-values, -_FAR)
    fraction = distance.copy()
    for term in range(_TERMS, 0, -1):
        fraction = distance + term / fraction
    far = -np.square(distance) / 2 - np.log(fraction * math.sqrt(2 * math.pi))
    return np.where(values < _FAR, far, near)
