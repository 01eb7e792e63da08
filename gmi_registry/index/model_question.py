"""What may be asked by a model: which others draw like it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.name import identity_of
from gmi_registry.index.question import Near, PromptValues, check_width, largest
from gmi_registry.index.reading import by_portions, near_by_means
from gmi_registry.index.sample import CONTENT_MODELS, sampled_by_name
from gmi_registry.index.stack import Stack
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.model_distance import content_means, model_distances, shared_contributions
from gmi_registry.scoring.refine import estimates_of, log_kernels
from gmi_registry.spec import ModelRef

__all__ = ["ModelQuestion"]


@dataclass(frozen=True, eq=False)
class ModelQuestion:
    """Which models draw like ``exemplar``? The exemplar itself is no answer."""

    exemplar: IndexedSpec

    @property
    def encoder_id(self) -> str:
        return self.exemplar.entry.key.encoder_id

    @property
    def about(self) -> ModelRef:
        return self.exemplar.entry.model.identity

    def distances(self, stack: Stack, rows: Sequence[int]) -> Floats:
        self._check_width(stack)
        return self._distances(stack, self._content(stack), rows)

    def near(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        self._check_width(stack)
        distances = partial(self._distances, stack, self._content(stack))
        mean = self.exemplar.image_embeddings.mean(axis=0, keepdims=True, dtype=np.float32)
        each = partial(log_kernels, query_images=mean, gamma=stack.key.gamma)
        return near_by_means(stack, rows, count, distances, each, estimates_of)

    def _distances(self, stack: Stack, content: Floats | None, rows: Sequence[int]) -> Floats:
        exemplar, gamma = self.exemplar.image_embeddings, stack.key.gamma
        shared: dict[str, Any] = (
            {}
            if content is None
            else {
                "image_prompt": stack.image_prompt,
                "exemplar_prompt": self.exemplar.image_prompt,
                "content": content,
            }
        )
        return by_portions(
            stack,
            rows,
            lambda portion: model_distances(stack.images(portion), exemplar, gamma, **shared),
        )

    def _content(self, stack: Stack) -> Floats | None:
        """What models in general draw for each prompt, [P, D]; None where the exemplar answered
        other prompts.

        Of members whatever a filter leaves, so that a filter changes no distance; but not of the
        exemplar, so that it does not matter whether it is one of them.
        """
        if not self._shares_prompts(stack):
            return None
        itself = str(self.about)
        others = sampled_by_name(
            stack.names, CONTENT_MODELS, lambda name: identity_of(name) == itself
        )
        images = stack.images(others)
        return content_means(images, stack.image_prompt, len(stack.prompts))

    def _check_width(self, stack: Stack) -> None:
        images = self.exemplar.image_embeddings
        check_width("image", stack.image_dim, images, self.encoder_id)

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        return None

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        if not self._shares_prompts(stack):
            return [()] * len(rows)
        return [
            largest(
                shared_contributions(
                    images,
                    stack.image_prompt,
                    self.exemplar.image_embeddings,
                    self.exemplar.image_prompt,
                    len(stack.prompts),
                    stack.key.gamma,
                ),
                count,
            )
            for images in stack.images(rows)
        ]

    def faults(self, stack: Stack, rows: Sequence[int]) -> Sequence[str | None]:
        # The exemplar is a stranger's too, and says nothing about others.
        return [None] * len(rows)

    def _shares_prompts(self, stack: Stack) -> bool:
        return stack.key.prompt_set_id == self.exemplar.entry.key.prompt_set_id
