"""How near models are to a text, through a space that an encoder's two towers share.

A text is compared with images, not with the texts of prompts: CLIP and its kin were trained to put
an image near to what describes it. There is no picture to compare pictures with, so this says less
than an image does. The form is the first moment of Modelverse (Lu et al. 2022), with the images of
prompts near to the text counting more, since the rest show something else:

    d_m = 1 - cos(t, Σ_i a_i u_i),   a_i ∝ max(0, cos(T(p_i), t)),   u_i = z_i/‖z_i‖.

What a model does not differ in from the others (the gap between texts and images, the content) adds
the same to all distances.

A text may also stand beside images, as words for how they should look. CLIP was trained to give an
image the chance softmax(s cos) of belonging to a text, s being its logit scale; images give a model
the chance softmax(-B d / 2T) (:mod:`gmi_registry.scoring.confidence`). Taken as two independent
witnesses their logarithms add up, which in the units of d is

    d_m + (2T/B) s (1 - cos(t, z̄_m)),

and chances are worked out from that as before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.kernels import Floats, widened, working_dtype
from gmi_registry.scoring.query import clamped, cosine_weights, unit_rows
from gmi_registry.scoring.sweep import products, row_norms, swept

_LEAST = 1e-20


def text_distances(
    image_embeddings: Floats,
    prompt_embeddings: Floats,
    image_prompt: NDArray[np.integer],
    text_embedding: Floats,
) -> Floats:
    """1 - cos between a text and each model's weighted mean image: [M], in [0, 2].

    ``image_embeddings`` [M, N, D] raw, ``prompt_embeddings`` [P, D], ``image_prompt`` [N] in
    0..P-1, ``text_embedding`` [D]. Where no prompt is near the text all images count alike. A text
    of norm zero is at distance 1 from all. Raises ValueError where widths differ.
    """
    weights = _weights(image_embeddings, prompt_embeddings, image_prompt, text_embedding)
    models, rows, width = image_embeddings.shape
    text = unit_rows(text_embedding.astype(weights.dtype)[None])[0]
    out = np.empty(models, weights.dtype)

    def work(part: slice) -> None:
        means = _mean_directions(widened(image_embeddings[part], weights.dtype), weights)
        out[part] = 1 - products(unit_rows(means), text)

    swept(work, models, rows * width, streamed=False, spread=True)
    return out


def mean_text_distances(means: Floats, text_embedding: Floats) -> Floats:
    """1 - cos between each mean image and a text, of ``means`` [M, D] raw and ``text_embedding``
    [D]: [M], in [0, 2]. Nearly in the order of :func:`text_distances`."""
    dtype = working_dtype(means, text_embedding)
    text = unit_rows(text_embedding.astype(dtype)[None])[0]
    rows = means.astype(dtype, copy=False)
    lengths = np.sqrt(np.maximum(row_norms(rows), np.finfo(dtype).tiny))
    return np.asarray(1 - products(rows, text) / lengths)


def distances_with_text(
    distances: Floats, to_text: Floats, images: int, *, temperature: float, logit_scale: float
) -> Floats:
    """Distances [M] of the default score to ``images`` query images, and ``to_text`` [M] as
    :func:`text_distances` gives them, as one distance [M] in the units of the former.

    ``temperature`` is T of the chances, ``logit_scale`` s of the encoder. Raises ValueError unless
    ``images``, T and s are positive.
    """
    if images < 1 or not temperature > 0 or not logit_scale > 0:
        raise ValueError(
            f"needs an image, T > 0 and s > 0, got {images}, {temperature}, {logit_scale}"
        )
    return np.asarray(distances + (2 * temperature / images * logit_scale) * to_text)


def text_contributions(
    image_embeddings: Floats,
    prompt_embeddings: Floats,
    image_prompt: NDArray[np.integer],
    text_embedding: Floats,
) -> Floats:
    """What each prompt adds to the mean cosine between one model's images and a text: [P].

    ``image_embeddings`` [N, D]; the rest as for :func:`text_distances`. Larger is nearer.
    """
    weights = _weights(image_embeddings, prompt_embeddings, image_prompt, text_embedding)
    text = unit_rows(text_embedding.astype(weights.dtype)[None])[0]
    cosines = unit_rows(image_embeddings.astype(weights.dtype)) @ text
    total = np.zeros(len(prompt_embeddings), weights.dtype)
    np.add.at(total, image_prompt, weights * cosines)
    return total


def _mean_directions(images: Floats, weights: Floats) -> Floats:
    """Σ_i a_i z_i/‖z_i‖ of ``images`` [m, N, D] and a [N]: [m, D]."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        squared = np.einsum("mnd,mnd->mn", images, images)
        means = np.einsum("mnd,mn->md", images, weights / np.sqrt(squared))
    # Only where squares are neither lost nor too large are they to be had without a second copy.
    lost = ~((squared > _LEAST) & (squared < np.inf)).all(axis=1)
    if lost.any():
        means[lost] = np.einsum("mnd,n->md", unit_rows(images[lost]), weights)
    return np.asarray(means)


def _weights(
    image_embeddings: Floats,
    prompt_embeddings: Floats,
    image_prompt: NDArray[np.integer],
    text_embedding: Floats,
) -> Floats:
    """a [N], at least 0, of sum 1."""
    widths = {array.shape[-1] for array in (image_embeddings, prompt_embeddings, text_embedding)}
    if len(widths) != 1:
        raise ValueError(f"images and texts of widths {sorted(widths)} have no common space")
    dtype = working_dtype(image_embeddings, prompt_embeddings, text_embedding)
    weights = cosine_weights(prompt_embeddings, image_prompt, text_embedding)
    return np.asarray(clamped(weights).astype(dtype, copy=False))
