"""``results.json``: every figure of a report, with its interval, and how it is measured.

``python -m benchmarks.paper.results`` prints the JSON schema. Fields are added in later versions,
never renamed or removed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from benchmarks.paper.definition import SINGLE, images_of
from benchmarks.paper.folder import ScoredTasks
from benchmarks.paper.methods import WITH_CHANCES, ordered_methods
from gmi_registry.scoring.confidence import TEMPERATURE, confidences
from gmi_registry.scoring.scores import mid_ranks, top_k_credit


class _Part(BaseModel):
    # Forbidding what is not declared makes a test fail, rather than the schema go stale.
    model_config = ConfigDict(extra="forbid", frozen=True)


class ResultsFormat(_Part):
    """What this document is."""

    name: Literal["gmi-bench-results"] = "gmi-bench-results"
    version: Literal[1] = 1


class Estimate(_Part):
    """A mean over tasks, and the ends of its bootstrap interval.

    Over right models rather than tasks in ``Unlikeness``, whose values are those of many tasks.
    """

    value: float
    low: float
    high: float


class Bootstrap(_Part):
    """How the intervals were made: tasks drawn with replacement, percentiles of the means."""

    resamples: int
    confidence: float
    seed: int


class Versus(_Part):
    """This method minus Eq. 9 on the same tasks; for ``rank`` below 0 is better."""

    top_1: Estimate
    top_4: Estimate | None
    rank: Estimate


class Bin(_Part):
    """Test tasks of like confidence: their mean confidence, and the share that was right."""

    confidence: float
    accuracy: float
    tasks: int


class Confidence(_Part):
    """What the margin over the runner-up says, fitted on ``dev_tasks`` and measured on test.

    ``margins`` and ``chances`` are the curve, straight between its points and flat beyond;
    ``error`` is the expected calibration error in 0..1, and ``search_error`` that of the chance
    which a search shows, for methods that it shows one for.
    """

    dev_tasks: int
    margins: list[float]
    chances: list[float]
    error: float
    search_error: float | None
    bins: list[Bin]


class MethodFigures(_Part):
    """``top`` are the accuracies among the first 1, 2, ... up to 8, in 0..1; ``rank`` is the mean
    rank of the right model from 1. Ties share their places."""

    method: str
    top: list[Estimate]
    rank: Estimate


class MethodResult(MethodFigures):
    """One method on all tasks of a protocol, models in the order of ``models``.

    ``rank_by_model``: the mean rank of the right model, null for a model without tasks. ``picked``:
    the share of tasks in which each model came first; ties are split. ``confusion``: a row for each
    right model, the shares with which each model came first; for single images alone.
    ``confidence`` is null without dev tasks.
    """

    rank_by_model: list[float | None]
    picked: list[float]
    confusion: list[list[float]] | None
    versus_paper: Versus | None
    confidence: Confidence | None


class GroupResult(_Part):
    """Part of the tasks: a third of the evaluation prompts."""

    group: str
    tasks: int
    methods: list[MethodFigures]


class ProtocolResult(_Part):
    """One protocol on the test tasks."""

    protocol: str
    models: list[str]
    tasks: int
    methods: list[MethodResult]
    groups: list[GroupResult]

    def method(self, name: str) -> MethodResult | None:
        """The method of that name, None where it did not take part."""
        return next((it for it in self.methods if it.method == name), None)


class Sweep(_Part):
    """Top-1 accuracy of a method by γ; ``features`` says what the encoder's output went through."""

    method: str
    features: Literal["raw", "unit"]
    gammas: list[float]
    top_1: list[float]


class Unlikeness(_Part):
    """MMD² between what was asked with and what the models make that a method picked.

    ``closed``: how much of the way from a model picked at random, 0, to the right model, 1; null
    where these two are the same.
    """

    method: str
    squared_mmd: Estimate
    closed: float | None


class Resemblance(_Part):
    """The check that needs no person: whether what the picked model makes is like the query.

    For each right model, ``pictures`` query images against as many pictures that the models picked
    for them drew for the same prompts with other seeds; embeddings under an RBF kernel with
    ``gamma``, pairs of one prompt left out, unbiased, so that values may be below 0. ``right``: had
    the right model been picked, which is as near as one can come; ``random``: any model.
    """

    gamma: float
    pictures: int
    right: Estimate
    random: Estimate
    methods: list[Unlikeness]


class LateMethod(_Part):
    """Top-1 accuracy where all models were there from the start, and what is lost where four join
    late: ``late`` and ``lost_late`` are about tasks whose right model is late, ``lost`` about all.

    ``top_1`` and ``late`` are those two accuracies themselves, losses are differences in 0..1 that
    are above 0 where joining late hurts.
    """

    method: str
    top_1: Estimate
    late: Estimate
    lost_late: Estimate
    lost: Estimate


class Late(_Part):
    """Models that join after all statistics were pooled and fitted, by ``choices`` of them;
    ``tasks`` are those whose right model was late at least once."""

    choices: list[list[str]]
    tasks: int
    methods: list[LateMethod]


class Mixture(_Part):
    """Models with and without prompts of their own in one search, single images.

    ``specifications``: whether ``own`` prompts stand ``beside`` the default ones or ``alone``;
    ``asked``: tasks ``like`` the own prompts, or on the ``evaluation`` prompts. ``fair`` is the
    share of tasks whose right model has own prompts, ``picked`` that in which one of these came
    first, ties split. ``top_1_own`` and ``top_1_others`` are the accuracies on their tasks.
    """

    method: str
    specifications: Literal["beside", "alone"]
    asked: Literal["like", "evaluation"]
    fair: float
    picked: Estimate
    top_1_own: Estimate
    top_1_others: Estimate


class QuestionResult(_Part):
    """One way of asking that is no image alone, or, as ``picture``, the image alone beside it.

    ``text``: words alone, what is to be seen and how; ``style``: an image, and words for how it
    looks; ``content``: an image, and as its style words for what it shows, which say nothing of
    how; ``like``: a model's own images, against what models drew for the ``same`` prompts or for
    ``other`` ones; ``not-like``: an image, and one by the ``nearest`` wrong model or by ``any``
    wrong one as what is not wanted. ``variant`` is that word, or the number of the wording from 1.
    ``top`` are the accuracies among the first 1, 2, ... up to 8, ``rank`` the mean rank.
    """

    question: Literal["picture", "text", "style", "content", "like", "not-like"]
    variant: str
    tasks: int
    top: list[Estimate]
    rank: Estimate


class Results(_Part):
    """The whole document. ``digest`` is that of the benchmark, ``seconds`` is wall time by stage,
    ``limit`` what ``--limit`` cut the tasks down to, ``gamma`` that of Eq. 9. ``resemblance`` and
    ``late`` are null, ``sweeps``, ``mixtures`` and ``questions`` empty where the run lacks what
    they need."""

    format: ResultsFormat = ResultsFormat()
    name: str
    digest: str
    encoder: str | dict[str, Any]
    interrogator: str
    gamma: float
    limit: int | None
    libraries: dict[str, str]
    seconds: dict[str, float]
    bootstrap: Bootstrap
    protocols: list[ProtocolResult]
    sweeps: list[Sweep]
    resemblance: Resemblance | None
    late: Late | None
    mixtures: list[Mixture]
    questions: list[QuestionResult]

    def protocol(self, name: str) -> ProtocolResult | None:
        """The protocol of that name, None where it was not run."""
        return next((it for it in self.protocols if it.protocol == name), None)


def results_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of ``results.json``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:gmi-bench:results:1",
        **Results.model_json_schema(mode="serialization"),
    }


# --- Intervals -----------------------------------------------------------------------------------

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 20240
_RESAMPLE_BLOCK = 1 << 22  # drawn tasks at a time: 32 MB of indices

Floats = NDArray[np.floating[Any]]


def resampled_means(
    values: Floats, *, resamples: int = RESAMPLES, seed: int = SEED
) -> NDArray[np.float64]:
    """The mean of each column in each resample: ``values`` [Q, S] gives [resamples, S].

    A resample draws Q of the Q tasks with replacement, and is the same for all columns: the
    difference of two columns is a paired one. The same seed gives the same draws. Raises ValueError
    where there is no task.
    """
    tasks = len(values)
    if tasks == 0:
        raise ValueError("there is no task to draw")
    wide = values.astype(np.float64, copy=False)
    generator = np.random.default_rng(seed)
    out = np.empty((resamples, values.shape[1]))
    step = max(1, _RESAMPLE_BLOCK // tasks)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, tasks, (rows, tasks))
        # How often each task was drawn turns all the means into one product.
        drawn += tasks * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * tasks).reshape(rows, tasks)
        out[start : start + rows] = counts @ wide / tasks
    return out


def interval(
    means: Floats, confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Percentile interval of each column: [resamples, S] gives the lower and upper ends, [S] each.

    Where all tasks agree, it has no width: what never happened cannot be drawn.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


DIGITS = 6
"""Of what is written: beyond lie the differences between processors."""


def estimates(values: Floats, means: Floats) -> list[Estimate]:
    """One for each of S values, [S], with the interval of its resampled means, [resamples, S]."""
    return [
        Estimate(value=value, low=low, high=high)
        for value, low, high in zip(*map(rounded, (values, *interval(means))), strict=True)
    ]


def mean_estimates(columns: Floats) -> list[Estimate]:
    """The mean of each column of [Q, S], its rows drawn anew. Raises ValueError for Q = 0."""
    return estimates(columns.mean(axis=0), resampled_means(columns))


def rounded(values: Floats) -> list[float]:
    """[S] as numbers with at most six decimals."""
    # + 0.0: a difference that rounds to -0 is 0.
    return [round(float(value), DIGITS) + 0.0 for value in values]


# --- Confidence ----------------------------------------------------------------------------------

BINS = 10
"""Of the fitted curve, and as many of the measured one."""

FEWEST = 25
"""Tasks in a bin; fewer would say little about a chance."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """A non-decreasing curve: at ``margins`` [K], ascending, the chances are ``chances`` [K]."""

    margins: NDArray[np.float64]
    chances: NDArray[np.float64]

    def confidence(self, margins: Floats) -> NDArray[np.float64]:
        """The chance of being right in 0..1, of the shape of ``margins``; flat beyond the ends."""
        return np.asarray(np.interp(margins, self.margins, self.chances))


@dataclass(frozen=True, eq=False)
class Reliability:
    """Measured on tasks the curve has not seen, in bins of equally many by confidence.

    ``confidence``, ``accuracy``, ``tasks`` [K]: mean confidence, share of right answers and number
    of tasks of each bin. ``error`` is the expected calibration error, Σ tasks |confidence -
    accuracy| / Q.
    """

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    tasks: NDArray[np.int64]
    error: float


def first_margins(distances: Floats) -> NDArray[np.float64]:
    """Second smallest minus smallest distance: [Q, M] gives [Q]; 0 for a tie, M is at least 2."""
    two = np.partition(distances, 1, axis=1)[:, :2].astype(np.float64)
    with np.errstate(invalid="ignore"):
        gaps = two[:, 1] - two[:, 0]
    # inf - inf: two models that are both infinitely far are no distance apart.
    return np.nan_to_num(gaps, nan=0.0, posinf=1e300)


def fit_calibration(margins: Floats, right: Floats) -> Calibration:
    """The curve for dev tasks: their margins [Q] and whether the first was right [Q], in 0..1.

    Raises ValueError where there is no task.
    """
    if len(margins) == 0:
        raise ValueError("there is no task to fit a confidence to")
    from sklearn.isotonic import IsotonicRegression

    parts = _bins(margins)
    places, shares = (
        np.array([values[part].mean() for part in parts]) for values in (margins, right)
    )
    curve = IsotonicRegression(out_of_bounds="clip")
    curve.fit(places, shares, sample_weight=[len(part) for part in parts])
    # Equal margins in two bins: the curve would be two-valued there.
    knots = np.unique(places)
    # Blocks that agree but for a rounding are one: tasks must not be told apart by it.
    return Calibration(knots, np.round(curve.predict(knots), 12))


def reliability(confidence: Floats, right: Floats) -> Reliability:
    """Compare confidences [Q] with what was right [Q], in 0..1. Raises ValueError for Q = 0."""
    if len(confidence) == 0:
        raise ValueError("there is no task to measure a confidence on")
    parts = _bins(confidence)
    means = np.array([confidence[part].mean() for part in parts])
    shares = np.array([right[part].mean() for part in parts])
    tasks = np.array([len(part) for part in parts], dtype=np.int64)
    error = float((tasks * np.abs(means - shares)).sum() / tasks.sum())
    return Reliability(means, shares, tasks, error)


def _bins(values: Floats) -> list[NDArray[np.intp]]:
    """The tasks in bins of equally many, by their values."""
    order = np.argsort(values, kind="stable")
    return np.array_split(order, max(1, min(BINS, len(order) // FEWEST)))


# --- All figures of a protocol -------------------------------------------------------------------

TOP = 8
"""Accuracies are given up to this many models."""

REFERENCE = "paper"
"""The method that all others are compared with on the same tasks."""


def measure(
    test: ScoredTasks, dev: ScoredTasks | None, *, temperature: float = TEMPERATURE
) -> ProtocolResult:
    """All figures of one protocol. ``dev`` serves the confidence alone; without it there is none.

    ``temperature`` is that of the chances which a search over the same specifications shows.

    A group's intervals come from its own tasks.
    """
    methods = ordered_methods(list(test.distances))
    columns = {name: outcome(test.distances[name], test.truth) for name in methods}
    means = _resampled(columns)
    figures = {name: _figures(name, columns[name], means[name]) for name in methods}
    return ProtocolResult(
        protocol=test.protocol,
        models=list(test.models),
        tasks=len(test.truth),
        methods=[
            MethodResult(
                **figures[name].model_dump(),
                rank_by_model=_by_model(columns[name][:, -1], test.truth, len(test.models)),
                picked=rounded(first_shares(test.distances[name]).mean(axis=0)),
                confusion=_confusion(test, name) if test.protocol == SINGLE else None,
                versus_paper=_versus(name, columns, means),
                confidence=_confidence(name, test, dev, temperature),
            )
            for name in methods
        ],
        groups=_groups(test, columns),
    )


def outcome(distances: Floats, truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """[Q, K + 1]: the credit among the first 1 to K, then the rank of the right model."""
    tops = min(TOP, distances.shape[1])
    credits = [top_k_credit(distances, truth, k) for k in range(1, tops + 1)]
    ranks = mid_ranks(distances)[np.arange(len(truth)), truth]
    return np.stack([*credits, ranks], axis=1)


def _resampled(columns: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Means of the same resamples for all methods, so that they can be subtracted."""
    means = resampled_means(np.concatenate(list(columns.values()), axis=1))
    return dict(zip(columns, np.split(means, len(columns), axis=1), strict=True))


def _figures(name: str, columns: Floats, means: Floats) -> MethodFigures:
    *top, rank = estimates(columns.mean(axis=0), means)
    return MethodFigures(method=name, top=top, rank=rank)


def _versus(
    name: str, columns: Mapping[str, NDArray[np.float64]], means: Mapping[str, NDArray[np.float64]]
) -> Versus | None:
    if name == REFERENCE or REFERENCE not in columns:
        return None
    values = (columns[name] - columns[REFERENCE]).mean(axis=0)
    *top, rank = estimates(values, means[name] - means[REFERENCE])
    return Versus(top_1=top[0], top_4=top[3] if len(top) > 3 else None, rank=rank)


def _groups(test: ScoredTasks, columns: Mapping[str, NDArray[np.float64]]) -> list[GroupResult]:
    groups = np.array([task.group for task in test.tasks.tasks])
    names = sorted(set(groups.tolist()))
    if len(names) < 2:
        return []
    found = []
    for group in names:
        rows = groups == group
        part = {name: values[rows] for name, values in columns.items()}
        means = _resampled(part)
        methods = [_figures(name, part[name], means[name]) for name in part]
        found.append(GroupResult(group=group, tasks=int(rows.sum()), methods=methods))
    return found


def first_shares(distances: Floats) -> NDArray[np.float64]:
    """1 for the nearest model of each task, split evenly where several are; [Q, M] as given."""
    nearest = distances == distances.min(axis=1, keepdims=True)
    return np.asarray(nearest / nearest.sum(axis=1, keepdims=True))


def _confusion(test: ScoredTasks, name: str) -> list[list[float]]:
    picks = first_shares(test.distances[name])
    rows = []
    for model in range(len(test.models)):
        own = picks[test.truth == model]
        rows.append(rounded(own.mean(axis=0)) if len(own) else [0.0] * len(test.models))
    return rows


def _by_model(ranks: Floats, truth: NDArray[np.int64], models: int) -> list[float | None]:
    return [
        round(float(ranks[truth == model].mean()), DIGITS) if (truth == model).any() else None
        for model in range(models)
    ]


def _confidence(
    name: str, test: ScoredTasks, dev: ScoredTasks | None, temperature: float
) -> Confidence | None:
    if dev is None or name not in dev.distances:
        return None
    known = dev.distances[name]
    curve = fit_calibration(first_margins(known), top_k_credit(known, dev.truth, 1))
    asked = test.distances[name]
    seen = reliability(curve.confidence(first_margins(asked)), top_k_credit(asked, test.truth, 1))
    return Confidence(
        search_error=_search_error(name, test, temperature),
        dev_tasks=len(dev.truth),
        # Margins may be tiny; a chance may not need more digits than the rest.
        margins=[float(f"{margin:.6g}") for margin in curve.margins],
        chances=rounded(curve.chances),
        error=round(seen.error, DIGITS),
        bins=[
            Bin(confidence=confidence, accuracy=accuracy, tasks=int(tasks))
            for confidence, accuracy, tasks in zip(
                rounded(seen.confidence), rounded(seen.accuracy), seen.tasks, strict=True
            )
        ],
    )


def _search_error(name: str, test: ScoredTasks, temperature: float) -> float | None:
    if name not in WITH_CHANCES:
        return None
    distances = test.distances[name]
    chances = confidences(distances, images_of(test.protocol), temperature=temperature)
    seen = reliability(chances.max(axis=1), top_k_credit(distances, test.truth, 1))
    return round(seen.error, DIGITS)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(results_schema(), indent=2, sort_keys=True) + "\n")
