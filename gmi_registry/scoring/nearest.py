"""The first few of a ranking by Eq. 9, without the distances of all: certain, not approximate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.equation import Equation
from gmi_registry.scoring.invariants import Invariants
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.paper import paper_distances
from gmi_registry.scoring.sketch import Sketch
from gmi_registry.scoring.sweep import swept

__all__ = ["Nearest", "nearest_models"]

_FIRST = 32
# Beyond this share of the models, reading all in order is faster than picking.
_MOST = 3


@dataclass(frozen=True, eq=False)
class Nearest:
    """``rows`` [k] of the nearest models and their ``distances`` [k], nearest first, equal ones in
    the order of their rows; ``rescored``: for how many the distance had to be worked out."""

    rows: NDArray[np.intp]
    distances: Floats
    rescored: int


def nearest_models(
    image_embeddings: Floats,
    weights: Floats,
    query_images: Floats,
    gamma: float,
    *,
    model_grams: Floats,
    sketch: Sketch,
    count: int,
    invariants: Invariants | None = None,
) -> Nearest:
    """The ``count`` models nearest by Eq. 9, k = min(count, M) of them.

    Arguments as for :func:`~gmi_registry.scoring.paper.paper_distances`, ``sketch`` that of the
    images and Gram matrices. Models and distances are those of sorting what that function gives
    for all, averaged over the query images; to the last bit for up to eight of these. A model is
    left out only where its bound is beyond the k-th distance. Raises ValueError where shapes
    disagree or γ is not positive, and for a ``count`` below 1.
    """
    models, rows, width = image_embeddings.shape
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    if sketch.rests.shape != (models, rows):
        raise ValueError(f"the sketch is of {sketch.rests.shape}, not of {(models, rows)} images")
    equation = Equation.of(image_embeddings, weights, query_images, gamma)
    count = min(count, models)
    bounds = sketch.bounds(equation)

    def rescored(chosen: NDArray[np.intp]) -> Floats:
        found = np.empty(len(chosen), equation.dtype)

        def work(part: slice) -> None:
            picked = chosen[part]
            each = equation.distances(
                image_embeddings[picked],
                model_grams[picked],
                norms=None if invariants is None else invariants.norms[picked],
                sums=None if invariants is None else invariants.sums[picked],
            )
            found[part] = each.mean(axis=0)

        swept(work, len(chosen), rows * width, streamed=False, spread=True)
        return found

    order = np.argsort(bounds, kind="stable")
    ordered = bounds[order]
    done = min(models, max(_FIRST, 2 * count))
    distances = rescored(order[:done])
    while done < models:
        farthest = np.partition(distances, count - 1)[count - 1]
        # A model that is exactly as far may come first by its row.
        left = int(np.searchsorted(ordered, farthest, side="right"))
        if left <= done:
            break
        if left > models // _MOST:
            order, done = np.arange(models), models
            distances = paper_distances(
                image_embeddings,
                weights,
                query_images,
                gamma,
                model_grams=model_grams,
                invariants=invariants,
            ).mean(axis=0)
            break
        # What is nearer by its bound may move the k-th distance, and spare the rest.
        until = min(left, 2 * done)
        distances = np.concatenate([distances, rescored(order[done:until])])
        done = until
    best = np.lexsort((order[:done], distances))[:count]
    return Nearest(order[best], distances[best], done)
