"""Measurements beside the paper's tables: γ, likeness, held-out models, own prompts, words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.folder import Run, ScoredTasks, load_arrays
from benchmarks.paper.generate import with_words
from benchmarks.paper.methods import (
    METHODS,
    Fit,
    Gallery,
    Prompts,
    Queries,
    ordered_methods,
    paper_by,
)
from benchmarks.paper.results import (
    DIGITS,
    Late,
    LateMethod,
    Mixture,
    QuestionResult,
    Resemblance,
    Sweep,
    Unlikeness,
    first_shares,
    mean_estimates,
    outcome,
)
from benchmarks.paper.score import UNFITTED, HeldOut, RunArrays
from gmi_registry.scoring.confidence import distances_with_unwanted, log_innocence
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats, rbf, squared_distances
from gmi_registry.scoring.model_distance import content_means, model_distances
from gmi_registry.scoring.query import distances_with_text, text_distances, unit_rows
from gmi_registry.scoring.scores import top_k_credit

# --- How far two sets of images are apart: MMD, RBF kernel, unbiased -----------------------------

# It asks whether two sets could come of one distribution, whichever image answers which. With a
# kernel on an encoder's embeddings it stands where a Fréchet distance would, but needs no
# covariance, and so says something about a few dozen images too.


def squared_discrepancy(
    x: Floats,
    y: Floats,
    gamma: float,
    *,
    strata: tuple[NDArray[np.integer], NDArray[np.integer]] | None = None,
) -> float:
    """The unbiased estimate of MMD²: mean k(x, x') + mean k(y, y') - 2 mean k(x, y).

    ``x`` [n, D] and ``y`` [m, D] are independent draws; x' and y' are other rows than x and y. Its
    expectation is 0 where both come of one distribution, so that it may fall below. It is the same
    for (y, x), and for rows in any order.

    Where rows answer prompts that both sides share they are not independent: pairs of one prompt
    are alike, and there are more of these across than within. ``strata`` ([n] and [m], the prompt
    of each row) leaves such pairs out of all three means, which makes the prompts the draws.

    Raises ValueError for fewer than two rows, or fewer than two strata, on a side, other widths or
    lengths, or γ that is not positive.
    """
    if min(len(x), len(y)) < 2:
        raise ValueError(f"a discrepancy needs two rows on each side, got {len(x)} and {len(y)}")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"rows of {x.shape[1]} and of {y.shape[1]} numbers cannot be compared")
    if strata is None:
        across = float(rbf(x, y, gamma).mean(dtype=np.float64))
        return _others(x, gamma) + _others(y, gamma) - 2 * across
    own, other = strata
    if (len(own), len(other)) != (len(x), len(y)):
        raise ValueError(f"{len(own)} and {len(other)} strata cannot be those of the rows")
    if min(len(np.unique(own)), len(np.unique(other))) < 2:
        raise ValueError("a discrepancy needs two rows of different strata on each side")
    return (
        _apart(x, x, own, own, gamma)
        + _apart(y, y, other, other, gamma)
        - 2 * _apart(x, y, own, other, gamma)
    )


def median_gamma(rows: Floats) -> float:
    """γ = 1/median ‖x - x'‖² over the pairs of ``rows`` [n, D], for a kernel that sees all of them.

    1 where at least half of the pairs are equal. Raises ValueError for fewer than two rows.
    """
    if len(rows) < 2:
        raise ValueError("a median distance needs two rows")
    above = np.triu_indices(len(rows), 1)
    median = float(np.median(squared_distances(rows, rows)[above]))
    return 1 / median if median > 0 else 1.0


def _others(rows: Floats, gamma: float) -> float:
    """The mean of k over all pairs of two different rows."""
    count = len(rows)
    # The kernel of a row with itself is exactly 1.
    total = rbf(rows, rows, gamma).sum(dtype=np.float64) - count
    return float(total / (count * (count - 1)))


def _apart(
    x: Floats, y: Floats, own: NDArray[np.integer], other: NDArray[np.integer], gamma: float
) -> float:
    """The mean of k over pairs of different strata."""
    return float(rbf(x, y, gamma)[own[:, None] != other].mean(dtype=np.float64))


# --- γ of Eq. 9 ----------------------------------------------------------------------------------

SWEPT_GAMMAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


_SWEPT: tuple[tuple[str, Prompts], ...] = (("paper", "pseudo"), ("rkme-clip", "none"))
_FEATURES: tuple[Literal["raw", "unit"], ...] = ("raw", "unit")


def gamma_sweep(folder: Path, test: ScoredTasks, own: float) -> list[Sweep]:
    """Top-1 accuracy of Eq. 9 and of RKME-CLIP on the tasks of ``test``, for each of ``GAMMAS``.

    ``own`` is the run's γ. Distances are worked out anew from the embeddings in ``folder``;
    where these are gone the list is empty. Raises InputError for embeddings that do not match.
    """
    kept = [f"embeddings/{part}.npz" for part in ("specs", "test")] + ["pseudo/test.npz"]
    if not all((folder / name).is_file() for name in kept):
        return []
    run_arrays = RunArrays(folder, own)
    queries, members = run_arrays.queries("test", test.tasks)
    gallery = run_arrays.gallery(test.protocol)
    found = []
    shown = {"raw": (gallery, queries), "unit": _of_length_1(gallery, queries)}
    for method, prompts in _SWEPT:
        if method not in test.distances:
            continue
        for features in _FEATURES:
            accuracies = []
            for gamma in SWEPT_GAMMAS:
                fit = Fit(gamma, SHRINKAGE)
                each = paper_by(*shown[features], fit, prompts=prompts, gamma=gamma)
                credit = top_k_credit(each[members].mean(axis=1), test.truth, 1)
                accuracies.append(round(float(credit.mean()), 6))
            found.append(
                Sweep(method=method, features=features, gammas=list(SWEPT_GAMMAS), top_1=accuracies)
            )
    return found


def _of_length_1(gallery: Gallery, queries: Queries) -> tuple[Gallery, Queries]:
    members = tuple(
        replace(member, image_embeddings=unit_rows(member.image_embeddings), grams=None)
        for member in gallery.members
    )
    images = np.asarray(unit_rows(queries.images), np.float64)
    return Gallery(members, gallery.pictures), replace(queries, images=images)


# --- What the picked models make, beside the query -----------------------------------------------

_RESEMBLANCE_SEED = 17
_ENOUGH = 1000  # query images for a median distance

Picks = NDArray[np.int64]
Drawn = dict[tuple[int, str, int], NDArray[np.float64]]
"""(model, prompt, seed) to the embedding [D] of what the model drew."""


def resemblance(folder: Path, test: ScoredTasks) -> Resemblance | None:
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
    draw = np.random.default_rng(_RESEMBLANCE_SEED)
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
    test: ScoredTasks, drawn: Drawn, pairs: dict[int, int], picks: Picks, gamma: float
) -> NDArray[np.float64]:
    """[M]: MMD² of the tasks of each right model, the mean of both halves."""
    half = sorted(pairs)[: len(pairs) // 2]
    found = []
    for model in range(len(test.models)):
        each = []
        for low in (True, False):
            asked, made, said = [], [], []
            for row in np.flatnonzero(test.truth == model):
                prompt, seed = test.tasks.tasks[row].prompts[0], test.tasks.tasks[row].seeds[0]
                if seed in pairs and (seed in half) is low:
                    asked.append(drawn[model, prompt, seed])
                    made.append(drawn[int(picks[row]), prompt, pairs[seed]])
                    said.append(prompt)
            strata = np.unique(said, return_inverse=True)[1]
            each.append(
                squared_discrepancy(np.stack(asked), np.stack(made), gamma, strata=(strata, strata))
            )
        found.append(float(np.mean(each)))
    return np.array(found)


# --- Models with and without prompts of their own ------------------------------------------------

MIXED = "own-prompts-mixed"
"""The protocol whose specifications are taken: every second model has prompts of its own."""

_MIXED_METHODS = ("rkme-clip", "paper", "modelverse", "default", "default-none")
_FILES = (
    "specs.json",
    *(f"embeddings/{part}.npz" for part in ("specs", "own", "test")),
    "pseudo/test.npz",
)

Own = NDArray[np.bool_]
"""[M]: the models that have prompts of their own."""

Specifications = Literal["beside", "alone"]
MixedTasks = Literal["like", "evaluation"]


def mixtures(
    folder: Path, gamma: float, like: ScoredTasks | None, single: ScoredTasks | None
) -> list[Mixture]:
    """For the tasks of ``MIXED`` and for those of single images, where there are any.

    Distances are worked out anew from the embeddings in ``folder``, γ being that of Eq. 9; where
    these are gone, or without the protocol, the list is empty. Raises InputError for embeddings
    that do not match.
    """
    if like is None or not all((folder / name).is_file() for name in _FILES):
        return []
    run_arrays = RunArrays(folder, gamma)
    beside = run_arrays.gallery(MIXED)
    shared = [len(model.images) for model in run_arrays.specs.models]
    own = np.array([len(made) > count for made, count in zip(beside.pictures, shared, strict=True)])
    if own.all() or not own.any():
        return []
    kinds: list[tuple[Specifications, Gallery]] = [
        ("beside", beside),
        ("alone", _alone(beside, own, len(run_arrays.specs.prompts))),
    ]
    sets: list[tuple[MixedTasks, ScoredTasks]] = [("like", like)]
    sets += [("evaluation", single)] if single is not None else []
    found = []
    for asked, test in sets:
        queries, members = run_arrays.queries("test", test.tasks)
        for method in (name for name in _MIXED_METHODS if name in test.distances):
            for kind, gallery in kinds:
                each = METHODS[method](gallery, queries, UNFITTED)[members].mean(axis=1)
                found.append(_mixture(method, kind, asked, np.asarray(each, float), test, own))
    return found


def _alone(beside: Gallery, own: Own, prompts: int) -> Gallery:
    """Without the default block, which is ``prompts`` prompts, of models that have another."""
    members = []
    for has_own, member in zip(own, beside.members, strict=True):
        rows = np.flatnonzero(member.image_prompt >= prompts)
        if has_own:
            member = replace(
                member,
                image_embeddings=member.image_embeddings[:, rows],
                prompt_embeddings=member.prompt_embeddings[prompts:],
                image_prompt=member.image_prompt[rows] - prompts,
                grams=None if member.grams is None else member.grams[:, rows][:, :, rows],
            )
        members.append(member)
    return Gallery(tuple(members), beside.pictures)


def _mixture(
    method: str,
    specifications: Specifications,
    asked: MixedTasks,
    distances: NDArray[np.float64],
    test: ScoredTasks,
    own: Own,
) -> Mixture:
    right = top_k_credit(distances, test.truth, 1)
    of_own = own[test.truth]
    return Mixture(
        method=method,
        specifications=specifications,
        asked=asked,
        fair=round(float(of_own.mean()), DIGITS),
        picked=mean_estimates(first_shares(distances)[:, own].sum(axis=1, keepdims=True))[0],
        top_1_own=mean_estimates(right[of_own, None])[0],
        top_1_others=mean_estimates(right[~of_own, None])[0],
    )


# --- Models that join late -----------------------------------------------------------------------


def held_out_loss(test: ScoredTasks, found: HeldOut) -> Late | None:
    """Top-1 accuracy on the tasks of ``test``, with four models late and with none.

    A task of a model that was late in several choices counts once, with the mean of these. None
    where nobody was late.
    """
    if not len(found.late):
        return None
    late = np.stack([np.isin(test.truth, four) for four in found.late])
    times = late.sum(axis=0)
    own = times > 0
    methods = []
    for name in ordered_methods(list(found.distances)):
        credit = np.stack([top_k_credit(each, test.truth, 1) for each in found.distances[name]])
        whole, joined = credit[0], credit[1:]
        as_late = (joined * late).sum(axis=0)[own] / times[own]
        of_all = mean_estimates(np.stack([whole, whole - joined.mean(axis=0)], axis=1))
        of_late = mean_estimates(np.stack([as_late, whole[own] - as_late], axis=1))
        methods.append(
            LateMethod(
                method=name, top_1=of_all[0], late=of_late[0], lost_late=of_late[1], lost=of_all[1]
            )
        )
    choices = [[test.models[model] for model in four] for four in found.late]
    return Late(choices=choices, tasks=int(own.sum()), methods=methods)


# --- Words, models and unwanted pictures ---------------------------------------------------------

_QUESTION_SEED = 23
_PICTURE_METHOD = "default-none"
"""The score of a picture: no prompt is given, as most people give none."""

QuestionKind: TypeAlias = Literal["picture", "text", "style", "content", "like", "not-like"]
Distances: TypeAlias = Floats
Truth: TypeAlias = NDArray[np.int64]


def questions(
    folder: Path, run: Run, test: ScoredTasks, temperature: float
) -> list[QuestionResult]:
    """All that the run in ``folder`` has what is needed for; ``test`` are single images.

    ``temperature`` is T of a search over the run's specifications. Empty without embeddings or
    without distances of the default score; words are left out where models have none, or the
    encoder's towers have no common space. Raises InputError for embeddings that are damaged.
    """
    names = ("specs", "test")
    if _PICTURE_METHOD not in test.distances or not all(
        (folder / "embeddings" / f"{name}.npz").is_file() for name in names
    ):
        return []
    asking = _Asking(folder, run, test, temperature)
    found = [_result("picture", "alone", test.distances[_PICTURE_METHOD], test.truth)]
    found += asking.in_words()
    found += asking.by_model()
    found += asking.against_pictures()
    return found


class _Asking:
    """The arrays that all questions share."""

    def __init__(self, folder: Path, run: Run, test: ScoredTasks, temperature: float) -> None:
        self._run_arrays = RunArrays(folder, run.gamma)
        self._member = self._run_arrays.gallery(test.protocol).members[0]
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
        self, question: QuestionKind, variant: str, words: Distances, scale: float
    ) -> QuestionResult:
        joint = distances_with_text(
            self._test.distances[_PICTURE_METHOD],
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
        arrays = load_arrays(self._run_arrays.folder / "embeddings" / "test.npz")
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
        distances = self._test.distances[_PICTURE_METHOD]
        row_of = {
            (int(model), task.prompts[0], task.seeds[0]): row
            for row, (model, task) in enumerate(zip(truth, tasks, strict=True))
        }
        prompts = sorted({task.prompts[0] for task in tasks})
        following = dict(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
        wrong = distances.copy()
        wrong[np.arange(len(truth)), truth] = np.inf
        step = np.random.default_rng(_QUESTION_SEED).integers(1, distances.shape[1], len(truth))
        picks = {"nearest": wrong.argmin(axis=1), "any": (truth + step) % distances.shape[1]}
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


def _result(
    question: QuestionKind, variant: str, distances: Distances, truth: Truth
) -> QuestionResult:
    *top, rank = mean_estimates(outcome(distances, truth))
    return QuestionResult(question=question, variant=variant, tasks=len(truth), top=top, rank=rank)
