"""What may be asked of the catalogue, and two ways to ask: by a text, or by a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import IncomparableSpecsError, InputError
from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.selection import as_rows
from gmi_registry.index.stack import Stack
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.kinship import content_means, model_distances, shared_contributions
from gmi_registry.scoring.wording import (
    text_contributions,
    text_distances,
)
from gmi_registry.spec import ModelRef

__all__ = [
    "ModelQuestion",
    "Near",
    "PromptValues",
    "Question",
    "TextQuestion",
    "by_portions",
    "check_width",
]

PromptValues = Sequence[tuple[int, float]]
"""Prompts by their index, each with what it adds; the nearest first."""


class Near(NamedTuple):
    """``places`` [n] in the rows that were asked about, in no order, and the ``distances`` [n] of
    these. Only so many of the least have to be right as were asked for; the others may be estimates
    that are no less. ``beyond`` [g] are distances of models that would have the chances of all that
    is left out, which is further away."""

    places: NDArray[np.intp]
    distances: Floats
    beyond: Floats

    @classmethod
    def everything(cls, distances: Floats) -> Near:
        """Nothing is left out of ``distances`` [R]."""
        return cls(np.arange(len(distances)), distances, distances[:0])


class Question(Protocol):
    """Something that gives every model of a group a distance, lower is nearer."""

    @property
    def encoder_id(self) -> str:
        """Specifications of any other encoder are not compared."""
        ...

    @property
    def about(self) -> ModelRef | None:
        """The identity of the model that the question is about, which is then no answer to it."""
        ...

    def distances(self, stack: Stack, rows: Sequence[int]) -> Floats:
        """Of the members at ``rows`` [R]: [R].

        Raises IncomparableSpecsError where widths differ.
        """
        ...

    def near(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        """Those of ``rows`` [R] that may be among the ``count`` nearest, R at most. Errors are
        those of :meth:`distances`."""
        ...

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        """From the distances [R] of all members that are compared, the chance of each; None where
        these distances speak of none."""
        ...

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        """For each of ``rows``, the ``count`` prompts that bring the member nearest."""
        ...


@dataclass(frozen=True, eq=False)
class TextQuestion:
    """Which models make images of these words? ``embedding`` [E] is T(text), raw.

    Raises InputError where it is no vector of finite numbers.
    """

    embedding: Floats
    encoder_id: str

    def __post_init__(self) -> None:
        if self.embedding.ndim != 1 or not np.isfinite(self.embedding).all():
            raise InputError(
                f"the text's embedding, of shape {self.embedding.shape}, is no vector of numbers"
            )

    @property
    def about(self) -> ModelRef | None:
        return None

    def distances(self, stack: Stack, rows: Sequence[int]) -> Floats:
        widths = {"images": stack.image_dim, "prompts": stack.prompt_embeddings.shape[-1]}
        for what, width in widths.items():
            if width != len(self.embedding):
                raise IncomparableSpecsError(
                    f"{stack.entries[0].encoder} has no common space for images and texts: the "
                    f"text has {len(self.embedding)} values, {what} have {width}",
                    hint="search with an image",
                )
        return by_portions(
            stack,
            rows,
            lambda portion: text_distances(
                stack.images(portion),
                stack.prompt_embeddings,
                stack.image_prompt,
                self.embedding,
            ),
        )

    def near(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        return Near.everything(self.distances(stack, rows))

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        return None

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        return [
            _largest(
                text_contributions(
                    images,
                    stack.prompt_embeddings,
                    stack.image_prompt,
                    self.embedding,
                ),
                count,
            )
            for images in stack.images(rows)
        ]


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
        images = self.exemplar.image_embeddings
        check_width("image", stack.image_dim, images, self.encoder_id)
        candidates = stack.images(rows)
        gamma = stack.key.gamma
        if not self._shares_prompts(stack):
            return model_distances(candidates, images, gamma)
        # All members, whatever a filter leaves of them, so that a filter changes no distance; but
        # not the exemplar, so that it does not matter whether it is one of them.
        itself = str(self.about)
        others = [row for row, name in enumerate(stack.names) if _identity(name) != itself]
        return model_distances(
            candidates,
            images,
            gamma,
            image_prompt=stack.image_prompt,
            exemplar_prompt=self.exemplar.image_prompt,
            content=content_means(
                stack.images(others), stack.image_prompt, len(stack.prompt_embeddings)
            ),
        )

    def near(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        return Near.everything(self.distances(stack, rows))

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        return None

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        if not self._shares_prompts(stack):
            return [()] * len(rows)
        return [
            _largest(
                shared_contributions(
                    images,
                    stack.image_prompt,
                    self.exemplar.image_embeddings,
                    self.exemplar.image_prompt,
                    len(stack.prompt_embeddings),
                    stack.key.gamma,
                ),
                count,
            )
            for images in stack.images(rows)
        ]

    def _shares_prompts(self, stack: Stack) -> bool:
        return stack.key.prompt_set_id == self.exemplar.entry.key.prompt_set_id


def by_portions(
    stack: Stack, rows: Sequence[int], distances: Callable[[Sequence[int]], Floats]
) -> Floats:
    """``distances`` of the members at ``rows`` [R], asked for as many at a time as should be read
    at once: [R]. Each must depend on its own member alone."""
    portions = stack.portions(rows)
    if len(portions) == 1:
        return distances(rows)
    members = as_rows(rows)
    out = np.empty(len(members), np.float32)
    for portion in portions:
        out[portion] = distances(members[portion].tolist())
    return out


def _identity(name: str) -> str:
    return str(ModelRef.parse(name).identity)


def _largest(values: Floats, count: int) -> PromptValues:
    order = np.argsort(-values, kind="stable")[:count]
    return [(int(prompt), float(values[prompt])) for prompt in order]


def check_width(what: str, width: int, theirs: Floats, encoder_id: str) -> None:
    if width != theirs.shape[-1]:
        raise IncomparableSpecsError(
            f"the query's {what} embeddings have {theirs.shape[-1]} values, those of the "
            f"specifications {width}, though both name encoder {encoder_id[:8]}",
            hint="encode the query again with the encoder that the specifications name",
        )
