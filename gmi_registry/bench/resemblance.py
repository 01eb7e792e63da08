"""Whether what the picked models make is like what was asked with, by a distance between sets.

Accuracy counts a model that draws just the same as a mistake. Here the pictures themselves are
compared: for each right model, the query images of its tasks with what the models that a method
picked for these tasks drew of the same prompts. Over all models together a method that exchanges
them at random would make the very same set, hence model by model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.bench.estimate import DIGITS, mean_estimates
from gmi_registry.bench.gallery import load_arrays
from gmi_registry.bench.results import Resemblance, Unlikeness
from gmi_registry.bench.scored import Scored
from gmi_registry.bench.title import ordered_methods
from gmi_registry.scoring.model_distance import median_gamma, squared_discrepancy

__all__ = ["resemblance"]

_SEED = 17
_ENOUGH = 1000  # query images for a median distance

Picks = NDArray[np.int64]
Drawn = dict[tuple[int, str, int], NDArray[np.float64]]
"""(model, prompt, seed) to the embedding [D] of what the model drew."""


def resemblance(folder: Path, test: Scored) -> Resemblance | None:
    """The distances for the single images of ``test``; None where embeddings are gone or there
    are not two seeds of two prompts to compare.

    Queries of the lower half of the seeds meet pictures of the upper half, seed by seed, and the
    other way round, so that no picture stands on both sides; pairs of one prompt are left out. γ is
    1 by the median squared distance between query images. Of models that are equally near, one is
    drawn. Raises InputError for embeddings that are damaged.
    """
    path = folder / "embeddings" / "test.npz"
    if not path.is_file():
        return None
    arrays = load_arrays(path)
    places = {str(name): row for row, name in enumerate(arrays["images"])}
    if any(task.images[0] not in places for task in test.tasks.tasks):
        return None
    embeddings = arrays["image_embeddings"].astype(np.float64)
    drawn: Drawn = {
        (int(model), task.prompts[0], task.seeds[0]): embeddings[places[task.images[0]]]
        for model, task in zip(test.truth, test.tasks.tasks, strict=True)
    }
    pairs = _pairs({seed for _, _, seed in drawn})
    prompts = {prompt for _, prompt, _ in drawn}
    models = range(len(test.models))
    whole = {(m, prompt, seed) for m in models for prompt in prompts for seed in pairs}
    pictures = len(prompts) * len(pairs) // 2
    if len(prompts) < 2 or not pictures or not whole <= drawn.keys():
        return None
    asked = np.stack([drawn[key] for key in sorted(whole)])
    gamma = median_gamma(asked[:: -(-len(asked) // _ENOUGH)])
    draw = np.random.default_rng(_SEED)
    methods = ordered_methods(list(test.distances))
    picks = {name: _nearest(test.distances[name], draw) for name in methods}
    columns = [test.truth, draw.integers(0, len(models), len(test.truth)), *picks.values()]
    values = np.stack([_by_model(test, drawn, pairs, each, gamma) for each in columns], axis=1)
    right, random, *others = mean_estimates(values)
    way = random.value - right.value
    return Resemblance(
        gamma=float(f"{gamma:.6g}"),
        pictures=pictures,
        right=right,
        random=random,
        methods=[
            Unlikeness(
                method=name,
                squared_mmd=it,
                closed=round((random.value - it.value) / way, DIGITS) if way > 0 else None,
            )
            for name, it in zip(methods, others, strict=True)
        ],
    )


def _pairs(seeds: set[int]) -> dict[int, int]:
    """Each seed with that of the other half; an odd one out is left over."""
    ordered = sorted(seeds)
    half = len(ordered) // 2
    low, high = ordered[:half], ordered[half : 2 * half]
    return dict(zip(low + high, high + low, strict=True))


def _nearest(distances: NDArray[np.float64], draw: np.random.Generator) -> Picks:
    """The first of each task, [Q, M] to [Q]; one by chance where several are equally near."""
    nearest = distances == distances.min(axis=1, keepdims=True)
    return np.asarray(np.where(nearest, draw.random(distances.shape), -1).argmax(axis=1))


def _by_model(
    test: Scored, drawn: Drawn, pairs: dict[int, int], picks: Picks, gamma: float
) -> NDArray[np.float64]:
    """[M]: MMD² of the tasks of each right model, the mean of both halves."""
    half = sorted(pairs)[: len(pairs) // 2]
    found = []
    for model in range(len(test.models)):
        each = []
        for low in (True, False):
            asked, made, said = [], [], []
            for task, pick in _of_model(test, model, picks):
                prompt, seed = task
                if seed in pairs and (seed in half) is low:
                    asked.append(drawn[model, prompt, seed])
                    made.append(drawn[pick, prompt, pairs[seed]])
                    said.append(prompt)
            strata = np.unique(said, return_inverse=True)[1]
            each.append(
                squared_discrepancy(np.stack(asked), np.stack(made), gamma, strata=(strata, strata))
            )
        found.append(float(np.mean(each)))
    return np.array(found)


def _of_model(test: Scored, model: int, picks: Picks) -> Iterator[tuple[tuple[str, int], int]]:
    """Prompt, seed and picked model of each task whose right model is ``model``."""
    for row in np.flatnonzero(test.truth == model):
        task = test.tasks.tasks[row]
        yield (task.prompts[0], task.seeds[0]), int(picks[row])
