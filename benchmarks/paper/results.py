"""``results.json``: every figure of a report, with its interval.

``python -m benchmarks.paper.results`` prints the JSON schema. Fields are added in later versions,
never renamed or removed.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


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


if __name__ == "__main__":
    sys.stdout.write(json.dumps(results_schema(), indent=2, sort_keys=True) + "\n")
