"""``python -m benchmarks.scale.kinds``: how much of 100,000 models is read, and how right that is.

Models of several kinds, from such that come in families to such that have nothing in common, and
queries that are by one of them or by none. Each kind prints the recall of the first ten, the share
of queries that have them all, how many models were looked at, milliseconds, and how far the chance
of any hit is from what all distances give it, at two temperatures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from benchmarks.scale.hub import D, N
from benchmarks.speed.blas import add_kernels, settle_blas
from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.coarse import CoarseCodes, CoarseSpace
from gmi_registry.scoring.confidence import TEMPERATURE, confidences
from gmi_registry.scoring.inverted import InvertedFile, Positions
from gmi_registry.scoring.refine import CLOSE, refine
from gmi_registry.scoring.sweep import cores

_TOP, _ASKED, _QUERIES, _CONTENTS = 10, 22, 100, 20_000
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
    seconds: float
    off: list[float]


class Counted(InvertedFile):
    """Counts the models that it looks at."""

    looked_at: ClassVar[int] = 0

    def _models(self, cells: Positions, positions: Positions | None) -> tuple[Positions, Positions]:
        places, at = super()._models(cells, positions)
        type(self).looked_at += len(places)
        return places, at


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
        means = styles + self._drawn(models, Power(kind.own.variance / N, kind.own.slope))
        self._space = CoarseSpace.learnt(means, scatter)
        codes = self._space.coded(means)
        order = np.argsort(codes.cells, kind="stable")
        codes = CoarseCodes(**{name: array[order] for name, array in vars(codes).items()})
        self._means, self._lengths = means[order], codes.lengths
        self._inverted = Counted(codes, self._space.centroids)

    def _drawn(self, rows: int, power: Power) -> np.ndarray:
        scale = np.arange(1, D + 1, dtype=np.float32) ** np.float32(power.slope / 2)
        scale *= np.sqrt(power.variance / np.square(scale).sum())
        return self._rng.standard_normal((rows, D), np.float32) * scale

    def exact(self, image: np.ndarray, rows: Positions | slice) -> np.ndarray:
        means, lengths = self._means[rows], self._lengths[rows]
        return self._space.distances(means, lengths, image[None], 1 / N)

    def answer(self, image: np.ndarray) -> Answer:
        began = time.perf_counter()
        asked = self._space.asked(image[None], 1 / N)
        places, estimates, left = self._inverted.near(
            asked, _ASKED, lambda rows: self.exact(image, rows)
        )
        found, _ = refine(estimates, lambda few: self.exact(image, places[few]), _ASKED, CLOSE)
        seconds = time.perf_counter() - began
        everything = self.exact(image, slice(None))
        limit = np.partition(everything, _TOP - 1)[_TOP - 1]
        first = np.argsort(found)[:_TOP]
        recall = float((found[first] <= limit + 1e-3).mean())
        off = []
        for temperature in _TEMPERATURES:
            competing = np.concatenate([found, left.distances(1 / (2 * temperature))])
            mine = confidences(competing, 1, temperature=temperature)[first]
            theirs = confidences(everything, 1, temperature=temperature)[places[first]]
            off.append(float(np.abs(mine - theirs).max()))
        return Answer(recall, seconds, off)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100_000)
    add_kernels(parser)
    arguments = parser.parse_args()
    settle_blas(arguments.kernels, cores())
    at = ", ".join(f"T = {temperature:g}" for temperature in _TEMPERATURES)
    print(f"| numbers | recall | all ten | looked at | ms | chances off, median (most), {at} |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        hub = Hub(kind, arguments.models)
        Counted.looked_at = 0
        answers = [hub.answer(image) for image in hub.queries]
        recalls = [answer.recall for answer in answers]
        offs = zip(*(answer.off for answer in answers), strict=True)
        cells = [
            f"{statistics.mean(recalls):.4f}",
            f"{statistics.mean(recall == 1 for recall in recalls):.0%}",
            f"{Counted.looked_at / len(answers) / arguments.models:.0%}",
            f"{statistics.median(answer.seconds for answer in answers) * 1e3:.1f}",
            ", ".join(f"{statistics.median(off):.1g} ({max(off):.1g})" for off in offs),
        ]
        print(f"| {kind.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
