"""From the distances and answers of a finished run to figures with intervals."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.paper.definition import images_of
from benchmarks.paper.folder import TaskFile, read_answers, read_tasks
from benchmarks.paper.methods import WITH_CHANCES, ordered_methods
from benchmarks.paper.results import (
    Bin,
    Confidence,
    Estimate,
    GroupResult,
    MethodFigures,
    MethodResult,
    ProtocolResult,
    Versus,
)
from gmi_registry.errors import InputError
from gmi_registry.sanitize import first_fault
from gmi_registry.scoring import PAPER_GAMMA
from gmi_registry.scoring.confidence import TEMPERATURE, confidences
from gmi_registry.scoring.ranking import mid_ranks, top_k_credit
from gmi_registry.spec.manifest import RelativePath

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


_HINT = "python -m benchmarks.paper run FILE --out {folder}"

# What reading a damaged or forged archive runs into; TypeError where it is another kind of file.
_BROKEN = (OSError, ValueError, EOFError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error)


class _Format(BaseModel):
    name: Literal["gmi-bench"]
    version: Literal[1]


class Run(BaseModel):
    """What ``bench.json`` says. ``digest`` is the benchmark's, ``seconds`` the wall time by
    stage, ``limit`` what the tasks were cut down to, ``gamma`` that of Eq. 9."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: _Format
    name: str
    digest: str
    encoder: str | dict[str, Any]
    interrogator: str = "none"
    gamma: float = Field(default=PAPER_GAMMA, gt=0)
    limit: int | None = None
    libraries: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    protocols: tuple[RelativePath, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)


@dataclass(frozen=True, eq=False)
class ScoredTasks:
    """One split of one protocol: Q tasks over M models.

    ``truth`` [Q] are indices into ``tasks.models``; ``distances`` are float64 [Q, M] by method,
    lower is nearer, none of them NaN.
    """

    protocol: str
    tasks: TaskFile
    truth: NDArray[np.int64]
    distances: Mapping[str, NDArray[np.float64]]

    @property
    def models(self) -> tuple[str, ...]:
        """The M names."""
        return self.tasks.models


def read_run(folder: Path) -> Run:
    """Raises InputError for a folder that holds no finished run, or that of another version."""
    path = folder / "bench.json"
    hint = _HINT.format(folder=folder)
    try:
        return Run.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"{folder} holds no finished benchmark: bench.json: {error.strerror}", hint=hint
        ) from None
    except ValidationError as error:
        raise InputError(
            f"{path} is not what this version reads: {first_fault(error)}", hint=hint
        ) from None


def read_scored(folder: Path, split: str, run: Run) -> list[ScoredTasks]:
    """The protocols of one split that were scored, in the order of ``run``.

    Dev tasks may be missing for some. Raises InputError for files that are damaged or disagree
    about the number of tasks or models.
    """
    if split != "test" and not (folder / "scores" / split).is_dir():
        return []
    labels = read_answers(folder, split)
    found = []
    for protocol in run.protocols:
        path = folder / "scores" / split / f"{protocol}.npz"
        if split != "test" and not path.exists():
            continue
        if protocol not in labels:
            raise InputError(
                f"{folder} holds no answers for {split}/{protocol}",
                hint=_HINT.format(folder=folder),
            )
        tasks = read_tasks(folder, split, protocol)
        truth = np.array(labels[protocol], dtype=np.int64)
        shape = (len(tasks.tasks), len(tasks.models))
        if truth.shape != shape[:1] or (truth >= shape[1]).any() or 0 in shape or shape[1] < 2:
            raise _damaged(path, folder, f"{len(truth)} answers do not fit {shape} tasks x models")
        distances = _read_distances(path, folder, run.methods, shape)
        found.append(ScoredTasks(protocol, tasks, truth, distances))
    return found


def _read_distances(
    path: Path, folder: Path, methods: tuple[str, ...], shape: tuple[int, int]
) -> dict[str, NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in methods if name in archive.files}
    except FileNotFoundError:
        raise InputError(f"{path} is missing", hint=_HINT.format(folder=folder)) from None
    except _BROKEN as error:
        raise _damaged(path, folder, " ".join(str(error).split())) from None
    if not arrays:
        raise _damaged(path, folder, "it holds no method of bench.json")
    for name, array in arrays.items():
        if array.dtype != np.float64 or array.shape != shape:
            raise _damaged(path, folder, f"{name} is {array.dtype} {array.shape}, not {shape}")
        if np.isnan(array).any():
            raise _damaged(path, folder, f"{name} holds a distance that is not a number")
    return arrays


def _damaged(path: Path, folder: Path, reason: str) -> InputError:
    return InputError(f"{path} is damaged: {reason}", hint=_HINT.format(folder=folder))


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
