"""How far models are from one another: the maximum mean discrepancy (MMD) of their images.

Two models that answered the same prompts differ by style and agree in content, while images of one
model differ by content above all, which blurs the comparison. So the content is cancelled first: of
each image is taken what models in general show for its prompt, and the rest, its residual, is what
is compared. Models of other prompts have no such common ground, and are compared by their images
as they are.

The discrepancy is the biased estimate (pairs of a row with itself included): it is a squared norm,
so never below 0, and 0 for equal sets; what it adds is the same for all models of as many images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import (
    Floats,
    gram,
    rbf,
    swept,
    widened,
    working_dtype,
)
from gmi_registry.scoring.scatter import bounded_weights

_BLOCK_ELEMENTS = 1 << 22
# A mean and weights by it, in turns; one is enough where no model is far out.
_TURNS = 4


def content_means(
    image_embeddings: Floats, image_prompt: NDArray[np.integer], prompts: int
) -> Floats:
    """What models in general draw for each prompt: the mean over models and their images.

    ``image_embeddings`` [M, N, D], ``image_prompt`` [N] in 0..P-1, ``prompts`` = P; returns [P, D]
    float64, zeros for a prompt without images. A model that is much further from the mean than
    others counts for less, so that none can move it by more than three times the median distance
    over M (Huber's estimator of location, by model). Raises ValueError for no models.
    """
    models, rows, width = image_embeddings.shape
    if models == 0:
        raise ValueError("no models, so nothing is known about their images")
    weights = bounded_weights(_distances_to(image_embeddings, np.zeros((rows, width))))
    for _ in range(_TURNS):
        mean = np.zeros((rows, width))
        for part in _blocks(models, rows * width):
            wide = image_embeddings[part].astype(np.float64)
            mean += np.einsum("m,mnd->nd", weights[part], wide)
        mean /= weights.sum()
        before, weights = weights, bounded_weights(_distances_to(image_embeddings, mean))
        if np.array_equal(weights, before):
            break
    means = np.zeros((prompts, width))
    np.add.at(means, image_prompt, mean)
    counts = np.bincount(image_prompt, minlength=prompts)
    return np.asarray(means / np.maximum(counts, 1)[:, None])


def residuals(
    image_embeddings: Floats, image_prompt: NDArray[np.integer], content: Floats
) -> Floats:
    """Image embeddings [..., N, D] less the ``content`` [P, D] of their prompts [N]; same shape."""
    wide = widened(image_embeddings, working_dtype(image_embeddings))
    return np.asarray(wide - content.astype(wide.dtype, copy=False)[image_prompt])


def model_distances(
    image_embeddings: Floats,
    exemplar: Floats,
    gamma: float,
    *,
    image_prompt: NDArray[np.integer] | None = None,
    exemplar_prompt: NDArray[np.integer] | None = None,
    content: Floats | None = None,
) -> Floats:
    """MMD² between each of M models and the ``exemplar``, with the RBF kernel: [M], at least 0.

    ``image_embeddings`` [M, N, D], ``exemplar`` [N', D]. With ``content`` [P, D] both sides are
    residuals to it first, and ``image_prompt`` [N] and ``exemplar_prompt`` [N'] say of which rows.
    Raises ValueError where widths differ, γ is not positive, or only one of the three is given.
    """
    if len({part is None for part in (image_prompt, exemplar_prompt, content)}) != 1:
        raise ValueError("content needs the prompts of both sides, and they need it")
    models, rows, width = image_embeddings.shape
    if exemplar.ndim != 2 or exemplar.shape[1] != width:
        raise ValueError(f"the exemplar has shape {exemplar.shape}, expected [N', {width}]")
    own = exemplar
    if content is not None and exemplar_prompt is not None:
        own = residuals(exemplar, exemplar_prompt, content)
    within = gram(own, gamma).mean(dtype=np.float64)
    dtype = working_dtype(image_embeddings, own)
    out = np.empty(models)

    def work(part: slice) -> None:
        block = widened(image_embeddings[part], dtype)
        if content is not None and image_prompt is not None:
            block = residuals(block, image_prompt, content)
        # Model by model: BLAS rounds a row by where it stands, and equal models have to tie.
        across = [rbf(images, own, gamma).mean(dtype=np.float64) for images in block]
        out[part] = _mean_grams(block, gamma) + within - 2 * np.array(across)

    swept(work, models, rows * width, streamed=False, spread=True)
    return np.maximum(out, 0)


def shared_contributions(
    image_embeddings: Floats,
    image_prompt: NDArray[np.integer],
    exemplar: Floats,
    exemplar_prompt: NDArray[np.integer],
    prompts: int,
    gamma: float,
) -> Floats:
    """On which prompts two models draw alike: the mean kernel between their images of a prompt.

    ``image_embeddings`` [N, D] and ``exemplar`` [N', D] answer the prompts [N] and [N'] of one set
    of P; returns [P] in [0, 1], larger is nearer, 0 for a prompt that either has no image of.
    """
    kernel = rbf(image_embeddings, exemplar, gamma)
    found = np.zeros(prompts)
    for prompt in range(prompts):
        pairs = kernel[image_prompt == prompt][:, exemplar_prompt == prompt]
        found[prompt] = pairs.mean(dtype=np.float64) if pairs.size else 0.0
    return found


def _distances_to(image_embeddings: Floats, centre: Floats) -> NDArray[np.float64]:
    """How far models [M, N, D] are from ``centre`` [N, D], all images together: [M]."""
    squares = np.empty(len(image_embeddings))
    for part in _blocks(len(squares), centre.size):
        apart = image_embeddings[part].astype(np.float64) - centre
        squares[part] = np.einsum("mnd,mnd->m", apart, apart)
    return np.sqrt(squares)


def _mean_grams(block: Floats, gamma: float) -> NDArray[np.float64]:
    """The mean kernel of all pairs of images of a model, [m, N, D] to [m]."""
    # Around its own mean no image is much longer than it is far from others, so that little is
    # lost to rounding.
    apart = block - block.mean(axis=1, keepdims=True)
    norms = np.einsum("mnd,mnd->mn", apart, apart)
    squared = np.matmul(apart, apart.transpose(0, 2, 1))
    squared *= -2
    squared += norms[:, :, None]
    squared += norms[:, None, :]
    rows = np.arange(squared.shape[1])
    squared[:, rows, rows] = 0
    np.maximum(squared, 0, out=squared)
    squared *= -gamma
    return np.asarray(np.exp(squared, out=squared).mean(axis=(1, 2), dtype=np.float64))


def _blocks(models: int, elements: int) -> list[slice]:
    """Parts of a few models each: a widened copy of a whole hub would be large."""
    step = max(1, _BLOCK_ELEMENTS // max(1, elements))
    return [slice(start, start + step) for start in range(0, models, step)]
