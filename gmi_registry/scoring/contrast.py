"""Pictures of what is not wanted: the models that may have made them lose their chance.

A picture against says: the model that is looked for did not make this one. With p_u(m) the chance
that model m made the unwanted picture u (:mod:`gmi_registry.scoring.confidence`), and p(m) that it
made the wanted ones, the chance left to it is in proportion to p(m) Π_u (1 - p_u(m)). In the units
of the default score's distance to B wanted images, that is

    d_m - (2T/B) Σ_u log(1 - p_u(m)),

and chances are worked out from it as before. A model that is hardly suspected of u keeps its
distance, so that a picture of something else altogether changes nothing; weighing the two distances
against each other, as a ratio or a difference, moves every model by how far it is from u, and was
measured to lose more right answers than it mends (docs/research.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gmi_registry.scoring.confidence import confidences
from gmi_registry.scoring.kernels import Floats

__all__ = ["contrasted", "innocence"]

_LEAST = 1e-12
"""Of the chance that a model did not make a picture: no distance becomes infinite."""


def innocence(
    unwanted: Floats, *, temperature: float, repeats: Sequence[Sequence[int]] = ()
) -> Floats:
    """Σ_u log(1 - p_u(m)) of all M models that may have made the unwanted pictures: [M], at most 0.

    ``unwanted`` [U, M] are the default score's distances of each picture alone, ``temperature`` T
    of the chances. A model alone is suspected of nothing, since nobody could be told from it.
    ``repeats`` are groups of models that nobody can tell apart: they are suspected as one, the
    nearest of them, or else many copies would share the suspicion, until none has enough of it.
    Raises ValueError unless T is positive.
    """
    distances = unwanted.astype(np.float64)
    for group in repeats:
        own = distances[:, list(group)]
        distances[:, list(group)] = np.inf
        distances[:, group[0]] = own.min(axis=1)
    suspected = confidences(distances, 1, temperature=temperature)
    for group in repeats:
        suspected[:, list(group)] = suspected[:, [group[0]]]
    if unwanted.shape[-1] < 2:
        suspected = np.zeros_like(suspected)
    return np.asarray(np.log(np.maximum(1 - suspected, _LEAST)).sum(axis=0))


def contrasted(distances: Floats, innocent: Floats, images: int, *, temperature: float) -> Floats:
    """Distances [M] of the default score to ``images`` wanted pictures, with the unwanted ones
    counting against a model: [M], at least as large, each of them by at most 55 T / ``images``.

    ``innocent`` [M] is what :func:`innocence` says of these models, with the same T. Raises
    ValueError unless ``images`` and T are positive.
    """
    if images < 1 or not temperature > 0:
        raise ValueError(f"needs at least one image and T > 0, got {images} and {temperature}")
    return np.asarray(distances - (2 * temperature / images) * innocent)
