"""From distances to an order: ranks, ties, margins, and the prompts that speak for a model.

A tie is two equal distances. In an order shown to people ties are broken by a key, so that the same
input always prints the same list; in a measurement tied models share their places, so that a score
that cannot tell models apart scores as chance and not as perfection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats, rbf, squared_distances, working_dtype

__all__ = [
    "ascending",
    "best_prompts",
    "least",
    "margins",
    "mid_ranks",
    "prompt_contributions",
    "top_k_credit",
]


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
