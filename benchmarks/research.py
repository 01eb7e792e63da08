"""Ideas for the default score, on the dev tasks of a benchmark run; docs/research.md quotes it.

    python -m benchmarks.paper run benchmarks/zoo16.toml --out results/zoo16 --stage interrogate
    python -m benchmarks.research results/zoo16

Prints a Markdown table. Answers of test tasks are not read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.folder import read_answers, read_tasks
from benchmarks.paper.methods import Queries
from benchmarks.paper.score import RunArrays
from gmi_registry.scoring.confidence import confidences
from gmi_registry.scoring.default import whitened_distances
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.paper import paper_distances
from gmi_registry.scoring.query import unit_rows
from gmi_registry.scoring.scatter import WithinScatter
from gmi_registry.scoring.scores import (
    first_moment_distances,
    mid_ranks,
    monte_carlo_distances,
    second_moment_distances,
    top_k_credit,
)

GAMMA = 0.02
Array = NDArray[np.float64]


class Dev:
    """Z [M, N, D] of the specifications, dev queries T [I, D], and the tasks of one and of four
    images."""

    def __init__(self, folder: Path) -> None:
        run_arrays = RunArrays(folder, GAMMA)
        self.member = run_arrays.gallery("images-1").members[0]
        self.images = np.asarray(self.member.image_embeddings, float)
        self.tasks: dict[str, tuple[Queries, NDArray[np.intp], NDArray[np.intp]]] = {}
        for protocol in ("images-1", "images-4"):
            truth = np.array(read_answers(folder, "dev")[protocol])
            queries, members = run_arrays.queries("dev", read_tasks(folder, "dev", protocol))
            self.tasks[protocol] = queries, members, truth

    def row(self, name: str, score: Callable[[Dev, Queries], Floats]) -> str:
        cells = []
        for queries, members, truth in self.tasks.values():
            distances = np.asarray(score(self, queries), float)[members].mean(axis=1)
            ranks = mid_ranks(distances)[np.arange(len(truth)), truth]
            cells += [top_k_credit(distances, truth, k).mean() for k in (1, 2, 4)]
            cells.append(ranks.mean())
        return f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |"


def within(images: Array) -> Array:
    """S: the pooled covariance within models."""
    scatter = WithinScatter.of(images)
    return np.asarray(scatter.scatter / scatter.freedom)


def without_prompts(images: Array) -> Array:
    """S after taking off both the model's and the prompt's mean: neither content nor style."""
    rest = images - images.mean(1, keepdims=True) - images.mean(0) + images.mean((0, 1))
    flat = rest.reshape(-1, images.shape[-1])
    models, rows = images.shape[:2]
    return np.asarray(flat.T @ flat / ((models - 1) * (rows - 1)))


def factor(covariance: Array, shrinkage: float) -> Array:
    """F with F Fᵀ = (S + λI)⁻¹."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    return np.asarray(vectors / np.sqrt(values + shrinkage * values.mean()))


def squared(points: Floats, queries: Floats) -> Array:
    """||q_b - p_m||²: [B, M]."""
    return np.asarray(((queries[:, None] - points) ** 2).sum(-1))


def paper(dev: Dev, queries: Queries, *, prompts: str, gamma: float = GAMMA) -> Floats:
    weights = queries.weights(dev.member, prompts)  # type: ignore[arg-type]
    return paper_distances(dev.images, weights, queries.images, gamma)


def whitened(dev: Dev, queries: Queries, *, shrinkage: float, prompts: str = "none") -> Floats:
    weights = queries.weights(dev.member, prompts)  # type: ignore[arg-type]
    return whitened_distances(dev.images, weights, queries.images, shrinkage=shrinkage)


def sharpened(dev: Dev, queries: Queries, *, temperature: float) -> Floats:
    """Weights softmax(cos / τ) of the true prompt in place of clamped cosines."""
    cosines = queries.weights(dev.member, "truth") / temperature
    weights = np.exp(cosines - cosines.max(1, keepdims=True))
    return whitened_distances(dev.images, weights, queries.images)


def plain_residual(dev: Dev, queries: Queries) -> Floats:
    """Model's mean residual to the prompts' means: the distance to the mean, without whitening."""
    return squared(dev.images.mean(1), queries.images)


def prompt_free(dev: Dev, queries: Queries, *, shrinkage: float) -> Floats:
    """Whitened by what neither model nor prompt explains."""
    turn = factor(without_prompts(dev.images), shrinkage)
    return squared(dev.images.mean(1) @ turn, queries.images @ turn)


def content_local(dev: Dev, queries: Queries, *, width: float) -> Floats:
    """Each model's mean over the prompts whose mean image is near the query, no text needed."""
    turn = factor(within(dev.images), 0.3)
    rest = factor(without_prompts(dev.images), 0.3)
    near = squared(dev.images.mean(0) @ rest, queries.images @ rest)
    weights = np.exp(-(near - near.min(1, keepdims=True)) / width)
    weights /= weights.sum(1, keepdims=True)
    points = np.einsum("bn,mnd->bmd", weights, dev.images @ turn)
    return np.asarray((((queries.images @ turn)[:, None] - points) ** 2).sum(-1))


def discriminant(
    dev: Dev, queries: Queries, *, own: float, shrinkage: float, volume: bool
) -> Floats:
    """Regularised discriminant analysis (Friedman 1989): a share ``own`` of each model's own
    covariance; ``volume`` adds the log determinant."""
    turn = factor(within(dev.images), shrinkage)
    out = np.empty((len(queries), len(dev.images)))
    asked = queries.images @ turn
    for number, rows in enumerate(dev.images @ turn):
        covariance = (1 - own) * np.eye(rows.shape[1]) + own * np.cov(rows.T)
        difference = asked - rows.mean(0)
        out[:, number] = (difference @ np.linalg.inv(covariance) * difference).sum(1)
        if volume:
            out[:, number] += np.linalg.slogdet(covariance)[1]
    return out


def density(dev: Dev, queries: Queries, *, width: float) -> Floats:
    """-width log of a kernel density over the model's images, whitened."""
    turn = factor(within(dev.images), 0.3)
    out = np.empty((len(queries), len(dev.images)))
    asked = queries.images @ turn
    for number, rows in enumerate(dev.images @ turn):
        logits = -squared(rows, asked) / width
        peak = logits.max(1, keepdims=True)
        out[:, number] = -width * (peak[:, 0] + np.log(np.exp(logits - peak).mean(1)))
    return out


def standardised(dev: Dev, queries: Queries) -> Floats:
    """Whitened distances as z-scores of what the other models' images are from the model."""
    ones = np.ones((1, dev.images.shape[1]))
    models, rows, width = dev.images.shape
    flat = dev.images.reshape(-1, width)
    scatter = WithinScatter.of(dev.images)
    known = whitened_distances(dev.images, np.repeat(ones, len(flat), 0), flat, scatter=scatter)
    other = np.repeat(np.arange(models), rows)[:, None] != np.arange(models)
    mean = np.array([known[other[:, m], m].mean() for m in range(models)])
    spread = np.array([known[other[:, m], m].std() for m in range(models)])
    return np.asarray((whitened(dev, queries, shrinkage=1.0) - mean) / spread)


def unit_whitened(dev: Dev, queries: Queries) -> Floats:
    """Whitened unit-norm embeddings."""
    images = unit_rows(dev.images)
    ones = np.ones((len(queries), images.shape[1]))
    return whitened_distances(images, ones, unit_rows(queries.images))


def ideas() -> Iterator[tuple[str, Callable[[Dev, Queries], Floats]]]:
    for prompts in ("pseudo", "truth", "none"):
        yield f"Eq. 9, γ = .02, weights: {prompts}", _with(paper, prompts=prompts)
    for gamma in (0.005, 0.05):
        yield f"Eq. 9, γ = {gamma}, w = 1", _with(paper, prompts="none", gamma=gamma)
    for name, score in (
        ("first moment", first_moment_distances),
        ("first and second moment", second_moment_distances),
        ("Monte Carlo", monte_carlo_distances),
    ):
        yield f"Modelverse, {name}", _of_images(score)
    yield "residual to the prompts' means, no whitening", plain_residual
    for shrinkage in (0.03, 0.1, 0.3, 1.0, 3.0):
        yield f"whitened, λ x{shrinkage}, w = 1", _with(whitened, shrinkage=shrinkage)
    for prompts in ("pseudo", "truth"):
        name = f"whitened, λ x1, weights: {prompts}"
        yield name, _with(whitened, shrinkage=1.0, prompts=prompts)
    for temperature in (0.1, 0.3):
        yield f"whitened, softmax(cos / {temperature})", _with(sharpened, temperature=temperature)
    yield "whitened, unit norm", unit_whitened
    for shrinkage in (0.1, 1.0):
        name = f"whitened by what no prompt explains, λ x{shrinkage}"
        yield name, _with(prompt_free, shrinkage=shrinkage)
    for width in (10.0, 40.0):
        yield f"whitened, prompts near the query, {width:g}", _with(content_local, width=width)
    for own in (0.2, 0.5):
        for volume in (False, True):
            name = f"discriminant, own {own}, {'with' if volume else 'without'} volume"
            yield name, _with(discriminant, own=own, shrinkage=1.0, volume=volume)
    for width in (10.0, 20.0):
        yield f"density of whitened images, {width:g}", _with(density, width=width)
    yield "whitened, standardised by other models' images", standardised


def _of_images(score: Callable[[Floats, Floats], Floats]) -> Callable[[Dev, Queries], Floats]:
    return lambda dev, queries: score(dev.images, queries.images)


def _with(score: Callable[..., Floats], **settings: object) -> Callable[[Dev, Queries], Floats]:
    return lambda dev, queries: score(dev, queries, **settings)


def temperatures(dev: Dev) -> Iterator[str]:
    """How far chances of the default score can be believed, by temperature."""
    for temperature in (0.7, 0.85, 1.0, 1.2, 1.5, 2.0, 3.0):
        cells = []
        for queries, members, truth in dev.tasks.values():
            distances = np.asarray(whitened(dev, queries, shrinkage=1.0))[members].mean(axis=1)
            chances = confidences(distances, members.shape[1], temperature=temperature)
            first, right = chances.max(1), chances.argmax(1) == truth
            order = np.array_split(np.argsort(first, kind="stable"), 10)
            gaps = [len(p) * abs(first[p].mean() - right[p].mean()) for p in order]
            loss = -np.log(np.maximum(chances[np.arange(len(truth)), truth], 1e-12)).mean()
            cells += [loss, sum(gaps) / len(truth)]
        yield f"| {temperature} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |"


def main(folder: Path) -> None:
    dev = Dev(folder)
    print("| idea | top-1 | top-2 | top-4 | rank | 4 images: top-1 | top-2 | top-4 | rank |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, score in ideas():
        print(dev.row(name, score), flush=True)
    print("\n| T | log loss | calibration error | 4 images: log loss | calibration error |")
    print("|---|---|---|---|---|")
    for line in temperatures(dev):
        print(line, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
