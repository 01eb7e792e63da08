"""What may be asked by words: which models make images of these?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from gmi_registry.errors import IncomparableSpecsError, InputError
from gmi_registry.index.question import Near, PromptReader, PromptValues, largest, weighing
from gmi_registry.index.reading import by_portions, near_by_means
from gmi_registry.index.stack import Stack
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.text import mean_text_distances, text_contributions, text_distances
from gmi_registry.spec import ModelRef

__all__ = ["TextQuestion", "check_common_space"]


@dataclass(frozen=True, eq=False)
class TextQuestion:
    """Which models make images of these words? ``embedding`` [E] is T(text), raw; ``prompts``
    embeds the prompts of a group, which images count by.

    Raises InputError where the embedding is no vector of finite numbers.
    """

    embedding: Floats
    encoder_id: str
    prompts: PromptReader | None = None

    def __post_init__(self) -> None:
        if self.embedding.ndim != 1 or not np.isfinite(self.embedding).all():
            raise InputError(
                f"the text's embedding, of shape {self.embedding.shape}, is no vector of numbers"
            )

    @property
    def about(self) -> ModelRef | None:
        return None

    def distances(self, stack: Stack, rows: Sequence[int]) -> Floats:
        check_common_space(stack, self.embedding)
        return by_portions(stack, rows, partial(self._measured, stack))

    def _measured(self, stack: Stack, rows: Sequence[int]) -> Floats:
        images = stack.images(rows)
        parts = weighing(stack, rows, self.prompts)
        found = [
            text_distances(images[places], prompts, stack.image_prompt, self.embedding)
            for prompts, places in parts
        ]
        out = np.empty(len(images), np.result_type(*found))
        for (_, places), distances in zip(parts, found, strict=True):
            out[places] = distances
        return out

    def near(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        check_common_space(stack, self.embedding)
        distances = partial(self.distances, stack)
        each = partial(mean_text_distances, text_embedding=self.embedding)
        return near_by_means(stack, rows, count, distances, each)

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        return None

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        images = stack.images(rows)
        named: list[PromptValues] = [()] * len(images)
        for prompts, places in weighing(stack, rows, self.prompts):
            for place in places.tolist():
                added = text_contributions(
                    images[place], prompts, stack.image_prompt, self.embedding
                )
                named[place] = largest(added, count)
        return named

    def faults(self, stack: Stack, rows: Sequence[int]) -> Sequence[str | None]:
        # Cosines alone are compared: lengths count for nothing.
        return [None] * len(rows)


def check_common_space(stack: Stack, text_embedding: Floats) -> None:
    """Raises IncomparableSpecsError where texts [E] and images are of different widths."""
    widths = {"images": stack.image_dim, "prompts": stack.text_dim}
    for what, width in widths.items():
        if width != len(text_embedding):
            raise IncomparableSpecsError(
                f"{stack.entries[0].encoder} has no common space for images and texts: the "
                f"text has {len(text_embedding)} values, {what} have {width}",
                hint="search with an image",
            )
