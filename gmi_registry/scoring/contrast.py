"""Pictures of what is not wanted: their distances count against a model.

With f the distance of a model to what is wanted and a to what is not, by the score that was chosen,
the model is at

    f / (f + a),

between 0 and 1, and at 1/2 where it is equally near to both. The form has no weight to set, and
equal pictures for and against cancel, whatever they show. The plain difference f - a cancels too,
but rewards a model for being far from what is not wanted without end: squared distances to a mean
lose in it what grows with the mean, so that a model far from everything beats the one that is near
to what is wanted. In a ratio such a model stands at 1/2.

Some scores are logarithms already, up to a constant: of a likelihood, or minus a count. A ratio has
no meaning for them, and their difference is the logarithm of one: that is what they get. Any other
score is a squared distance, of which an estimate may fall a little below 0; it then counts as 0.
"""

from __future__ import annotations

import numpy as np

from gmi_registry.scoring.candidates import Candidates
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.query import Query
from gmi_registry.scoring.scores import (
    Score,
    download,
    modelverse_monte_carlo,
    modelverse_second,
)

__all__ = ["against", "contrasted"]

_WITHOUT_ZERO: tuple[Score, ...] = (modelverse_second, modelverse_monte_carlo, download)


def against(score: Score, unwanted: Query) -> Score:
    """``score``, with the distances of ``unwanted`` counting against a model.

    Several unwanted pictures are one query to ``score``, as several wanted ones are.
    """

    def of(candidates: Candidates, query: Query) -> Floats:
        return contrasted(
            score(candidates, query),
            score(candidates, unwanted),
            logarithms=score in _WITHOUT_ZERO,
        )

    return of


def contrasted(wanted: Floats, unwanted: Floats, *, logarithms: bool = False) -> Floats:
    """Distances f [M] to what is wanted and a [M] to what is not, as one distance: [M] float64.

    f / (f + a), in [0, 1], what is below 0 taken as 0; with ``logarithms`` f - a. Increasing in f,
    decreasing in a, and the same for all models where f equals a. NaN where a distance is NaN.
    """
    f, a = wanted.astype(np.float64), unwanted.astype(np.float64)
    # 0 against 0, or infinity against infinity: as near to the one as to the other.
    with np.errstate(invalid="ignore", divide="ignore"):
        if logarithms:
            return np.where(f == a, 0.0, f - a)
        f, a = np.maximum(f, 0), np.maximum(a, 0)
        # Not f / (f + a), which is NaN where f is infinite and a is not.
        return np.where(f == a, 0.5, 1 / (1 + a / f))
