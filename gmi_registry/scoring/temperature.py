"""How far the chances of a ranking can be trusted, found out from the specifications themselves.

The right temperature depends on the encoder and on how alike the models of a hub are, so a constant
would be wrong for most. But each image of a specification is a question whose answer is known: a
third of the prompts is left out, the statistics and means are worked out from the rest, and the
images of the prompts left out are asked for. The temperature under which their models were the most
likely is the one that will do for a query, whose prompt no specification has either.

How much one model may cost is bounded: far beyond what knowing nothing would cost, its images say
that they are no question to learn from. Without that, one model whose rows point
anywhere would have every temperature as high as it goes, and all chances alike. And a model that
counts for less in the scatter (:mod:`gmi_registry.scoring.within`), because its rows are spread as
no other's, counts for as much less here: of three models one has a third of the say otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.confidence import TEMPERATURE, confidences
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.within import WithinScatter, model_weights

__all__ = ["fitted_temperature"]

_FOLDS = 3
# A temperature is one number: the images of these many models say enough.
_ENOUGH_MODELS = 64
# Shrinkage makes distances shorter than they should be, by half at most, few images longer.
_TRIED = np.geomspace(0.25, 64, 57)
# Times log M, which equal chances cost, where a model's part in the choice ends. The base of the
# zoo, which draws without a style, costs 1.3 under the temperature that is chosen.
_MOST_COST = 3.0


def fitted_temperature(image_embeddings: Floats, image_prompt: NDArray[np.integer]) -> float:
    """T of :func:`~gmi_registry.scoring.confidence.confidences` for these models, in 0.25..64.

    ``image_embeddings`` [M, N, D], ``image_prompt`` [N]; of more than 64 models 64 are used, spread
    evenly over M. ``TEMPERATURE`` where one model or one prompt leaves nothing to ask.
    """
    models = len(image_embeddings)
    prompts = np.unique(image_prompt, return_inverse=True)[1]
    folds = min(_FOLDS, int(prompts.max(initial=-1)) + 1)
    if models < 2 or folds < 2:
        return TEMPERATURE
    kept = np.linspace(0, models - 1, min(models, _ENOUGH_MODELS)).round().astype(np.intp)
    images = image_embeddings[kept].astype(np.float64)
    asked = [_distances(images, prompts % folds == fold) for fold in range(folds)]
    distances = np.concatenate(asked)
    truth = np.concatenate([np.repeat(np.arange(len(kept)), len(it) // len(kept)) for it in asked])
    rows, counts = np.arange(len(truth)), np.bincount(truth)
    most = _MOST_COST * np.log(len(kept))
    weights, _ = model_weights(image_embeddings[kept])
    losses = []
    for temperature in _TRIED:
        chances = confidences(distances, 1, temperature=float(temperature))[rows, truth]
        nats = -np.log(np.maximum(chances, np.finfo(np.float64).tiny))
        costs = np.minimum(np.bincount(truth, nats) / counts, most)
        losses.append((weights * costs).sum() / weights.sum())
    return float(_TRIED[int(np.argmin(losses))])


def _distances(images: NDArray[np.float64], left_out: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Whitened squared distances of the rows ``left_out`` to the means of the rest: [M n, M]."""
    known = images[:, ~left_out]
    factor = WithinScatter.of(known).whitening(SHRINKAGE)
    means = known.mean(axis=1) @ factor
    queries = images[:, left_out].reshape(-1, images.shape[-1]) @ factor
    squares = np.square(queries).sum(1)[:, None] + np.square(means).sum(1)
    return np.asarray(np.maximum(squares - 2 * queries @ means.T, 0))
