"""The table of scores that a search can be asked for by name.

A score takes the candidates and a query and returns one distance a model, lower is better. To add
one, write the function and name it in ``SCORES``; nothing else asks which score it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import numpy as np

from gmi_registry.errors import InputError
from gmi_registry.scoring.baselines import (
    download_distances,
    first_moment_distances,
    monte_carlo_distances,
    second_moment_distances,
)
from gmi_registry.scoring.candidates import Candidates
from gmi_registry.scoring.default import whitened_distances
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.paper import (
    concatenated,
    paper_distances,
    reduced_distances,
    reduced_point,
)
from gmi_registry.scoring.query import Query

__all__ = ["DEFAULT_SCORE", "KERNEL_SCORES", "SCORES", "Score", "score_named"]

DEFAULT_SCORE = "default"


class Score(Protocol):
    """Distances [M] of the candidates to a query; lower is better, comparable within the call."""

    def __call__(self, candidates: Candidates, query: Query, /) -> Floats: ...


def default(candidates: Candidates, query: Query) -> Floats:
    """Whitened distance to the mean embedding, without bias."""
    weights = query.weights(candidates.prompt_embeddings, candidates.image_prompt)
    return _mean(
        whitened_distances(
            candidates.image_embeddings,
            weights,
            query.image_embeddings,
            scatter=None if candidates.scatter is None else candidates.scatter(),
        )
    )


def paper(candidates: Candidates, query: Query) -> Floats:
    """Eq. 9: prompt-weighted kernel mean embedding."""
    weights = query.weights(candidates.prompt_embeddings, candidates.image_prompt)
    return _eq9(candidates, weights, query)


def rkme_clip(candidates: Candidates, query: Query) -> Floats:
    """Eq. 2 on image embeddings: prompts ignored."""
    shape = (len(query.image_embeddings), candidates.image_embeddings.shape[1])
    return _eq9(candidates, np.ones(shape, np.float32), query)


def rkme_concat(candidates: Candidates, query: Query) -> Floats:
    """Eq. 2 on image and prompt embeddings end to end; needs a pseudo-prompt for each image."""
    if query.prompt_embeddings is None or None in query.pseudo_prompts:
        raise InputError(
            "the score 'rkme-concat' needs a prompt for each query image",
            hint="add --prompt TEXT or --interrogator phrases, or choose another --score",
        )
    rows = candidates.prompt_embeddings[candidates.image_prompt]
    vectors = concatenated(candidates.image_embeddings, rows)
    queries = concatenated(query.image_embeddings, query.prompt_embeddings)
    weights = np.ones((len(queries), vectors.shape[1]), np.float32)
    return _mean(paper_distances(vectors, weights, queries, candidates.gamma))


def size_1(candidates: Candidates, query: Query) -> Floats:
    """Eq. 2 with each model reduced to one point; prompts ignored."""
    reduced = [reduced_point(z, candidates.gamma) for z in candidates.image_embeddings]
    if not reduced:
        return np.empty(0, np.float32)
    points = np.stack([point for point, _ in reduced])
    betas = np.array([beta for _, beta in reduced], points.dtype)
    return _mean(reduced_distances(points, betas, query.image_embeddings, candidates.gamma))


def modelverse(candidates: Candidates, query: Query) -> Floats:
    """Modelverse, first moment: one minus the cosine to the mean embedding."""
    return _mean(first_moment_distances(candidates.image_embeddings, query.image_embeddings))


def modelverse_second(candidates: Candidates, query: Query) -> Floats:
    """Modelverse, first and second moment."""
    return _mean(second_moment_distances(candidates.image_embeddings, query.image_embeddings))


def modelverse_monte_carlo(candidates: Candidates, query: Query) -> Floats:
    """Modelverse, Monte Carlo over the model's images."""
    return _mean(monte_carlo_distances(candidates.image_embeddings, query.image_embeddings))


def download(candidates: Candidates, query: Query) -> Floats:
    """The most downloaded first, whatever the query."""
    if candidates.downloads is None:
        return np.zeros(len(candidates), np.float32)
    return download_distances(candidates.downloads)


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "default": default,
        "paper": paper,
        "rkme-clip": rkme_clip,
        "rkme-concat": rkme_concat,
        "size-1": size_1,
        "modelverse": modelverse,
        "modelverse-second": modelverse_second,
        "modelverse-monte-carlo": modelverse_monte_carlo,
        "download": download,
    }
)

KERNEL_SCORES: frozenset[Score] = frozenset({paper, rkme_clip})
"""Those that are distances of kernel mean embeddings of images."""


def score_named(name: str) -> Score:
    """The score of that name. Raises InputError that lists the names there are."""
    try:
        return SCORES[name]
    except KeyError:
        raise InputError(
            f"there is no score named {name!r}", hint=f"choose one of: {', '.join(SCORES)}"
        ) from None


def _eq9(candidates: Candidates, weights: Floats, query: Query) -> Floats:
    return _mean(
        paper_distances(
            candidates.image_embeddings,
            weights,
            query.image_embeddings,
            candidates.gamma,
            model_grams=candidates.grams,
            invariants=None if candidates.invariants is None else candidates.invariants(),
        )
    )


def _mean(distances: Floats) -> Floats:
    """One query of B images: [B, M] gives [M]."""
    return np.asarray(distances.mean(axis=0))
