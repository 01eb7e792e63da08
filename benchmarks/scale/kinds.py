"""``python -m benchmarks.scale.kinds``: how right the prefilter of 100,000 models is.

Models of several kinds, from such that come in families to such that have nothing in common, and
queries that are by one of them or by none. Each kind prints the recall of the first ten, the share
of queries that have them all, how many distances were worked out, milliseconds, and how far the
chance of any hit is from what all distances give it, at two temperatures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmarks.scale.hub import D, N
from benchmarks.speed.blas import add_kernels, settle_blas
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.confidence import TEMPERATURE, confidences, tail_distances
from gmi_registry.scoring.prefilter import Prefilter
from gmi_registry.scoring.sweep import cores

_TOP, _ASKED, _QUERIES, _CONTENTS, _BLOCK = 10, 22, 100, 20_000, 10_000
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
    worked_out: int
    seconds: float
    off: list[float]


class Hub:
    """So many models of a kind, and queries."""

    def __init__(self, kind: Kind, models: int) -> None:
        self._rng = np.random.default_rng(0)
        variance, slope = kind.style
        styles = self._drawn(models, Power(variance / (2 if kind.families else 1), slope))
        if kind.families:
            families = self._drawn(kind.families, Power(variance / 2, slope))
            styles += families[self._rng.integers(0, kind.families, models)]
        shown = self._drawn(_CONTENTS, kind.content) + self._drawn(_CONTENTS, kind.own)
        scatter = WithinScatter((shown.T @ shown).astype(np.float64), _CONTENTS)
        asked = styles[self._rng.integers(0, models, _QUERIES)]
        if not kind.among:
            asked = self._drawn(_QUERIES, kind.style)
        self.queries = asked + self._drawn(_QUERIES, kind.content)
        self.queries += self._drawn(_QUERIES, kind.own)
        for start in range(0, models, _BLOCK):
            block = styles[start : start + _BLOCK]
            block += self._drawn(len(block), Power(kind.own.variance / N, kind.own.slope))
        self._means = styles
        self.prefilter = Prefilter.learn(self._means, scatter)
        self._summaries = self.prefilter.summaries(self._means)

    def _drawn(self, rows: int, power: Power) -> np.ndarray:
        scale = np.arange(1, D + 1, dtype=np.float32) ** np.float32(power.slope / 2)
        scale *= np.sqrt(power.variance / np.square(scale).sum())
        return self._rng.standard_normal((rows, D), np.float32) * scale

    def answer(self, image: np.ndarray) -> Answer:
        asked = (self._summaries, self._means.__getitem__, image[None], 1 / N)
        began = time.perf_counter()
        found = self.prefilter.nearest(*asked, _ASKED)
        seconds = time.perf_counter() - began
        everything = self.prefilter.distances(*asked, np.arange(len(self._means)))
        limit = np.partition(everything, _TOP - 1)[_TOP - 1]
        first = np.argsort(np.where(found.exact, found.distances, np.inf))[:_TOP]
        recall = float((found.distances[first] <= limit + 1e-3).mean())
        off = []
        for temperature in _TEMPERATURES:
            beta = 1 / (2 * temperature)
            others = found.distances[~found.exact]
            tail = tail_distances(others, found.deviation, found.limit, beta)
            competing = np.concatenate([found.distances[first], tail])
            known = np.delete(found.distances, first)[np.delete(found.exact, first)]
            competing = np.concatenate([competing, known])
            mine = confidences(competing, 1, temperature=temperature)[:_TOP]
            theirs = confidences(everything, 1, temperature=temperature)[first]
            off.append(float(np.abs(mine - theirs).max()))
        return Answer(recall, int(found.exact.sum()), seconds, off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--only", nargs="*", help="beginnings of names")
    add_kernels(parser)
    arguments = parser.parse_args()
    settle_blas(arguments.kernels, cores())
    at = ", ".join(f"T = {temperature:g}" for temperature in _TEMPERATURES)
    print(f"| numbers | recall | all ten | worked out | ms | chances off, median (most), {at} |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        if arguments.only and not kind.name.startswith(tuple(arguments.only)):
            continue
        hub = Hub(kind, arguments.models)
        answers = [hub.answer(image) for image in hub.queries]
        recalls = [answer.recall for answer in answers]
        offs = zip(*(answer.off for answer in answers), strict=True)
        cells = [
            f"{statistics.mean(recalls):.4f}",
            f"{statistics.mean(recall == 1 for recall in recalls):.0%}",
            f"{statistics.mean(answer.worked_out for answer in answers):,.0f}",
            f"{statistics.median(answer.seconds for answer in answers) * 1e3:.1f}",
            ", ".join(f"{statistics.median(off):.1g} ({max(off):.1g})" for off in offs),
        ]
        print(f"| {kind.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
