"""What may be asked of the catalogue, and what all ways to ask share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import IncomparableSpecsError
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.stack import Stack
from gmi_registry.scoring.kernels import Floats
from gmi_registry.spec import ModelRef

__all__ = [
    "Near",
    "PromptReader",
    "PromptValues",
    "Question",
    "check_width",
    "largest",
    "weighing",
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


PromptReader = Callable[[ComparabilityKey, tuple[str, ...]], Floats]
"""The reader's own embeddings [P, E] of the prompts of a group, by the encoder that the group's
key names. Raises IncomparableSpecsError where the reader has another encoder."""

Weighed = tuple[Floats, NDArray[np.intp]]
"""Prompt embeddings [P, E], and the places of the members that are weighed by them."""


def weighing(stack: Stack, rows: Sequence[int], reader: PromptReader | None) -> Sequence[Weighed]:
    """The prompt embeddings by which the members at ``rows`` are weighed: the reader's own for all
    of them, or, without a ``reader``, for each those that come with it."""
    if reader is None:
        return stack.prompts_held(rows)
    return [(reader(stack.key, stack.prompts), np.arange(len(rows)))]


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

    def faults(self, stack: Stack, rows: Sequence[int]) -> Sequence[str | None]:
        """For each of ``rows`` [R], why its arrays cannot be embeddings by the question's encoder;
        None where the question has nothing to tell it by."""
        ...


def largest(values: Floats, count: int) -> PromptValues:
    """The ``count`` prompts with the largest of ``values`` [P]."""
    order = np.argsort(-values, kind="stable")[:count]
    return [(int(prompt), float(values[prompt])) for prompt in order]


def check_width(what: str, width: int, theirs: Floats, encoder_id: str) -> None:
    if width != theirs.shape[-1]:
        raise IncomparableSpecsError(
            f"the query's {what} embeddings have {theirs.shape[-1]} values, those of the "
            f"specifications {width}, though both name encoder {encoder_id[:8]}",
            hint="encode the query again with the encoder that the specifications name",
        )
