"""How near the images of a specification are to images that were drawn again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gmi_registry.errors import IncomparableSpecsError
from gmi_registry.spec import Spec

__all__ = ["MEAN_TOLERANCE", "ROW_TOLERANCE", "TEXT_TOLERANCE", "Comparison", "Shift", "compare"]

MEAN_TOLERANCE = 0.10
"""The most that the shifts of images may come to on average."""

ROW_TOLERANCE = 0.30
"""The most that a single image may be shifted."""

TEXT_TOLERANCE = 0.01
"""The most that the embedding of a prompt may be shifted: nothing is drawn for it."""


@dataclass(frozen=True)
class Shift:
    """How far one image's embedding is from the one drawn again: their L2 distance, divided by the
    L2 norm of the latter, so that whoever stated the former has no hand in the unit."""

    prompt: str
    seed: int
    shift: float


@dataclass(frozen=True)
class Comparison:
    """``images`` in the order in which they were drawn; ``text`` is the largest shift of a prompt.

    Images that one model draws of one prompt and seed on other machines, in other batches or
    precisions, differ a little; those of another model differ a lot. docs/registry.md has the
    figures on which the tolerances rest.
    """

    images: tuple[Shift, ...]
    text: float

    @property
    def mean(self) -> float:
        """The mean shift of the images."""
        return sum(image.shift for image in self.images) / len(self.images)

    @property
    def worst(self) -> Shift:
        """The image that is shifted most."""
        return max(self.images, key=lambda image: image.shift)

    @property
    def agrees(self) -> bool:
        """Whether all tolerances are kept."""
        return (
            self.mean <= MEAN_TOLERANCE
            and self.worst.shift <= ROW_TOLERANCE
            and self.text <= TEXT_TOLERANCE
        )


def compare(stated: Spec, drawn: Spec) -> Comparison:
    """Compare the images of ``drawn`` with those that ``stated`` has of the same prompts and seeds.

    Raises IncomparableSpecsError for two encoders, or where ``stated`` has no such images.
    """
    theirs, ours = stated.manifest, drawn.manifest
    if theirs.encoder.id != ours.encoder.id:
        raise IncomparableSpecsError(
            f"images seen by {ours.encoder.name} ({ours.encoder.id}) say nothing of a "
            f"specification made with {theirs.encoder.name} ({theirs.encoder.id})",
            hint="load the encoder that the specification names",
        )
    rows = _rows(stated)
    images: list[Shift] = []
    text = 0.0
    for (prompt, seed), row in _rows(drawn).items():
        if (prompt, seed) not in rows:
            raise IncomparableSpecsError(
                f"the specification has no image of {prompt!r} with seed {seed}"
            )
        other = rows[prompt, seed]
        images.append(
            Shift(prompt, seed, _shift(stated.image_embeddings[other], drawn.image_embeddings[row]))
        )
        said = stated.prompt_embeddings[stated.image_prompt[other]]
        text = max(text, _shift(said, drawn.prompt_embeddings[drawn.image_prompt[row]]))
    return Comparison(tuple(images), text)


def _rows(spec: Spec) -> dict[tuple[str, int], int]:
    """The row of each prompt's image with each seed; of a prompt in two sets that of the first."""
    manifest = spec.manifest
    prompts = [prompt for block in manifest.prompt_sets for prompt in block.prompts]
    seeds = manifest.generation.recipe.seeds
    seen = [0] * len(prompts)
    found: dict[tuple[str, int], int] = {}
    for row, prompt in enumerate(spec.image_prompt.tolist()):
        found.setdefault((prompts[prompt], seeds[seen[prompt]]), row)
        seen[prompt] += 1
    return found


def _shift(stated: npt.NDArray[np.float16], drawn: npt.NDArray[np.float16]) -> float:
    a, b = stated.astype(np.float64), drawn.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
