"""``python -m benchmarks.speed.growth --out DIR``: ms a query against the number of models.

The project's own ways to rank stand beside a plain loop, libraries for nearest vectors and the
package ``learnware``. All works of one number of models take turns. What goes through models one
after the other is timed on the first 500 and scaled. DIR gets ``growth.json`` and the pictures
that :mod:`benchmarks.speed.curves` draws of it.

A work is named ``family: label``, and each family has a picture. Those of ``images`` compare the
query with every image of a model, those of ``means`` with one mean a model, as the default score
without a prompt does.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.speed import curves
from benchmarks.speed.blas import add_kernels, settle_blas
from benchmarks.speed.clock import ratio
from benchmarks.speed.loop import plain_on
from benchmarks.speed.lower_bounds import DIRECTIONS, nearest_models
from benchmarks.speed.market import Market
from benchmarks.speed.record import Row, machine, written
from benchmarks.speed.specs import GAMMA, Hub
from gmi_registry.scoring.default import whitened_means
from gmi_registry.scoring.paper import paper_distances

try:
    from benchmarks.speed.neighbours import COUNT, indexes, nearest_images
except ImportError as error:
    raise SystemExit(f"{error.name} is not installed: pip install faiss-cpu usearch") from None

_MODELS = (100, 300, 1_000, 3_000, 10_000)
_PART = 500
_QUERIES = 64
_LOOP = "images: plain loop of Eq. 9"
_PACKAGES = ("numpy", "torch", "faiss-cpu", "usearch")


@dataclass(frozen=True)
class Work:
    """What is timed, and what its row says beside the time."""

    call: Callable[[], Any]
    timed_models: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def eq9(hub: Hub, number: int, weights: np.ndarray) -> np.ndarray:
    """Eq. 9 of all models for one query: [M]."""
    found = paper_distances(
        hub.images,
        weights[number : number + 1],
        hub.queries[number : number + 1],
        GAMMA,
        model_grams=hub.grams,
        invariants=hub.invariants,
    )
    return np.asarray(found[0])


def nearest(hub: Hub, number: int) -> np.ndarray:
    """The first ten by Eq. 9, certain: their rows."""
    return nearest_models(
        hub.images,
        hub.weights[number : number + 1],
        hub.queries[number : number + 1],
        GAMMA,
        model_grams=hub.grams,
        lower_bounds=hub.lower_bounds,
        count=COUNT,
        invariants=hub.invariants,
    ).rows


def default(hub: Hub, number: int) -> np.ndarray:
    """The default score of all models for one query: [M]."""
    means, _ = whitened_means(hub.means, hub.scatter)
    found = means.distances(hub.queries[number : number + 1], 1 / hub.images.shape[1])
    return np.asarray(found[0])


def first(distances: np.ndarray) -> np.ndarray:
    """The rows of the ten least, nearest first."""
    few = np.argpartition(distances, COUNT - 1)[:COUNT]
    return few[np.argsort(distances[few], kind="stable")]


def own_works(hub: Hub, threads: int) -> dict[str, Work]:
    """The loop, and the project's own."""
    means, _ = whitened_means(hub.means, hub.scatter)
    images = hub.images.nbytes
    exact = images + hub.grams.nbytes + sum(part.nbytes for part in vars(hub.invariants).values())
    bounds = sum(part.nbytes for part in vars(hub.lower_bounds).values())
    kept = means.means.nbytes + means.lengths.nbytes + means.factor.nbytes
    some = hub.images[:_PART]
    return {
        _LOOP: Work(
            lambda: plain_on(threads, some, hub.weights[0], hub.queries[0], GAMMA),
            len(some),
            {"kept_mb": images / 1e6},
        ),
        "images: Eq. 9 of all": Work(
            lambda: first(eq9(hub, 0, hub.weights)), facts={"kept_mb": exact / 1e6}
        ),
        "images: Eq. 9, certain ten": Work(
            lambda: nearest(hub, 0), facts={"kept_mb": (exact + bounds) / 1e6}
        ),
        "means: default score of all": Work(
            lambda: first(default(hub, 0)), facts={"kept_mb": kept / 1e6}
        ),
    }


def vector_works(hub: Hub) -> dict[str, Work]:
    """Libraries for nearest vectors: over whitened means, and over all images."""
    means, _ = whitened_means(hub.means, hub.scatter)
    truth = [set(first(default(hub, number))) for number in range(_QUERIES)]
    query = hub.queries[0]
    works = {}
    for name, made in indexes(means).items():
        shared = [len(truth[n] & set(made.search(hub.queries[n]))) for n in range(_QUERIES)]
        facts = {
            "kept_mb": made.kept / 1e6,
            "build_s": made.seconds,
            "recall": sum(shared) / (COUNT * _QUERIES),
        }
        works[f"means: {name}"] = Work(partial(made.search, query), facts=facts)
    # As many images as ten models have.
    for name, rows in nearest_images(hub.images, COUNT * hub.images.shape[1]).items():
        facts = {"kept_mb": rows.kept / 1e6, "build_s": rows.seconds}
        works[f"images: {name}"] = Work(partial(rows.search, query), facts=facts)
    return works


@contextlib.contextmanager
def market_works(
    hub: Hub, python: Path | None, threads: int
) -> Iterator[tuple[dict[str, Work], dict[str, str]]]:
    """The package ``learnware``, and its versions; nothing where no environment is named."""
    if python is None:
        yield {}, {}
        return
    some = hub.images[:_PART]
    with Market(python, some, hub.queries[0], GAMMA, threads) as market:
        rows, distances = market.ranked("ranking")
        ours = eq9(hub, 0, np.ones_like(hub.weights))[: len(some)]
        if not np.allclose(ours[rows], distances, rtol=1e-4, atol=1e-6):
            raise SystemExit("learnware's distances are not Eq. 9 with w = 1: compare versions")
        facts = {"kept_mb": 2 * hub.images.nbytes / 1e6}
        works = {
            "images: learnware, ranking": Work(lambda: market.ranked("ranking"), len(some), facts)
        }
        if len(some) == len(hub.images):
            works["images: learnware, whole search"] = Work(
                lambda: market.ranked("search"), facts=facts
            )
        yield works, {f"{name} (learnware's)": text for name, text in market.versions.items()}


def warmed(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in turns, each right after a call of it that does not count.

    Otherwise what a work finds in the caches is what the one before left there, and the small ones
    would be ordered by their places.
    """
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            work()
            began = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - began)
    return found


def measured(
    hub: Hub, rounds: int, threads: int, python: Path | None
) -> tuple[list[Row], dict[str, str]]:
    """Every work over one hub, in turns."""
    with market_works(hub, python, threads) as (market, versions):
        works = own_works(hub, threads) | market | vector_works(hub)
        times = warmed({name: work.call for name, work in works.items()}, rounds)
    models = len(hub.images)
    parts = {name: work.timed_models or models for name, work in works.items()}
    whole = {name: [each * models / parts[name] for each in times[name]] for name in works}
    rows = []
    for name, work in works.items():
        facts = work.facts | {"loop_ratio": ratio(whole, _LOOP, name)}
        if parts[name] < models:
            facts["timed_models"] = parts[name]
        rows.append(Row.of(name, models, whole[name], **facts))
    return rows, versions


def table(rows: Sequence[Row]) -> str:
    """Medians (least) in ms, a work a line, and the rest at the largest number of models."""
    numbers = sorted({row.models for row in rows})
    by_place = {(row.work, row.models): row for row in rows}
    heads = [f"{number:,}" for number in numbers]
    heads += ["times the loop", "MB kept", "built in s", "recall"]
    lines = [f"| work | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for work in dict.fromkeys(row.work for row in rows):
        found = [by_place.get((work, number)) for number in numbers]
        cells = [
            "" if row is None else f"{row.median_ms:.3g} ({row.least_ms:.3g})" for row in found
        ]
        last = [row for row in found if row is not None][-1]
        for value in (last.loop_ratio, last.kept_mb, last.build_s, last.recall):
            cells.append("" if value is None else f"{value:.3g}")
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--models", type=int, nargs="+", default=list(_MODELS))
    parser.add_argument("--images", type=int, default=55)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--loop-threads", type=int, default=1, help="of torch, in both loops")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--learnware", type=Path, metavar="PYTHON", help="of an environment with that package"
    )
    add_kernels(parser)
    chosen = parser.parse_args()
    # What the libraries have of threads is theirs, and named.
    settle_blas(chosen.kernels, 1)
    if min(chosen.models) < COUNT:
        parser.error(f"--models: the first {COUNT} are looked for, so at least {COUNT} models")
    curves.ready()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.learnware is None:
        print("learnware is left out: --learnware names the python of an environment with it")
    rows: list[Row] = []
    versions: dict[str, str] = {}
    loads = {}
    for models in sorted(chosen.models):
        hub = Hub.made(models, chosen.images, chosen.dimensions, DIRECTIONS, _QUERIES)
        before = os.getloadavg()[0]
        found, versions = measured(hub, chosen.rounds, chosen.loop_threads, chosen.learnware)
        loads[str(models)] = [before, os.getloadavg()[0]]
        rows += found
        del hub
        gc.collect()
    setting = {
        "images": chosen.images,
        "dimensions": chosen.dimensions,
        "gamma": GAMMA,
        "rounds": chosen.rounds,
        "loop_threads": chosen.loop_threads,
        "load_before_after": loads,
    }
    path = written(
        chosen.out / "growth.json", rows, machine=machine(_PACKAGES, versions), setting=setting
    )
    print(table(rows))
    for picture in curves.drawn([path], chosen.out):
        print(picture)


if __name__ == "__main__":
    main()
