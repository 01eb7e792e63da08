"""What is chosen by trying it out: on the dev tasks and their answers, never on the test tasks.

A hub does not estimate its statistics anew whenever a model arrives. So the same is done with four
models held out: they are left out of what the default score pools over models and of the dev tasks
that its shrinkage is chosen on; then they join, and the test tasks are asked of all models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.folder import TaskFile, load_arrays, read_answers, read_tasks
from benchmarks.paper.galleries import RunArrays
from benchmarks.paper.methods import (
    METHODS,
    Array,
    Fit,
    Gallery,
    Queries,
    default_by,
    paper_by,
)
from gmi_registry.errors import InputError
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.ranking import mid_ranks, top_k_credit
from gmi_registry.scoring.scatter import WithinScatter
from gmi_registry.scoring.scores import PAPER_GAMMA

GAMMAS = (0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.02, 0.03, 0.04, 0.05)
"""The values that the paper tries."""

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

UNFITTED = Fit(PAPER_GAMMA, SHRINKAGE)
"""What stands where nothing was fitted."""


def fit(
    folder: Path, run_arrays: RunArrays, protocol: str
) -> tuple[Fit, dict[str, dict[str, float]]]:
    """The best γ for Eq. 9 and shrinkage for the default score, on a protocol's dev tasks.

    Best is the largest top-1 accuracy, then the smallest mean rank, then the value tried first.
    Also returns the top-1 accuracy of every value. To fit another parameter, add it to
    :class:`~benchmarks.paper.methods.Fit` and a line here; the answers come from
    ``read_labels(folder, "dev")``, and nothing here has any others.
    """
    tasks = read_tasks(folder, "dev", protocol)
    truth = np.array(read_answers(folder, "dev")[protocol])
    queries, members = run_arrays.queries("dev", tasks)
    return fit_to(run_arrays.gallery(protocol), queries, members, truth)


def fit_to(
    gallery: Gallery,
    queries: Queries,
    members: NDArray[np.intp],
    truth: NDArray[np.integer],
) -> tuple[Fit, dict[str, dict[str, float]]]:
    """Likewise for Q tasks, of which ``members`` [Q, k] are the images among ``queries`` and
    ``truth`` [Q] the right models in ``gallery``."""

    def judged(distances: Floats) -> tuple[float, float]:
        of_tasks = distances[members].mean(axis=1)
        right = mid_ranks(of_tasks)[np.arange(len(truth)), truth]
        return float(top_k_credit(of_tasks, truth, 1).mean()), float(right.mean())

    gamma, by_gamma = _best(
        GAMMAS, lambda value: judged(paper_by(gallery, queries, UNFITTED, gamma=value))
    )
    shrinkage, by_shrinkage = _best(
        SHRINKAGES, lambda value: judged(default_by(gallery, queries, UNFITTED, shrinkage=value))
    )
    return Fit(gamma, shrinkage), {"gamma": by_gamma, "shrinkage": by_shrinkage}


def _best(
    values: Sequence[float], judge: Callable[[float], tuple[float, float]]
) -> tuple[float, dict[str, float]]:
    judged = {value: judge(value) for value in values}
    best = max(values, key=lambda value: (judged[value][0], -judged[value][1]))
    return best, {str(value): round(top_1, 6) for value, (top_1, _) in judged.items()}


HELD_OUT = 4
"""How many models join late."""

HELD_OUT_FILE = "scores/late.npz"

_CHOICES = 8
_FEWEST = 2 * HELD_OUT  # models, so that at least as many are early as late
_SEED = 41
_LATE_KEY = "late"
_POOLING = ("default", "default-none", "default-ground-truth")

Models = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """``late`` [C, 4]: the models left out by each choice. ``distances``: by method [1 + C, Q, M]
    of the Q test tasks of single images; the first with nobody left out, then choice by choice."""

    late: Models
    distances: Mapping[str, Array]


def held_out_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``methods`` that pool anything over models; beside ``default`` always its fitted
    form, whose shrinkage is chosen without the late models as well."""
    found = tuple(name for name in _POOLING if name in methods)
    fitted = "default" in methods or "default-fitted" in methods
    return (*found, "default-fitted") if fitted else found


def held_out_choices(models: int) -> Models:
    """Up to eight seeded choices of four of ``models``, [C, 4]; none of fewer than eight.

    They are cut from shuffled lists of all models, so that models are late equally often, as far as
    fours go into them.
    """
    if models < _FEWEST:
        return np.empty((0, HELD_OUT), np.int64)
    draw = np.random.default_rng(_SEED)
    each = models // HELD_OUT
    rounds = [
        draw.permutation(models)[: each * HELD_OUT].reshape(each, HELD_OUT)
        for _ in range(-(-_CHOICES // each))
    ]
    return np.sort(np.concatenate(rounds)[:_CHOICES], axis=1).astype(np.int64)


def held_out_distances(
    folder: Path,
    run_arrays: RunArrays,
    protocol: str,
    methods: tuple[str, ...],
    late: Models,
    progress: Callable[[], None],
) -> dict[str, NDArray[np.generic]]:
    """The arrays of :class:`HeldOut` for ``late``, as they stand in the file.

    Answers are read of dev tasks alone, and of these only those of early models are fitted to.
    ``progress`` is told of each choice, and of that with nobody left out.
    """
    whole = run_arrays.gallery(protocol)
    dev = read_tasks(folder, "dev", protocol)
    truth = np.array(read_answers(folder, "dev")[protocol])
    asked, members = run_arrays.queries("test", read_tasks(folder, "test", protocol))
    found: dict[str, list[Array]] = {method: [] for method in methods}
    for absent in [late[:0].ravel(), *late]:
        early = np.setdiff1d(np.arange(len(whole.members[0])), absent)
        own = _only(whole, early)
        kept = np.flatnonzero(np.isin(truth, early))
        tasks = TaskFile(models=dev.models, tasks=tuple(dev.tasks[row] for row in kept))
        queries, rows = run_arrays.queries("dev", tasks)
        fitted, _ = fit_to(own, queries, rows, np.searchsorted(early, truth[kept]))
        joined = _pooled_by(whole, own)
        for method in methods:
            distances = METHODS[method](joined, asked, fitted)[members].mean(axis=1)
            found[method].append(np.asarray(distances, np.float64))
        progress()
    return {_LATE_KEY: late, **{method: np.stack(each) for method, each in found.items()}}


def read_held_out(folder: Path, tasks: int, models: int) -> HeldOut | None:
    """What the score stage left for ``tasks`` test tasks over ``models`` models, if anything.

    Raises InputError for a file that is damaged or of other tasks.
    """
    path = folder / HELD_OUT_FILE
    if not path.exists():
        return None
    arrays = load_arrays(path)
    late = arrays.pop(_LATE_KEY, None)
    if (
        late is None
        or late.dtype != np.int64
        or late.ndim != 2
        or not ((late >= 0) & (late < models)).all()
        or any(
            array.dtype != np.float64
            or array.shape != (1 + len(late), tasks, models)
            or np.isnan(array).any()
            for array in arrays.values()
        )
    ):
        raise InputError(
            f"{path} is damaged: it does not fit {tasks} tasks x {models} models",
            hint=f"delete the file, then: python -m benchmarks.paper run FILE --out {folder}",
        )
    return HeldOut(late, arrays)


def _only(whole: Gallery, early: Models) -> Gallery:
    """The gallery before the others joined, with what it alone teaches."""
    (member,) = whole.members
    images = member.image_embeddings[early]
    pooled = WithinScatter.of(images)
    part = replace(
        member,
        image_embeddings=images,
        grams=None if member.grams is None else member.grams[early],
        downloads=None if member.downloads is None else member.downloads[early],
        scatter=lambda: pooled,
    )
    return Gallery((part,), tuple(whole.pictures[model] for model in early))


def _pooled_by(whole: Gallery, own: Gallery) -> Gallery:
    """All models, judged by what ``own`` has pooled."""
    member = replace(whole.members[0], scatter=own.members[0].scatter)
    return Gallery((member,), whole.pictures)
