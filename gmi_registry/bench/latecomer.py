"""Models that join after everything was fitted: what is pooled and chosen without four of them.

A hub does not estimate its statistics anew whenever a model arrives. Here four models are left out
of what the default score pools over models and of the dev tasks that its shrinkage is chosen on;
then they join, and the test tasks are asked of all models. Over several choices of four.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.bench.fitting import fit_to
from gmi_registry.bench.gallery import Shelf, load_arrays
from gmi_registry.bench.method import METHODS, Gallery
from gmi_registry.bench.tasks import TaskFile, read_labels, read_tasks
from gmi_registry.errors import InputError
from gmi_registry.scoring.scatter import WithinScatter

__all__ = [
    "LATE",
    "LATE_FILE",
    "Latecomers",
    "choices_of_four",
    "late_distances",
    "late_methods",
    "read_latecomers",
]

LATE = 4
"""How many models join late."""

LATE_FILE = "scores/late.npz"

_CHOICES = 8
_FEWEST = 2 * LATE  # models, so that at least as many are early as late
_SEED = 41
_LATE_KEY = "late"
_POOLING = ("default", "default-none", "default-ground-truth")

Array = NDArray[np.float64]
Models = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Latecomers:
    """``late`` [C, 4]: the models left out by each choice. ``distances``: by method [1 + C, Q, M]
    of the Q test tasks of single images; the first with nobody left out, then choice by choice."""

    late: Models
    distances: Mapping[str, Array]


def late_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Those of ``methods`` that pool anything over models; beside ``default`` always its fitted
    form, whose shrinkage is chosen without the late models as well."""
    found = tuple(name for name in _POOLING if name in methods)
    fitted = "default" in methods or "default-fitted" in methods
    return (*found, "default-fitted") if fitted else found


def choices_of_four(models: int) -> Models:
    """Up to eight seeded choices of four of ``models``, [C, 4]; none of fewer than eight.

    They are cut from shuffled lists of all models, so that models are late equally often, as far as
    fours go into them.
    """
    if models < _FEWEST:
        return np.empty((0, LATE), np.int64)
    draw = np.random.default_rng(_SEED)
    each = models // LATE
    rounds = [
        draw.permutation(models)[: each * LATE].reshape(each, LATE)
        for _ in range(-(-_CHOICES // each))
    ]
    return np.sort(np.concatenate(rounds)[:_CHOICES], axis=1).astype(np.int64)


def late_distances(
    folder: Path,
    shelf: Shelf,
    protocol: str,
    methods: tuple[str, ...],
    late: Models,
    progress: Callable[[], None],
) -> dict[str, NDArray[np.generic]]:
    """The arrays of :class:`Latecomers` for ``late``, as they stand in the file.

    Answers are read of dev tasks alone, and of these only those of early models are fitted to.
    ``progress`` is told of each choice, and of that with nobody left out.
    """
    whole = shelf.gallery(protocol)
    dev = read_tasks(folder, "dev", protocol)
    truth = np.array(read_labels(folder, "dev")[protocol])
    asked, members = shelf.queries("test", read_tasks(folder, "test", protocol))
    found: dict[str, list[Array]] = {method: [] for method in methods}
    for absent in [late[:0].ravel(), *late]:
        early = np.setdiff1d(np.arange(len(whole.members[0])), absent)
        own = _only(whole, early)
        kept = np.flatnonzero(np.isin(truth, early))
        tasks = TaskFile(models=dev.models, tasks=tuple(dev.tasks[row] for row in kept))
        queries, rows = shelf.queries("dev", tasks)
        fitted, _ = fit_to(own, queries, rows, np.searchsorted(early, truth[kept]))
        joined = _pooled_by(whole, own)
        for method in methods:
            distances = METHODS[method](joined, asked, fitted)[members].mean(axis=1)
            found[method].append(np.asarray(distances, np.float64))
        progress()
    return {_LATE_KEY: late, **{method: np.stack(each) for method, each in found.items()}}


def read_latecomers(folder: Path, tasks: int, models: int) -> Latecomers | None:
    """What the score stage left for ``tasks`` test tasks over ``models`` models, if anything.

    Raises InputError for a file that is damaged or of other tasks.
    """
    path = folder / LATE_FILE
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
            hint=f"delete the file, then: gmi bench run FILE --out {folder}",
        )
    return Latecomers(late, arrays)


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
