"""What specifications that cheat do to the chances and places of honest ones.

    python -m benchmarks.attacks [--hub demo/hub]

The models are those of a local hub (``nox -s demo`` makes one). Of each the even prompts are its
specification and the images of the odd ones are questions, so that no question is about an image
that the answer holds. One cheat, or some, join; who is asked for stays the honest models. Printed
are, for each attack: how often the right model comes first of the honest ones, the mean chance
that it is given, and how often a cheat comes first. docs/explanation/trust.md has the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring import WithinScatter
from gmi_registry.scoring.confidence import confidences, fitted_temperature
from gmi_registry.scoring.default import WhitenedMeans, mean_images
from gmi_registry.spec import read_spec

Rows = NDArray[np.float32]
Attack = Callable[[Rows, np.random.Generator], Rows]

_NORM = 9000


def _unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def _differences(z: Rows) -> Rows:
    """The directions in which honest models differ: [M - 1, D]."""
    means = z.mean(axis=1) - z.mean(axis=(0, 1))
    return np.asarray(np.linalg.svd(means, full_matrices=False)[2][: len(z) - 1])


def _along(z: Rows, size: float) -> Rows:
    """Rows both ways along each of these, around the mean of all: [N, D]."""
    directions = _differences(z)
    both = np.concatenate([directions, -directions]) * size
    return np.asarray(z.mean(axis=(0, 1)) + np.resize(both, z.shape[1:]))


def _as_long_as_honest(rows: Rows, z: Rows) -> Rows:
    return np.asarray(_unit(rows) * np.linalg.norm(z, axis=-1).max())


ATTACKS: dict[str, Attack] = {
    "none": lambda z, rng: z[:0],
    "noise of norm 9,000": lambda z, rng: (
        _unit(rng.standard_normal(z.shape[1:]).astype(np.float32)) * _NORM
    )[None],
    "model differences, norms 9,000": lambda z, rng: _along(z, _NORM)[None],
    "somebody's rows, 30 times as long": lambda z, rng: z[5:6] * 30,
    "model differences, no row longer than an honest one": lambda z, rng: _as_long_as_honest(
        _along(z, 100), z
    )[None],
    "the same from eight accounts": lambda z, rng: np.stack(
        [_as_long_as_honest(_along(z, 100 + each), z) for each in range(8)]
    ),
    "one direction in which models differ, from each of eight accounts": lambda z, rng: np.stack(
        [
            z.mean(axis=(0, 1)) + np.outer(rng.choice([-1, 1], z.shape[1]), direction * 1000)
            for direction in _differences(z)[:8]
        ]
    ).astype(np.float32),
    "the mean of all models": lambda z, rng: z.mean(axis=0)[None],
    "images of every model in turn": lambda z, rng: z[
        rng.integers(0, len(z), z.shape[1]), np.arange(z.shape[1])
    ][None],
}


def measured(z: Rows, questions: Rows, truth: NDArray[np.intp], cheats: Rows) -> tuple[float, ...]:
    """Share of right first places among the honest, mean chance of the right one, and share of
    questions that a cheat comes first for."""
    models = np.concatenate([z, cheats]).astype(np.float16)
    scatter = WithinScatter.of(models)
    temperature = fitted_temperature(models, np.arange(models.shape[1]))
    means = WhitenedMeans.of(mean_images(models), scatter)
    distances = means.distances(questions, 1 / models.shape[1])
    chances = confidences(distances, 1, temperature=temperature)
    first = distances[:, : len(z)].argmin(axis=1) == truth
    won = distances.argmin(axis=1) >= len(z)
    chance = chances[np.arange(len(truth)), truth].mean()
    return float(first.mean()), float(chance), float(won.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hub", type=Path, default=Path("demo/hub"))
    folders = sorted((parser.parse_args().hub / "models").glob("*/gmi"))
    if not folders:
        parser.error("no published models there: nox -s demo makes some")
    images = np.stack(
        [read_spec(folder.parent).image_embeddings.astype(np.float32) for folder in folders]
    )
    z, asked = images[:, ::2], images[:, 1::2]
    questions = asked.reshape(-1, asked.shape[-1])
    truth = np.repeat(np.arange(len(z)), asked.shape[1])
    print(f"{len(z)} models, {len(questions)} questions")
    print(f"{'attack':66} right first   chance   cheat first")
    for name, attack in ATTACKS.items():
        first, chance, won = measured(z, questions, truth, attack(z, np.random.default_rng(0)))
        print(f"{name:66} {first:11.3f} {chance:8.3f} {won:13.3f}", flush=True)


if __name__ == "__main__":
    main()
