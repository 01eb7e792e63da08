"""From distances and right answers to figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.bench.bootstrap import resampled_means
from gmi_registry.bench.calibration import first_margins, fit_calibration, reliability
from gmi_registry.bench.estimate import DIGITS, estimates, rounded
from gmi_registry.bench.method import WITH_CHANCES
from gmi_registry.bench.protocol import images_of
from gmi_registry.bench.results import (
    Bin,
    Confidence,
    GroupResult,
    MethodFigures,
    MethodResult,
    ProtocolResult,
    Versus,
)
from gmi_registry.bench.scored import Scored
from gmi_registry.bench.title import ordered_methods
from gmi_registry.scoring.confidence import TEMPERATURE, confidences
from gmi_registry.scoring.ranking import mid_ranks, top_k_credit

__all__ = ["REFERENCE", "TOP", "first_shares", "measure", "outcome"]

TOP = 8
"""Accuracies are given up to this many models."""

REFERENCE = "paper"
"""The method that all others are compared with on the same tasks."""

Floats = NDArray[np.floating[Any]]


def measure(
    test: Scored, dev: Scored | None, *, temperature: float = TEMPERATURE
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
                confusion=_confusion(test, name) if test.protocol == "images-1" else None,
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
    name: str,
    columns: Mapping[str, NDArray[np.float64]],
    means: Mapping[str, NDArray[np.float64]],
) -> Versus | None:
    if name == REFERENCE or REFERENCE not in columns:
        return None
    values = (columns[name] - columns[REFERENCE]).mean(axis=0)
    *top, rank = estimates(values, means[name] - means[REFERENCE])
    return Versus(top_1=top[0], top_4=top[3] if len(top) > 3 else None, rank=rank)


def _groups(test: Scored, columns: Mapping[str, NDArray[np.float64]]) -> list[GroupResult]:
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


def _confusion(test: Scored, name: str) -> list[list[float]]:
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
    name: str, test: Scored, dev: Scored | None, temperature: float
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


def _search_error(name: str, test: Scored, temperature: float) -> float | None:
    if name not in WITH_CHANCES:
        return None
    distances = test.distances[name]
    chances = confidences(distances, images_of(test.protocol), temperature=temperature)
    seen = reliability(chances.max(axis=1), top_k_credit(distances, test.truth, 1))
    return round(seen.error, DIGITS)
