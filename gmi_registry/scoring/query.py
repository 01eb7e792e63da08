"""A query of one to a few images with pseudo-prompts, or of words, and how a model's images count.

The weight of an image is w_i = cos(q_prompt(i), q̂). Two conventions hold for vectors of norm zero,
for which a cosine does not exist:

- a prompt whose embedding is zero is related to nothing and gets weight 0;
- a pseudo-prompt whose embedding is zero says nothing, exactly like a missing one, so every
  image gets weight 1 (and Eq. 9 becomes its unweighted form rather than a constant).

**A text alone** is compared through a space that an encoder's two towers share, and with images,
not with the texts of prompts: CLIP and its kin were trained to put an image near to what describes
it. There is no picture to compare pictures with, so this says less than an image does. The form is
the first moment of Modelverse (Lu et al. 2022), with the images of prompts near to the text
counting more, since the rest show something else:

    d_m = 1 - cos(t, Σ_i a_i u_i),   a_i ∝ max(0, cos(T(p_i), t)),   u_i = z_i/‖z_i‖.

What a model does not differ in from the others (the gap between texts and images, the content) adds
the same to all distances.

**A text beside images** is words for how they should look. CLIP was trained to give an
image the chance softmax(s cos) of belonging to a text, s being its logit scale; images give a model
the chance softmax(-B d / 2T) (:mod:`gmi_registry.scoring.confidence`). Taken as two independent
witnesses their logarithms add up, which in the units of d is

    d_m + (2T/B) s (1 - cos(t, z̄_m)),

and chances are worked out from that as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.scoring.kernels import Floats, products, row_norms, swept, widened, working_dtype


def cosine_weights(
    prompt_embeddings: Floats, image_prompt: NDArray[np.integer], pseudo_prompt: Floats
) -> Floats:
    """The weights of Eq. 9, raw cosines in [-1, 1].

    ``prompt_embeddings`` [P, E], ``image_prompt`` [N] with values in 0..P-1, ``pseudo_prompt`` [E];
    returns [N]. See the module for vectors of norm zero. Raises IndexError if ``image_prompt``
    points outside the prompts.
    """
    _check_rows(image_prompt, len(prompt_embeddings))
    dtype = working_dtype(prompt_embeddings, pseudo_prompt)
    query = unit_rows(pseudo_prompt.astype(dtype)[None, :])[0]
    if not query.any():
        return uniform(len(image_prompt)).astype(dtype)
    cosines = np.clip(unit_rows(prompt_embeddings.astype(dtype)) @ query, -1, 1)
    return np.asarray(cosines[image_prompt])


def uniform(n: int) -> Floats:
    """w_i = 1 for ``n`` images: the unweighted mean embedding of Eq. 2; returns [n] float32."""
    return np.ones(n, np.float32)


def clamped(weights: Floats) -> Floats:
    """Negative weights set to 0, then scaled to sum 1 over the last axis; same shape.

    Where no weight is positive nothing is known about the images, and each gets 1/N.
    These are coefficients of a mean: unlike ``cosine_weights`` they already hold the 1/N.
    """
    positive = np.maximum(weights, 0).astype(working_dtype(weights), copy=False)
    total = positive.sum(axis=-1, keepdims=True)
    hopeless = total <= 0
    positive = np.where(hopeless, 1, positive).astype(positive.dtype, copy=False)
    return np.asarray(positive / positive.sum(axis=-1, keepdims=True))


def unit_rows(rows: Floats) -> Floats:
    """Rows scaled to norm 1; a row of zeros stays zero."""
    # Dividing by the largest entry first keeps the square from over- or underflowing.
    peak = np.abs(rows).max(axis=-1, keepdims=True, initial=0)
    rows = rows / np.where(peak == 0, 1, peak)
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(norm == 0, 1, norm))


def _check_rows(image_prompt: NDArray[np.integer], prompts: int) -> None:
    if image_prompt.size and (image_prompt.min() < 0 or image_prompt.max() >= prompts):
        raise IndexError(f"image_prompt must lie in 0..{prompts - 1}")


@dataclass(frozen=True, eq=False)
class Query:
    """R_τ = {z, q̂} of Eq. 8, for B images that together are one query.

    ``image_embeddings`` [B, D]: G(x) of each image, raw, not L2-normalised.
    ``prompt_embeddings`` [B, E]: T(p̂) of each pseudo-prompt, or None where nobody gave or guessed
    one. The row of an image whose entry in ``pseudo_prompts`` is None is never read.
    ``interrogator``: the mode that made the pseudo-prompts (``none``, ``phrases``, ...).
    ``encoder_id``: the encoder both embeddings came from; specs of any other are not comparable.

    Raises InputError where shapes disagree, there is no image, or a number is not finite.
    """

    image_embeddings: Floats
    prompt_embeddings: Floats | None
    pseudo_prompts: tuple[str | None, ...]
    interrogator: str
    encoder_id: str

    def __post_init__(self) -> None:
        images = self.image_embeddings
        if images.ndim != 2 or 0 in images.shape:
            raise InputError(f"a query needs image embeddings [B, D], got shape {images.shape}")
        if len(self.pseudo_prompts) != len(images):
            raise InputError(
                f"a query of {len(images)} images has {len(self.pseudo_prompts)} pseudo-prompts",
                hint="give one pseudo-prompt, or None, for each image",
            )
        _check_finite("image", images)
        prompts = self.prompt_embeddings
        if prompts is None:
            return
        if prompts.ndim != 2 or len(prompts) != len(images):
            raise InputError(
                f"prompt embeddings of shape {prompts.shape} do not fit {len(images)} images"
            )
        _check_finite("prompt", prompts)

    @property
    def has_prompts(self) -> bool:
        """Whether any image comes with a pseudo-prompt."""
        return self.prompt_embeddings is not None and any(
            prompt is not None for prompt in self.pseudo_prompts
        )

    def each(self) -> Iterator[Query]:
        """Every image as a query of its own."""
        prompts = self.prompt_embeddings
        for b, prompt in enumerate(self.pseudo_prompts):
            yield replace(
                self,
                image_embeddings=self.image_embeddings[b : b + 1],
                prompt_embeddings=None if prompts is None else prompts[b : b + 1],
                pseudo_prompts=(prompt,),
            )

    def weights(self, prompt_embeddings: Floats, image_prompt: NDArray[np.integer]) -> Floats:
        """w of Eq. 9 for each query image against a prompt set: [P, E] and [N] give [B, N].

        Raw cosines; a row of ones for an image without a pseudo-prompt.
        """
        dtype = working_dtype(self.image_embeddings, prompt_embeddings)
        rows = np.ones((len(self.image_embeddings), len(image_prompt)), dtype)
        if self.prompt_embeddings is not None:
            for b, prompt in enumerate(self.pseudo_prompts):
                if prompt is not None:
                    rows[b] = cosine_weights(
                        prompt_embeddings, image_prompt, self.prompt_embeddings[b]
                    )
        return rows


def _check_finite(what: str, embeddings: Floats) -> None:
    if not np.isfinite(embeddings).all():
        raise InputError(f"the query's {what} embeddings hold NaN or infinity")


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
