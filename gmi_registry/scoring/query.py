"""What a user asks with: one to a few images, and a pseudo-prompt for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.weights import cosine_weights

__all__ = ["Query"]


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
