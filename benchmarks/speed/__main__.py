"""``python -m benchmarks.speed``: the arithmetic of ranking, all of it in one run, as a table.

Works take turns, and ratios are of times of one turn. Bytes are those that a work cannot do
without; the machine's own speed is the better of two ways to read the same images once.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.speed.blas import add_kernels, blas_kernels, settle_blas
from benchmarks.speed.clock import ratio, timed
from benchmarks.speed.loop import added, multiplied, plain_on
from benchmarks.speed.lower_bounds import DIRECTIONS, Nearest, nearest_models
from benchmarks.speed.specs import GAMMA, Hub
from gmi_registry.scoring.default import whitened_distances, whitened_means
from gmi_registry.scoring.kernels import cores
from gmi_registry.scoring.paper import paper_distances
from gmi_registry.scoring.prefilter import refine

_LOOPED = 500
"""The loop's time is so many models' worth of it, times the rest."""
_SINGLES = 8
_PICKED = 128


def eq9(hub: Hub, first: int, last: int, weights: np.ndarray | None = None) -> np.ndarray:
    weights = hub.weights if weights is None else weights
    return np.asarray(
        paper_distances(
            hub.images,
            weights[first:last],
            hub.queries[first:last],
            GAMMA,
            model_grams=hub.grams,
            invariants=hub.invariants,
        )
    )


def nearest(hub: Hub, number: int, weights: np.ndarray) -> Nearest:
    return nearest_models(
        hub.images,
        weights[number : number + 1],
        hub.queries[number : number + 1],
        GAMMA,
        model_grams=hub.grams,
        lower_bounds=hub.lower_bounds,
        count=10,
        invariants=hub.invariants,
    )


def default(hub: Hub) -> np.ndarray:
    means, _ = whitened_means(hub.means, hub.scatter)
    return np.asarray(means.distances(hub.queries[:1], 1 / hub.images.shape[1]))


def weighted_default(hub: Hub, number: int = 0, rows: np.ndarray | None = None) -> np.ndarray:
    some = slice(number, number + 1)
    images = hub.images if rows is None else hub.images[rows]
    return whitened_distances(images, hub.weights[some], hub.queries[some], scatter=hub.scatter)[0]


def weighted_first_ten(hub: Hub, number: int = 0) -> np.ndarray:
    """The default score with a prompt, worked out for those alone that may be among the ten."""
    some = slice(number, number + 1)
    means, _ = whitened_means(hub.means, hub.scatter)
    unweighted = means.distances(hub.queries[some], 1 / hub.images.shape[1])[0]

    def exact(rows: np.ndarray) -> np.ndarray:
        # A few at a time: new memory for all of them would cost more than the work.
        parts = np.split(rows, range(_PICKED, len(rows), _PICKED))
        return np.concatenate([weighted_default(hub, number, part) for part in parts])

    return refine(unweighted, exact, 10).distances


def found_of_ten(hub: Hub) -> float:
    """The share of the first ten by the default score with a prompt that are found so."""
    shares = []
    for number in range(len(hub.queries)):
        everything = weighted_default(hub, number)
        right = set(np.argsort(everything, kind="stable")[:10].tolist())
        first = np.argsort(weighted_first_ten(hub, number), kind="stable")[:10].tolist()
        shares.append(len(right.intersection(first)) / 10)
    return statistics.mean(shares)


def checked(hub: Hub, ones: np.ndarray) -> str:
    """What the fast forms differ by from the plain one, and whether the first ten are the same."""
    looped = plain_on(1, hub.images[:_LOOPED], hub.weights[0], hub.queries[0], GAMMA)
    apart = float(np.abs(looped / eq9(hub, 0, 1)[0, :_LOOPED] - 1).max())
    rescored = []
    for weights in (hub.weights, ones):
        for number in range(len(hub.queries)):
            found = nearest(hub, number, weights)
            everything = eq9(hub, number, number + 1, weights)[0]
            order = np.argsort(everything, kind="stable")[:10]
            if not np.array_equal(order, found.rows):
                raise SystemExit(f"query {number}: the first ten are not those of the full pass")
            rescored.append(found.rescored)
    return (
        f"the loop and the sweep differ by {apart:.1e} at most; the first ten were those of the "
        f"full pass for all {len(rescored)} queries, of which the median had "
        f"{statistics.median(rescored):.0f} models rescored, the largest {max(rescored)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--images", type=int, default=55)
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--directions", type=int, default=DIRECTIONS)
    parser.add_argument("--loop-threads", type=int, default=1, help="of torch, in the loop")
    parser.add_argument("--rounds", type=int, default=7)
    add_kernels(parser)
    arguments = parser.parse_args()
    settle_blas(arguments.kernels, cores())
    models, rows, width = arguments.models, arguments.images, arguments.dimensions
    load = os.getloadavg()
    hub = Hub.made(models, rows, width, arguments.directions, 64)
    ones = np.ones_like(hub.weights)
    some = hub.images[:_LOOPED]
    works: dict[str, Callable[[], Any]] = {
        "read, added": lambda: added(hub.images),
        "read, multiplied": lambda: multiplied(hub.images),
        "loop": lambda: plain_on(
            arguments.loop_threads, some, hub.weights[0], hub.queries[0], GAMMA
        ),
        "Eq. 9": lambda: eq9(hub, 0, 1),
        "Eq. 9, w = 1": lambda: eq9(hub, 0, 1, ones),
        "default": lambda: default(hub),
        "default, prompts": lambda: weighted_default(hub),
        "default, prompts, first ten": lambda: weighted_first_ten(hub),
        "first ten": lambda: nearest(hub, 0, hub.weights),
        "first ten, w = 1": lambda: nearest(hub, 0, ones),
        "singles": lambda: [eq9(hub, number, number + 1) for number in range(_SINGLES)],
        "batch": lambda: eq9(hub, 0, 64),
    }
    found = timed(works, arguments.rounds)
    found["loop"] = [seconds * models / len(some) for seconds in found["loop"]]
    found["singles"] = [seconds * 64 / _SINGLES for seconds in found["singles"]]
    middle = {name: statistics.median(times) for name, times in found.items()}
    read = min(("read, added", "read, multiplied"), key=lambda name: middle[name])
    image_bytes = hub.images.nbytes + hub.invariants.norms.nbytes
    bounds = sum(array.nbytes for array in vars(hub.lower_bounds).values())
    touched = {
        read: hub.images.nbytes,
        "Eq. 9": image_bytes + hub.grams.nbytes,
        "Eq. 9, w = 1": image_bytes,
        "default": hub.means.nbytes,
        "default, prompts": hub.images.nbytes,
        "first ten": bounds,
        "first ten, w = 1": bounds,
    }
    print(
        f"{models:,} x {rows} x {width} float32 ({hub.images.nbytes / 1e9:.2f} GB), {cores()} cores"
        f", BLAS kernels for {blas_kernels()}, torch "
        f"{torch.__version__}, load before {load[0]:.1f}, after {os.getloadavg()[0]:.1f}, "
        f"{arguments.rounds} rounds; lower bounds {bounds / 1e6:.0f} MB\n"
    )
    print("| work | median ms | least ms | µs a model | GB/s | of reading | times the loop |")
    print("|---|---|---|---|---|---|---|")
    for name, times in found.items():
        cells = [f"{middle[name] * 1e3:.1f}", f"{min(times) * 1e3:.1f}"]
        cells.append(f"{middle[name] / models * 1e6:.2f}")
        if name in touched:
            share = touched[name] / hub.images.nbytes * ratio(found, read, name)
            cells += [f"{touched[name] / middle[name] / 1e9:.1f}", f"{share:.2f}"]
        else:
            cells += ["", ""]
        queries = 64 if name in ("singles", "batch") else 1
        cells.append(f"{ratio(found, 'loop', name) * queries:.1f}")
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nbatch over singles: {ratio(found, 'singles', 'batch'):.1f}x throughput")
    for name in ("default", "default, prompts", "default, prompts, first ten"):
        print(f"{name} over Eq. 9: {ratio(found, name, 'Eq. 9'):.2f}")
    print(checked(hub, ones))
    print(f"the first ten by the default score with a prompt: recall {found_of_ten(hub):.4f}")


if __name__ == "__main__":
    main()
