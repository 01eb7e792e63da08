"""The scores that a search can ask for by name, and the order that their distances give.

A score takes the candidates and a query and returns one distance a model, lower is better. To add
one, write the function and name it in ``SCORES``; nothing else asks which score it has.

The rivals are here too: Modelverse (Lu et al. 2022) for image queries, and the download count.
Modelverse scores by a likelihood of the query under a model's distribution of unit-norm embeddings.
Here each becomes a distance: one minus the cosine for the first moment, and the negative logarithm
of the likelihood, up to a constant shared by all models, for the other two (so these may be
negative). Several query images are independent draws: the mean of their distances. Embeddings of
norm zero stay zero. β is the logit scale of the encoder, 100 for CLIP.

A tie is two equal distances. In an order shown to people ties are broken by a key, so that the same
input always prints the same list; in a measurement tied models share their places, so that a score
that cannot tell models apart scores as chance and not as perfection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.scoring.default import whitened_distances
from gmi_registry.scoring.kernels import Floats, rbf, squared_distances, working_dtype
from gmi_registry.scoring.paper import (
    Invariants,
    concatenated,
    paper_distances,
    reduced_distances,
    reduced_point,
)
from gmi_registry.scoring.query import Query, unit_rows

if TYPE_CHECKING:
    from gmi_registry.scoring.scatter import WithinScatter

PAPER_GAMMA = 0.02


@dataclass(frozen=True, eq=False)
class Candidates:
    """M models that answered one prompt set in one layout and were seen by one encoder.

    ``image_embeddings`` [M, N, D]: Z_m, raw; any float dtype, widened where it is used.
    ``prompt_embeddings`` [P, E]: Q, shared by all.
    ``image_prompt`` [N]: the prompt that made row i, in 0..P-1.
    ``gamma``: γ of the kernel that the specs name.
    ``grams`` [M, N, N]: G_m = k(Z_m, Z_m) with that γ, where they have been computed before.
    ``invariants``: gives what Eq. 9 needs of these models and no query changes, where somebody
    keeps it. A function, because it takes a pass over all images.
    ``scatter``: gives the within-model statistics of a larger set that these models belong to, so
    that a filter that leaves three models does not change what the whole hub taught. A function,
    because they take a while and only some scores want them.
    ``downloads`` [M]: download counts, NaN where unknown.

    Raises ValueError where shapes disagree.
    """

    image_embeddings: Floats
    prompt_embeddings: Floats
    image_prompt: NDArray[np.integer]
    gamma: float = PAPER_GAMMA
    grams: Floats | None = None
    scatter: Callable[[], WithinScatter] | None = None
    downloads: Floats | None = None
    invariants: Callable[[], Invariants] | None = None

    def __post_init__(self) -> None:
        if self.image_embeddings.ndim != 3 or self.prompt_embeddings.ndim != 2:
            raise ValueError("image_embeddings must be [M, N, D] and prompt_embeddings [P, E]")
        models, rows, _ = self.image_embeddings.shape
        if rows == 0:
            raise ValueError("a model needs at least one image")
        expected = {
            "image_prompt": (self.image_prompt, (rows,)),
            "grams": (self.grams, (models, rows, rows)),
            "downloads": (self.downloads, (models,)),
        }
        for name, (array, shape) in expected.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        prompts = len(self.prompt_embeddings)
        if self.image_prompt.min() < 0 or self.image_prompt.max() >= prompts:
            raise ValueError(f"image_prompt must lie in 0..{prompts - 1}")

    def __len__(self) -> int:
        """M, the number of models."""
        return len(self.image_embeddings)


DEFAULT_SCORE = "default"
LOGIT_SCALE = 100.0
_BLOCK_MODELS = 64


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


def first_moment_distances(image_embeddings: Floats, query_images: Floats) -> Floats:
    """1 - cos(z, μ_m), μ_m the mean of the model's unit-norm embeddings; in [0, 2].

    ``image_embeddings`` [M, N, D] and ``query_images`` [B, D] give [B, M], as for the next two.
    """
    queries = _unit_queries(image_embeddings, query_images)
    out = np.empty((len(queries), len(image_embeddings)), queries.dtype)
    for part, rows in _unit_blocks(image_embeddings, queries.dtype):
        out[:, part] = 1 - queries @ unit_rows(rows.mean(axis=1)).T
    return out


def second_moment_distances(
    image_embeddings: Floats, query_images: Floats, *, logit_scale: float = LOGIT_SCALE
) -> Floats:
    """-(β z·μ_m + β²/2 zᵀΣ_m z), Σ_m the model's covariance (divided by N) of unit-norm embeddings.

    zᵀΣ_m z is the variance of the N cosines with z, so no [D, D] matrix is formed.
    """
    cosines = _cosines(image_embeddings, query_images)
    mean, variance = cosines.mean(axis=-1), cosines.var(axis=-1)
    return np.asarray(-(logit_scale * mean + logit_scale**2 / 2 * variance))


def monte_carlo_distances(
    image_embeddings: Floats, query_images: Floats, *, logit_scale: float = LOGIT_SCALE
) -> Floats:
    """-log((1/N) Σ_i exp(β cos(z_i, z))), computed without overflow."""
    logits = logit_scale * _cosines(image_embeddings, query_images)
    peak = logits.max(axis=-1, keepdims=True)
    return np.asarray(-(peak[..., 0] + np.log(np.exp(logits - peak).mean(axis=-1))))


def download_distances(downloads: Floats) -> Floats:
    """Minus the download count [M]: the most downloaded first; 1 where it is unknown: last."""
    return np.asarray(np.where(np.isnan(downloads), 1, -downloads))


def _unit_queries(image_embeddings: Floats, query_images: Floats) -> Floats:
    return unit_rows(query_images.astype(working_dtype(image_embeddings, query_images)))


def _unit_blocks(image_embeddings: Floats, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Floats]]:
    """Unit-norm rows of a few models at a time: a widened copy of a whole hub would be large."""
    for start in range(0, len(image_embeddings), _BLOCK_MODELS):
        part = slice(start, start + _BLOCK_MODELS)
        yield part, unit_rows(image_embeddings[part].astype(dtype, copy=False))


def _cosines(image_embeddings: Floats, query_images: Floats) -> Floats:
    """cos(z_m,i, z_b): [B, M, N]."""
    queries = _unit_queries(image_embeddings, query_images)
    out = np.empty((len(queries), *image_embeddings.shape[:2]), queries.dtype)
    for part, rows in _unit_blocks(image_embeddings, queries.dtype):
        out[:, part] = np.moveaxis(rows @ queries.T, -1, 0)
    return out


# Of more values a part is looked at first: every so many, and so many more than are wanted.
_MANY = 1 << 16
_STEP = 16
_SPARE = 64


def ascending(distances: Floats, key: Callable[[int], str]) -> NDArray[np.intp]:
    """Indices that sort ``distances`` [M], nearest first, equal ones by ``key`` of the index; [M].

    ``key`` is asked for those that are equal alone. Raises ValueError for NaN, which has no place
    in an order.
    """
    _check_numbers(distances)
    order = np.argsort(distances, kind="stable")
    ordered = distances[order]
    # Where a run of equal distances begins, and where the next one does.
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    ends = np.append(starts[1:], len(order))
    for run in np.flatnonzero(ends - starts > 1):
        tied = slice(starts[run], ends[run])
        order[tied] = sorted(order[tied].tolist(), key=key)
    return np.asarray(order)


def mid_ranks(distances: Floats) -> NDArray[np.float64]:
    """Ranks from 1 over the last axis of ``distances`` [..., M]; ties share their mean place."""
    _check_numbers(distances)
    before, ties = _places(distances)
    return np.asarray(before + (ties + 1) / 2)


def top_k_credit(distances: Floats, truth: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """The chance that the right model is among the first k when ties are broken at random.

    ``distances`` [T, M] of T tasks, ``truth`` [T] the index of the right model; returns [T] in
    [0, 1]. The mean over tasks is the top-k accuracy: k/M when all distances are equal.
    """
    _check_numbers(distances)
    right = np.take_along_axis(distances, truth[:, None], axis=1)
    before = (distances < right).sum(axis=1)
    ties = (distances == right).sum(axis=1)
    credit: NDArray[np.float64] = np.clip((k - before) / ties, 0.0, 1.0)
    return credit


def least(values: Floats, count: int) -> NDArray[np.intp]:
    """Where the ``count`` least of ``values`` [M] are, or all of them, ascending: [min(count, M)].

    Of values that are equal to the last of them any may be left out.
    """
    if count >= len(values):
        return np.arange(len(values))
    among = np.arange(len(values))
    if len(values) > _MANY:
        # A sixteenth says nearly where the limit is, and what is below it is soon looked through.
        wanted = min(count // _STEP + _SPARE, len(values) // _STEP - 1)
        limit = np.partition(values[::_STEP], wanted)[wanted]
        below = np.flatnonzero(values <= limit)
        among = below if len(below) > count else among
    return np.sort(among[np.argpartition(values[among], count)[:count]])


def margins(ordered: Floats) -> Floats:
    """For ascending distances [M]: the next distance minus the own; NaN for the last; [M]."""
    with np.errstate(invalid="ignore"):
        gaps = np.diff(ordered)
    # inf - inf: two models that are both infinitely far are no distance apart.
    gaps = np.where(np.isnan(gaps), 0, gaps)
    return np.append(gaps, np.full(min(1, len(ordered)), np.nan)).astype(working_dtype(ordered))


def prompt_contributions(
    image_embeddings: Floats,
    weights: Floats,
    query_images: Floats,
    image_prompt: NDArray[np.integer],
    prompts: int,
    gamma: float,
) -> Floats:
    """What each prompt p adds to the cross term of Eq. 9: Σ_{i: prompt(i)=p} w_i k(z_i, z)/N.

    ``image_embeddings`` [N, D], ``weights`` [B, N], ``query_images`` [B, D], ``image_prompt`` [N],
    ``prompts`` = P; returns [P], the mean over the query images. Larger is nearer.
    """
    kernel = rbf(image_embeddings, query_images, gamma).T
    each = (kernel * weights).mean(axis=0) / len(image_embeddings)
    total = np.zeros(prompts, each.dtype)
    np.add.at(total, image_prompt, each)
    return total


def best_prompts(
    image_embeddings: Floats,
    weights: Floats,
    query_images: Floats,
    image_prompt: NDArray[np.integer],
    prompts: int,
    gamma: float,
    *,
    count: int,
) -> list[tuple[int, float]]:
    """The ``count`` prompts with the largest contribution, as (prompt index, contribution).

    Arguments as for ``prompt_contributions``. Where contributions are equal, as when the kernel
    underflows to 0 for all, the prompt with the nearest image comes first, then the lower index.
    A prompt that made no image is never named.
    """
    contributions = prompt_contributions(
        image_embeddings, weights, query_images, image_prompt, prompts, gamma
    )
    nearest = np.full(prompts, np.inf)
    per_image = squared_distances(image_embeddings, query_images).min(axis=1)
    np.minimum.at(nearest, image_prompt, per_image)
    used = np.flatnonzero(np.bincount(image_prompt))
    order = used[np.lexsort((nearest[used], -contributions[used]))]
    return [(int(p), float(contributions[p])) for p in order[:count]]


def _places(distances: Floats) -> tuple[NDArray[Any], NDArray[Any]]:
    """How many are strictly nearer, and how many equally near (itself included); same shape."""
    flat = distances.reshape(-1, distances.shape[-1])
    before, ties = np.empty(flat.shape, np.intp), np.empty(flat.shape, np.intp)
    for row, values in enumerate(flat):
        ordered = np.sort(values)
        before[row] = np.searchsorted(ordered, values, side="left")
        ties[row] = np.searchsorted(ordered, values, side="right") - before[row]
    return before.reshape(distances.shape), ties.reshape(distances.shape)


def _check_numbers(distances: Floats) -> None:
    if np.isnan(distances).any():
        raise ValueError("a distance is NaN")
