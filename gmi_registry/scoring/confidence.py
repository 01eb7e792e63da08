"""How sure a ranking is: the chance that each model made the query's images.

The default score's distance of an image to a model is, up to a constant, minus twice the logarithm
of a Gaussian density. If exactly one of the ranked models made the images, and each was as likely
to before anything was seen, then the chance of model m is

    p_m = exp(-B d_m / 2T) / Σ_n exp(-B d_n / 2T),

with d_m the mean distance of B images. The chances are about the models that are ranked: they say
nothing of one that is not among them.

**Temperature.** T = 1 would hold for embeddings that are as Gaussian, and images as independent, as
the formula has them; they are less so, and T makes up for it. The right T depends on the encoder
and on how alike the models of a hub are, so a constant would be wrong for most. But each image of a
specification is a question whose answer is known: a third of the prompts is left out, the
statistics and means are worked out from the rest, and the images of the prompts left out are asked
for. The T under which their models were the most likely is the one that will do for a query, whose
prompt no specification has either. How much one model may cost is bounded: far beyond what knowing
nothing would cost, its images say that they are no question to learn from. Without that, one model
whose rows point anywhere would have every temperature as high as it goes, and all chances alike.
And a model that counts for less in the scatter (:mod:`gmi_registry.scoring.scatter`) counts for as
much less here. How far the chances can be believed is in docs/research.md.

**Tail mass.** Of models whose exact distance nobody worked out an estimate is known, and how far
estimates are off. With d ~ N(μ, σ²), given d > l, β = B/2T and a = (μ - l)/σ, such a model has in
the sum, on average,

    E exp(-βd) = exp(-βμ + β²σ²/2) Φ(a - βσ)/Φ(a).

**Unwanted images.** A picture against says: the model that is looked for did not make this one.
With p_u(m) the chance that model m made the unwanted picture u, and p(m) that it made the wanted
ones, the chance left to it is in proportion to p(m) Π_u (1 - p_u(m)). In the units of the distance
to B wanted images, that is

    d_m - (2T/B) Σ_u log(1 - p_u(m)).

A model that is hardly suspected of u keeps its distance, so that a picture of something else
altogether changes nothing; weighing the two distances against each other, as a ratio or a
difference, moves every model by how far it is from u, and was measured to lose more right answers
than it mends (docs/research.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.scatter import WithinScatter, model_weights

TEMPERATURE = 1.7
"""Where nothing is known: the best on the dev tasks of the benchmark's zoo."""

_FOLDS = 3
# A temperature is one number: the images of these many models say enough.
_ENOUGH_MODELS = 64
# Shrinkage makes distances shorter than they should be, by half at most, few images longer.
_TEMPERATURES = np.geomspace(0.25, 64, 57)
# Times log M, which equal chances cost, where a model's part in the choice ends. The base of the
# zoo, which draws without a style, costs 1.3 under the temperature that is chosen.
_MOST_COST = 3.0

# Of a chance e⁻⁶⁰ that of the nearest nothing is left, nor of a million such.
_FARTHEST = 60.0
# Models with nearly the same estimate count together: so many classes a standard deviation, but no
# more than so many in all.
_CLASSES = 8
_MOST_CLASSES = 1000
# Distances are hundreds; less than this nobody can tell.
_LEAST_DEVIATION = 1e-3
# Of the normal distribution Φ: below the first it has a form of its own, from the second it is one.
_FAR = -2.0
_ALL = 40.0
_TERMS = 40
_COEFFICIENTS = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)

_LEAST_INNOCENCE = 1e-12
"""Of the chance that a model did not make an image: no distance becomes infinite."""


def confidences(distances: Floats, images: int, *, temperature: float = TEMPERATURE) -> Floats:
    """The chance of each model, in 0..1 and 1 together, from distances of the default score.

    ``distances`` [..., M], each the mean of ``images`` query images; returns the same shape. Rows
    without a model stay empty. An infinite distance gives 0; where all are infinite, or some are
    not a number, each model gets the same. Raises ValueError unless images and temperature are
    positive.
    """
    if images < 1 or not temperature > 0:
        raise ValueError(f"needs at least one image and T > 0, got {images} and {temperature}")
    if distances.shape[-1] == 0:
        return distances.astype(working_dtype(distances))
    logits = -distances.astype(np.float64) * (images / (2 * temperature))
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        chances = weights / weights.sum(axis=-1, keepdims=True)
    even = ~np.isfinite(chances).all(axis=-1, keepdims=True)
    chances = np.where(even, 1 / distances.shape[-1], chances)
    return np.asarray(chances, working_dtype(distances))


def fitted_temperature(image_embeddings: Floats, image_prompt: NDArray[np.integer]) -> float:
    """T of :func:`confidences` for these models, in 0.25..64.

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
    asked = [_fold_distances(images, prompts % folds == fold) for fold in range(folds)]
    distances = np.concatenate(asked)
    truth = np.concatenate([np.repeat(np.arange(len(kept)), len(it) // len(kept)) for it in asked])
    rows, counts = np.arange(len(truth)), np.bincount(truth)
    most = _MOST_COST * np.log(len(kept))
    weights, _ = model_weights(image_embeddings[kept])
    losses = []
    for temperature in _TEMPERATURES:
        chances = confidences(distances, 1, temperature=float(temperature))[rows, truth]
        nats = -np.log(np.maximum(chances, np.finfo(np.float64).tiny))
        costs = np.minimum(np.bincount(truth, nats) / counts, most)
        losses.append((weights * costs).sum() / weights.sum())
    return float(_TEMPERATURES[int(np.argmin(losses))])


def tail_distances(estimates: Floats, deviation: float, limit: float, beta: float) -> Floats:
    """Distances [g] of single models that have the chances of many whose distance is not known.

    ``estimates`` [n] of their distances are off by a normal deviate with this standard
    ``deviation``, and hardly any distance is within ``limit``; ``beta`` is what distances are
    multiplied with, above 0. Models of nearly the same estimate count as one group.
    """
    nearest = float(np.fmin.reduce(estimates, initial=np.inf))
    some = estimates[estimates <= nearest + _FARTHEST / beta].astype(np.float64)
    if not len(some) or not math.isfinite(nearest):
        return np.empty(0)
    deviation = max(deviation, _LEAST_DEVIATION)
    width = max(deviation / _CLASSES, _FARTHEST / beta / _MOST_CLASSES)
    classes = ((some - nearest) / width).astype(np.intp)
    sizes, totals = np.bincount(classes), np.bincount(classes, some)
    sizes, levels = sizes[sizes > 0], totals[sizes > 0] / sizes[sizes > 0]
    above = (levels - limit) / deviation
    scaled = beta * deviation
    # Φ(a - s) underflows where exp(s²/2) overflows, so both stay logarithms.
    log_mass = _log_normal(above - scaled) - _log_normal(above) + scaled**2 / 2
    return np.asarray(levels - (log_mass + np.log(sizes)) / beta)


def log_innocence(
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
    return np.asarray(np.log(np.maximum(1 - suspected, _LEAST_INNOCENCE)).sum(axis=0))


def distances_with_unwanted(
    distances: Floats, innocent: Floats, images: int, *, temperature: float
) -> Floats:
    """Distances [M] of the default score to ``images`` wanted pictures, with the unwanted ones
    counting against a model: [M], at least as large, each of them by at most 55 T / ``images``.

    ``innocent`` [M] is what :func:`log_innocence` says of these models, with the same T. Raises
    ValueError unless ``images`` and T are positive.
    """
    if images < 1 or not temperature > 0:
        raise ValueError(f"needs at least one image and T > 0, got {images} and {temperature}")
    return np.asarray(distances - (2 * temperature / images) * innocent)


def _fold_distances(images: NDArray[np.float64], fold: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Whitened squared distances of the rows of a ``fold`` to the means of the rest: [M n, M]."""
    known = images[:, ~fold]
    factor = WithinScatter.of(known).whitening(SHRINKAGE)
    means = known.mean(axis=1) @ factor
    queries = images[:, fold].reshape(-1, images.shape[-1]) @ factor
    squares = np.square(queries).sum(1)[:, None] + np.square(means).sum(1)
    return np.asarray(np.maximum(squares - 2 * queries @ means.T, 0))


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
