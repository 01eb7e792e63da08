"""Searches by words, by a model, and by a picture with something beside it, on the test tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gmi_registry.bench.embed import with_words
from gmi_registry.bench.estimate import mean_estimates
from gmi_registry.bench.gallery import Shelf, load_arrays
from gmi_registry.bench.measure import outcome
from gmi_registry.bench.results import QuestionResult
from gmi_registry.bench.scored import Run, Scored
from gmi_registry.scoring.confidence import distances_with_unwanted, log_innocence
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.model_distance import content_means, model_distances
from gmi_registry.scoring.text import distances_with_text, text_distances

__all__ = ["questions"]

_SEED = 23
_PICTURE = "default-none"
"""The score of a picture: no prompt is given, as most people give none."""

Asked: TypeAlias = Literal["picture", "text", "style", "content", "like", "not-like"]
Distances: TypeAlias = Floats
Truth: TypeAlias = NDArray[np.int64]


def questions(folder: Path, run: Run, test: Scored, temperature: float) -> list[QuestionResult]:
    """All that the run in ``folder`` has what is needed for; ``test`` are single images.

    ``temperature`` is T of a search over the run's specifications. Empty without embeddings or
    without distances of the default score; words are left out where models have none, or the
    encoder's towers share no space. Raises InputError for embeddings that are damaged.
    """
    names = ("specs", "test")
    if _PICTURE not in test.distances or not all(
        (folder / "embeddings" / f"{name}.npz").is_file() for name in names
    ):
        return []
    asking = _Asking(folder, run, test, temperature)
    found = [_result("picture", "alone", test.distances[_PICTURE], test.truth)]
    found += asking.in_words()
    found += asking.by_model()
    found += asking.against_pictures()
    return found


class _Asking:
    """The arrays that all questions share."""

    def __init__(self, folder: Path, run: Run, test: Scored, temperature: float) -> None:
        self._shelf = Shelf(folder, run.gamma)
        self._member = self._shelf.gallery(test.protocol).members[0]
        self._words = folder / "embeddings" / "words.npz"
        self._run = run
        self._test = test
        self._temperature = temperature

    def in_words(self) -> Iterator[QuestionResult]:
        """Alone, and beside pictures."""
        if not self._words.is_file():
            return
        arrays = load_arrays(self._words)
        wordings: list[list[str]] = arrays["wordings"].tolist()
        scale = float(arrays["logit_scale"])
        rows = arrays["text_embeddings"].astype(np.float64)
        if not scale > 0 or rows.shape[1] != self._member.image_embeddings.shape[2]:
            return
        member = self._member
        near = {
            str(text): text_distances(
                member.image_embeddings, member.prompt_embeddings, member.image_prompt, row
            )
            for text, row in zip(arrays["texts"], rows, strict=True)
        }
        shown = [task.prompts[0] for task in self._test.tasks.tasks]
        prompts = sorted(set(shown))
        models = range(len(wordings))
        for number in range(len(wordings[0])):
            asked = np.stack(
                [
                    near[with_words(prompt, wordings[m][number])]
                    for m in models
                    for prompt in prompts
                ]
            )
            truth = np.repeat(np.array(models), len(prompts))
            yield _result("text", str(number + 1), asked, truth)
        for number in range(len(wordings[0])):
            words = np.stack([near[wordings[model][number]] for model in self._test.truth])
            yield self._beside("style", str(number + 1), words, scale)
        yield self._beside("content", "name", np.stack([near[name] for name in shown]), scale)

    def _beside(
        self, question: Asked, variant: str, words: Distances, scale: float
    ) -> QuestionResult:
        joint = distances_with_text(
            self._test.distances[_PICTURE],
            words,
            1,
            temperature=self._temperature,
            logit_scale=scale,
        )
        return _result(question, variant, np.asarray(joint), self._test.truth)

    def by_model(self) -> Iterator[QuestionResult]:
        """What a model drew for the evaluation prompts with one seed, as a model of its own."""
        drawn = self._drawn()
        if drawn is None:
            return
        models, seeds, prompts = drawn.shape[:3]
        truth = np.tile(np.arange(models), seeds)
        answered = np.arange(prompts)
        same, other = [], []
        for seed in range(seeds):
            gallery = drawn[:, (seed + 1) % seeds]
            content = content_means(gallery, answered, prompts)
            for exemplar in drawn[:, seed]:
                same.append(
                    model_distances(
                        gallery,
                        exemplar,
                        self._run.gamma,
                        image_prompt=answered,
                        exemplar_prompt=answered,
                        content=content,
                    )
                )
                other.append(
                    model_distances(self._member.image_embeddings, exemplar, self._run.gamma)
                )
        if seeds > 1:
            yield _result("like", "same", np.stack(same), truth)
        yield _result("like", "other", np.stack(other), truth)

    def _drawn(self) -> Distances | None:
        """[M, seeds, prompts, D] of the test pictures; None where some are missing."""
        arrays = load_arrays(self._shelf.folder / "embeddings" / "test.npz")
        place = {str(name): row for row, name in enumerate(arrays["images"])}
        tasks = self._test.tasks.tasks
        prompts = {it: i for i, it in enumerate(sorted({task.prompts[0] for task in tasks}))}
        seeds = {it: i for i, it in enumerate(sorted({task.seeds[0] for task in tasks}))}
        embeddings = arrays["image_embeddings"].astype(np.float64)
        shape = (len(self._test.models), len(seeds), len(prompts), embeddings.shape[1])
        drawn = np.full(shape, np.nan)
        for model, task in zip(self._test.truth, tasks, strict=True):
            row = place.get(task.images[0])
            if row is not None:
                drawn[model, seeds[task.seeds[0]], prompts[task.prompts[0]]] = embeddings[row]
        return None if np.isnan(drawn).any() else drawn

    def against_pictures(self) -> Iterator[QuestionResult]:
        """Each task with a picture by a wrong model of something else, at the same seed."""
        tasks, truth = self._test.tasks.tasks, self._test.truth
        distances = self._test.distances[_PICTURE]
        row_of = {
            (int(model), task.prompts[0], task.seeds[0]): row
            for row, (model, task) in enumerate(zip(truth, tasks, strict=True))
        }
        prompts = sorted({task.prompts[0] for task in tasks})
        following = dict(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
        wrong = distances.copy()
        wrong[np.arange(len(truth)), truth] = np.inf
        step = np.random.default_rng(_SEED).integers(1, distances.shape[1], len(truth))
        picks = {
            "nearest": wrong.argmin(axis=1),
            "any": (truth + step) % distances.shape[1],
        }
        if len(prompts) < 2:
            return
        heat = self._temperature

        def moved(row: Floats, unwanted: Floats) -> Floats:
            return distances_with_unwanted(
                row, log_innocence(unwanted, temperature=heat), 1, temperature=heat
            )

        for variant, models in picks.items():
            keys = [
                (int(model), following[task.prompts[0]], task.seeds[0])
                for model, task in zip(models, tasks, strict=True)
            ]
            if not row_of.keys() >= set(keys):
                return
            found = np.stack(
                [
                    moved(row, distances[[row_of[key]]])
                    for row, key in zip(distances, keys, strict=True)
                ]
            )
            yield _result("not-like", variant, found, truth)


def _result(question: Asked, variant: str, distances: Distances, truth: Truth) -> QuestionResult:
    *top, rank = mean_estimates(outcome(distances, truth))
    return QuestionResult(question=question, variant=variant, tasks=len(truth), top=top, rank=rank)
