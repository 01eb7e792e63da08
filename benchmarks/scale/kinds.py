"""``python -m benchmarks.scale.kinds --folder DIR``: what the prefilter costs, and how right it is.

Models of several kinds, from such that come in families to such that have nothing in common, and
queries that are by one of them or by none. Each kind prints the recall of the first ten, the share
of queries that have them all, how many distances were worked out, milliseconds (median, least, and
processor time of all threads), and how far the chance of any hit is from what all distances give
it, at two temperatures; then the seconds that it took to make the file, and its size. Means are
drawn once, and kept in DIR.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.scale.hub import D, N
from benchmarks.speed.blas import add_kernels, settle_blas
from gmi_registry.index.stored.prefilter import PrefilterSource, Segment, StoredPrefilter
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.confidence import TEMPERATURE, confidences, tail_distances
from gmi_registry.scoring.kernels import cores
from gmi_registry.scoring.prefilter import Refinement

_TOP, _ASKED, _CONTENTS, _BLOCK = 10, 22, 20_000, 10_000
_TEMPERATURES = (TEMPERATURE, 4.0)


class Power(NamedTuple):
    """A variance over all directions, which falls as this power of a direction's number."""

    variance: float
    slope: float


@dataclass(frozen=True)
class Kind:
    """Styles, what a prompt shows, and what one image shows; half of a style is its family's."""

    name: str
    style: Power
    content: Power
    own: Power
    families: int = 0
    among: bool = True
    """Whether each query is by one of the models."""


_ICONS = (Power(47, -1.38), Power(38, -1.09), Power(94, -0.81))
_CLIP = (Power(27, -0.8), Power(52, -2.9), Power(17, -2.9))
_FLAT = (Power(27, 0), Power(52, 0), Power(17, 0))
KINDS = (
    Kind("1,000 families", *_ICONS, 1000),
    Kind("1,000 families, by none", *_ICONS, 1000, among=False),
    Kind("no families", *_ICONS),
    Kind("no families, by none", *_ICONS, among=False),
    Kind("CLIP's spectrum, 250 families", *_CLIP, 250),
    Kind("CLIP's spectrum, no families", *_CLIP),
    Kind("all directions alike, no families", *_FLAT),
)


class Answer(NamedTuple):
    """``off``: the most that the chance of a hit is, at each temperature, from what all distances
    give it."""

    recall: float
    exact: int
    seconds: float
    processor: float
    off: list[float]


class Hub:
    """So many models of a kind, and queries; means are in a file in ``folder``."""

    def __init__(self, kind: Kind, models: int, queries: int, folder: Path) -> None:
        rng = np.random.default_rng(1)
        families = None
        if kind.families:
            families = drawn(rng, kind.families, half(kind.style))
        shown = drawn(rng, _CONTENTS, kind.content) + drawn(rng, _CONTENTS, kind.own)
        self.scatter = WithinScatter((shown.T @ shown).astype(np.float64), _CONTENTS)
        self.means = kept_means(kind, families, models, folder)
        asked = styles(kind, families, rng.integers(0, models, queries))
        if not kind.among:
            asked = drawn(rng, queries, kind.style)
        self.queries = asked + drawn(rng, queries, kind.content) + drawn(rng, queries, kind.own)


def drawn(rng: np.random.Generator, rows: int, power: Power) -> np.ndarray:
    scale = np.arange(1, D + 1, dtype=np.float32) ** np.float32(power.slope / 2)
    scale *= np.sqrt(power.variance / np.square(scale).sum())
    return rng.standard_normal((rows, D), np.float32) * scale


def half(power: Power) -> Power:
    return Power(power.variance / 2, power.slope)


def styles(kind: Kind, families: np.ndarray | None, models: np.ndarray) -> np.ndarray:
    """Of the models of these numbers: [n, D]."""
    out = np.empty((len(models), D), np.float32)
    for block in np.unique(models // _BLOCK).tolist():
        rng = np.random.default_rng((2, block))
        if families is None:
            found = drawn(rng, _BLOCK, kind.style)
        else:
            found = drawn(rng, _BLOCK, half(kind.style))
            found += families[rng.integers(0, len(families), _BLOCK)]
        chosen = models // _BLOCK == block
        out[chosen] = found[models[chosen] % _BLOCK]
    return out


def kept_means(kind: Kind, families: np.ndarray | None, models: int, folder: Path) -> np.ndarray:
    path = folder / f"{models}-{kind.name.removesuffix(', by none')}.npy".replace(" ", "-")
    if not path.exists():
        scratch = path.with_suffix(".part")
        means = np.lib.format.open_memmap(scratch, "w+", np.float32, (models, D))
        for start in range(0, models, _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, models))
            noise = Power(kind.own.variance / N, kind.own.slope)
            means[rows] = styles(kind, families, rows)
            means[rows] += drawn(np.random.default_rng((3, start)), len(rows), noise)
        means.flush()
        scratch.rename(path)
    return np.load(path, mmap_mode="r")


class Asked:
    """The prefilter of a hub, in a folder."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        rows = len(hub.means)
        source = PrefilterSource(
            "group", [Segment("0" * 64, rows)], "0" * 64, hub.scatter, lambda _: hub.means
        )
        began = time.perf_counter()
        self._prefilter = StoredPrefilter(source, folder, np.arange(rows), lambda *_: None)
        self.made = time.perf_counter() - began
        self.bytes = sum(it.stat().st_size for it in folder.rglob("*") if it.is_file())
        self._rows = range(rows)

    def near(self, image: np.ndarray) -> Refinement:
        return self._prefilter.near(self._rows, image[None], 1 / N, _ASKED)

    def everything(self, image: np.ndarray) -> np.ndarray:
        return self._prefilter.distances(self._rows, image[None], 1 / N)


def answer(asked: Asked, image: np.ndarray, *, checked: bool) -> Answer:
    began, worked = time.perf_counter(), time.process_time()
    found = asked.near(image)
    near = np.flatnonzero(found.exact)
    first = near[np.argsort(found.distances[near])[:_TOP]]
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    if not checked:
        return Answer(np.nan, len(near), seconds, processor, [])
    everything = asked.everything(image)
    limit = np.partition(everything, _TOP - 1)[_TOP - 1]
    recall = float((found.distances[first] <= limit + 1e-3).mean())
    off = []
    for temperature in _TEMPERATURES:
        beta = 1 / (2 * temperature)
        others = found.distances[~found.exact]
        tail = tail_distances(others, found.deviation, found.limit, beta)
        rest = found.distances[np.setdiff1d(near, first)]
        competing = np.concatenate([found.distances[first], rest, tail])
        mine = confidences(competing, 1, temperature=temperature)[:_TOP]
        theirs = confidences(everything, 1, temperature=temperature)[first]
        off.append(float(np.abs(mine - theirs).max()))
    return Answer(recall, len(near), seconds, processor, off)


def spent(answers: list[Answer]) -> tuple[float, float, float]:
    """In seconds the median, the least, and the median of processor time, of all threads."""
    times = [answer.seconds for answer in answers]
    worked = statistics.median(answer.processor for answer in answers)
    return statistics.median(times), min(times), worked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of kinds")
    parser.add_argument("--time", action="store_true", help="no recall, which reads all means")
    add_kernels(parser)
    arguments = parser.parse_args()
    settle_blas(arguments.kernels, cores())
    at = ", ".join(f"T = {temperature:g}" for temperature in _TEMPERATURES)
    print(f"| numbers | recall | all ten | exact | ms | least | processor | off, {at} | made |")
    print("|---" * 9 + "|")
    for number, kind in enumerate(KINDS):
        if arguments.only and kind.name not in arguments.only:
            continue
        arguments.folder.mkdir(parents=True, exist_ok=True)
        hub = Hub(kind, arguments.models, arguments.queries, arguments.folder)
        asked = Asked(hub, arguments.folder / f"{arguments.models}-{number}")
        asked.near(hub.queries[0])
        answers = [answer(asked, image, checked=not arguments.time) for image in hub.queries]
        recalls = [answer.recall for answer in answers]
        offs = zip(*(answer.off for answer in answers), strict=True)
        cells = [
            f"{statistics.mean(recalls):.4f}",
            f"{np.mean([recall == 1 for recall in recalls]):.0%}",
            f"{statistics.mean(answer.exact for answer in answers):,.0f}",
            *(f"{1e3 * time:.1f}" for time in spent(answers)),
            ", ".join(f"{statistics.median(off):.1g} ({max(off):.1g})" for off in offs),
            f"{asked.made:.1f} s, {asked.bytes / 1e6:,.0f} MB",
        ]
        print(f"| {kind.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
