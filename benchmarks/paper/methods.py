"""The methods that a benchmark compares, each a few lines over :mod:`gmi_registry.scoring`.

A method takes a gallery of M specifications and I query images, and returns distances [I, M], lower
is nearer. All of them treat several images of one task alike: the mean of their distances.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.scoring.default import SHRINKAGE, whitened_distances
from gmi_registry.scoring.kernels import Floats, gram
from gmi_registry.scoring.paper import (
    concatenated,
    paper_distances,
    reduced_distances,
    reduced_point,
)
from gmi_registry.scoring.query import cosine_weights
from gmi_registry.scoring.scores import (
    Candidates,
    download_distances,
    first_moment_distances,
    monte_carlo_distances,
    second_moment_distances,
)

_PIXEL_BLOCK = 1 << 24  # values: 128 MB


def pixel_distances(
    models: Sequence[Sequence[Path]], gammas: Sequence[float], asked: Sequence[Path]
) -> Floats:
    """[I, M] for I query pictures and the N pictures of each of M models, all of one size.

    Model by model and block by block; pixels are in 0..1.
    """
    columns = []
    for pictures, gamma in zip(models, gammas, strict=True):
        own = _pixels(pictures)
        known = gram(own, gamma)[None]
        step = max(1, _PIXEL_BLOCK // own.shape[1])
        parts = []
        for start in range(0, len(asked), step):
            rows = _pixels(asked[start : start + step])
            ones = np.ones((len(rows), len(own)))
            parts.append(paper_distances(own[None], ones, rows, gamma, model_grams=known))
        columns.append(np.concatenate(parts))
    return np.concatenate(columns, axis=1)


def _pixels(pictures: Sequence[Path]) -> Floats:
    """[B, W] in 0..1."""
    rows = []
    for path in pictures:
        with Image.open(path) as image:
            rows.append(np.asarray(image.convert("RGB")).ravel())
    return np.stack(rows) / 255.0


Array = Floats
Prompts = Literal["pseudo", "truth", "none"]

_BLOCK = 128


@dataclass(frozen=True)
class Fit:
    """What was fitted on the dev tasks: γ of Eq. 9, and the shrinkage of the default score."""

    gamma: float
    shrinkage: float


@dataclass(frozen=True, eq=False)
class Gallery:
    """M specifications. Each member holds models that share a prompt set; their distances stand
    one after the other. ``pictures`` are the N picture files of each of the M models."""

    members: tuple[Candidates, ...]
    pictures: tuple[tuple[Path, ...], ...]

    def each(self, distances: Callable[[Candidates], Array]) -> Array:
        """[I, M] from what ``distances`` gives for the members."""
        return np.concatenate([distances(member) for member in self.members], axis=1)


@dataclass(frozen=True, eq=False)
class Queries:
    """I query images: ``images`` [I, D]; ``truth`` [I, E] embeds the prompts that made them,
    ``pseudo`` [I, E] those that were guessed, zeros where none was."""

    images: Array
    truth: Array
    pseudo: Array
    pictures: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def digest(self) -> str:
        """Equal for equal images in equal order, with the same prompts."""
        digest = hashlib.sha256("\n".join(path.name for path in self.pictures).encode())
        digest.update(self.truth.tobytes())
        return digest.hexdigest()

    def rows(self, chosen: NDArray[np.intp]) -> Queries:
        """Some of the images."""
        return Queries(
            self.images[chosen],
            self.truth[chosen],
            self.pseudo[chosen],
            tuple(self.pictures[row] for row in chosen),
        )

    def blocks(self) -> Iterator[Queries]:
        """All of them, at most 128 at a time: arrays [I, M, D] would not fit into memory."""
        for start in range(0, len(self), _BLOCK):
            yield self.rows(np.arange(start, min(start + _BLOCK, len(self))))

    def weights(self, member: Candidates, prompts: Prompts) -> Array:
        """w of Eq. 9 for each image, [I, N]: raw cosines, ones where there is no prompt."""
        rows = np.ones((len(self), len(member.image_prompt)))
        if prompts == "none":
            return rows
        asked = self.truth if prompts == "truth" else self.pseudo
        known: dict[bytes, Array] = {}
        for row, prompt in enumerate(asked):
            key = prompt.tobytes()
            if key not in known:
                weights = cosine_weights(member.prompt_embeddings, member.image_prompt, prompt)
                known[key] = np.asarray(weights, float)
            rows[row] = known[key]
        return rows


Method = Callable[[Gallery, Queries, Fit], Array]
"""Distances [I, M]; ``Fit`` is read by the fitted methods alone."""


def download(gallery: Gallery, queries: Queries, fit: Fit) -> Array:
    """The most downloaded first; models whose cards state no count are equal, and last."""

    def of(member: Candidates) -> Array:
        counts = member.downloads
        known = np.full(len(member), np.nan) if counts is None else counts
        distances = np.asarray(download_distances(known), float)
        return np.repeat(distances[None], len(queries), axis=0)

    return gallery.each(of)


def rkme_basic(gallery: Gallery, queries: Queries, fit: Fit) -> Array:
    """Eq. 2 on pixels in 0..1."""
    gammas = [member.gamma for member in gallery.members for _ in range(len(member))]
    return pixel_distances(gallery.pictures, gammas, queries.pictures)


def rkme_concat(gallery: Gallery, queries: Queries, fit: Fit) -> Array:
    """Eq. 2 on image and prompt embeddings end to end."""

    def of(member: Candidates) -> Array:
        rows = member.prompt_embeddings[member.image_prompt]
        vectors = concatenated(member.image_embeddings, rows)
        asked = concatenated(queries.images, queries.pseudo)
        ones = np.ones((len(asked), vectors.shape[1]))
        return np.asarray(paper_distances(vectors, ones, asked, member.gamma))

    return gallery.each(of)


def size_1(gallery: Gallery, queries: Queries, fit: Fit) -> Array:
    """Eq. 2 with each model reduced to one point."""

    def of(member: Candidates) -> Array:
        reduced = [reduced_point(z, member.gamma) for z in member.image_embeddings]
        points = np.stack([point for point, _ in reduced])
        betas = np.array([beta for _, beta in reduced])
        return np.asarray(reduced_distances(points, betas, queries.images, member.gamma))

    return gallery.each(of)


def paper_by(
    gallery: Gallery,
    queries: Queries,
    fit: Fit,
    *,
    prompts: Prompts = "pseudo",
    gamma: float | None = None,
) -> Array:
    """Eq. 9, with ``gamma`` in place of the gallery's own where it is given."""

    def of(member: Candidates) -> Array:
        if gamma is not None and gamma != member.gamma:
            member = replace(member, gamma=gamma, grams=None)
        return np.concatenate(
            [
                paper_distances(
                    member.image_embeddings,
                    block.weights(member, prompts),
                    block.images,
                    member.gamma,
                    model_grams=member.grams,
                )
                for block in queries.blocks()
            ]
        )

    return gallery.each(of)


def default_by(
    gallery: Gallery,
    queries: Queries,
    fit: Fit,
    *,
    prompts: Prompts = "pseudo",
    shrinkage: float = SHRINKAGE,
) -> Array:
    """The package's default score."""

    def of(member: Candidates) -> Array:
        scatter = None if member.scatter is None else member.scatter()
        return np.concatenate(
            [
                whitened_distances(
                    member.image_embeddings,
                    block.weights(member, prompts),
                    block.images,
                    scatter=scatter,
                    shrinkage=shrinkage,
                )
                for block in queries.blocks()
            ]
        )

    return gallery.each(of)


def _of_images(distances: Callable[..., Floats]) -> Method:
    """A method of image embeddings alone."""

    def method(gallery: Gallery, queries: Queries, fit: Fit) -> Array:
        return gallery.each(
            lambda member: np.asarray(distances(member.image_embeddings, queries.images), float)
        )

    method.__doc__ = distances.__doc__
    return method


def paper_fitted(gallery: Gallery, queries: Queries, fit: Fit) -> Array:
    """Eq. 9 with the γ that is best on the dev tasks."""
    return paper_by(gallery, queries, fit, gamma=fit.gamma)


def default_fitted(gallery: Gallery, queries: Queries, fit: Fit) -> Array:
    """The default score with the shrinkage that is best on the dev tasks."""
    return default_by(gallery, queries, fit, shrinkage=fit.shrinkage)


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "download": download,
        "rkme-basic": rkme_basic,
        "rkme-clip": partial(paper_by, prompts="none"),
        "rkme-concat": rkme_concat,
        "size-1": size_1,
        "paper": paper_by,
        "paper-ground-truth": partial(paper_by, prompts="truth"),
        "paper-none": partial(paper_by, prompts="none"),
        "modelverse": _of_images(first_moment_distances),
        "modelverse-second": _of_images(second_moment_distances),
        "modelverse-monte-carlo": _of_images(monte_carlo_distances),
        "default": default_by,
        "default-none": partial(default_by, prompts="none"),
        "default-ground-truth": partial(default_by, prompts="truth"),
        "paper-fitted": paper_fitted,
        "default-fitted": default_fitted,
    }
)
"""Every method by its name. To add one, write the function and name it here."""

WITH_FIT = ("paper-fitted", "default-fitted")
"""Those that read what was fitted on the dev tasks."""

WITH_CHANCES = ("default", "default-none", "default-ground-truth")
"""Those whose distances a search turns into chances."""


_LABELS = {
    "download": "Download",
    "rkme-basic": "RKME-Basic",
    "rkme-clip": "RKME-CLIP",
    "rkme-concat": "RKME-Concat",
    "size-1": "Size 1",
    "paper": "Eq. 9",
    "paper-ground-truth": "Eq. 9, true prompt",
    "paper-none": "Eq. 9, w = 1",
    "paper-fitted": "Eq. 9, γ fitted on dev",
    "modelverse": "Modelverse, 1st moment",
    "modelverse-second": "Modelverse, 1st and 2nd",
    "modelverse-monte-carlo": "Modelverse, Monte Carlo",
    "default": "Default",
    "default-none": "Default, no prompt",
    "default-ground-truth": "Default, true prompt",
    "default-fitted": "Default, fitted on dev",
}


def method_label(name: str) -> str:
    """The method for people; one that is not known keeps its name."""
    return _LABELS.get(name, name)


def ordered_methods(names: Sequence[str]) -> list[str]:
    """In the order of the tables: simplest first, ours last, then what is not known."""
    order = list(_LABELS)
    known = sorted((name for name in names if name in _LABELS), key=order.index)
    return known + sorted(name for name in names if name not in _LABELS)


def protocol_label(name: str) -> str:
    """The protocol for people."""
    head, _, count = name.rpartition("-")
    if head == "images" and count.isdecimal():
        return "1 image" if count == "1" else f"{count} images"
    return {
        "split-2": "split 2, every other default prompt",
        "split-3": "split 3, the other half",
        "own-prompts": "default and own prompts",
        "own-prompts-default": "default prompts alone",
        "own-prompts-mixed": "every second model with own prompts",
    }.get(name, name)
