"""How the variance of embeddings is shared out, measured on specifications of a benchmark's run.

An embedding is a common centre, what its prompt shows with any model, the style of its model, and
what it alone shows. Each is taken for Gaussian, with variances along its main directions that fall
as a power of their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

_FITTED = 200
_FITTED_STYLES = 12


@dataclass(frozen=True)
class Spectrum:
    """Variance, and the slope of its fall, of ``content``, ``style`` and ``own``."""

    content: tuple[float, float]
    style: tuple[float, float]
    own: tuple[float, float]

    @classmethod
    def measured(cls, specs: Path) -> Self:
        """Of ``embeddings/specs.npz`` of a run of ``python -m benchmarks.paper run``."""
        with np.load(specs) as arrays:
            images = arrays["image_embeddings"].astype(np.float64)
        centre = images.mean(axis=(0, 1))
        content = images.mean(axis=0) - centre
        style = images.mean(axis=1) - centre
        own = images - centre - content - style[:, None]
        return cls(
            _power(content, _FITTED),
            _power(style, _FITTED_STYLES),
            _power(own.reshape(-1, own.shape[-1]), _FITTED),
        )


ICONS = Spectrum(content=(37.9, -1.09), style=(47.1, -1.38), own=(94.3, -0.81))
"""The zoo's sixteen styles as artists drew them, under EfficientNet-Lite0:
``python -m benchmarks.paper run benchmarks/icons16-efficientnet.toml``. Their whitened means lie 18
to 1,271 apart, half of them less than 137, where images of one model spread by 264."""


def _power(rows: np.ndarray, most: int) -> tuple[float, float]:
    """Total variance, and the slope of the logarithms of the first ``most`` eigenvalues."""
    values = np.linalg.eigvalsh(rows.T @ rows / len(rows))[::-1]
    values = values[values > 1e-12 * values[0]][:most]
    slope = np.polyfit(np.log(np.arange(1, len(values) + 1)), np.log(values), 1)[0]
    return round(float(np.square(rows).sum(axis=1).mean()), 1), round(float(slope), 2)
