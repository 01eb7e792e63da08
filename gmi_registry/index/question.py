"""What may be asked of the catalogue: by images, by a text, or by a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import IncomparableSpecsError, InputError
from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.selection import as_rows
from gmi_registry.index.stack import Estimator, Stack
from gmi_registry.scoring import DEFAULT_SCORE, SCORES, Query, Score
from gmi_registry.scoring.coarse import settled
from gmi_registry.scoring.confidence import confidences
from gmi_registry.scoring.contrast import contrasted, innocence
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.kinship import content_means, model_distances, shared_contributions
from gmi_registry.scoring.ranking import best_prompts
from gmi_registry.scoring.whitened import whitened_means
from gmi_registry.scoring.wording import (
    text_contributions,
    text_distances,
    worded_distances,
)
from gmi_registry.spec import ModelRef

__all__ = ["ImageQuestion", "ModelQuestion", "Question", "TextQuestion", "Wording"]

PromptValues = Sequence[tuple[int, float]]
"""Prompts by their index, each with what it adds; the nearest first."""


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

    def distances(self, stack: Stack, rows: Sequence[int], *, nearest: int | None = None) -> Floats:
        """Of the members at ``rows`` [R]: [R]. Raises IncomparableSpecsError where widths differ.

        With ``nearest`` only so many of the least have to be right; the others may be estimates
        that are no less than these.
        """
        ...

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        """From the distances [R] of all members that are compared, the chance of each; None where
        these distances speak of none."""
        ...

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        """For each of ``rows``, the ``count`` prompts that bring the member nearest."""
        ...


@dataclass(frozen=True, eq=False)
class Wording:
    """Words for how images should look: ``embedding`` [E] is T(text), raw, and ``logit_scale`` the
    encoder's, which says how much a cosine to a text counts."""

    embedding: Floats
    logit_scale: float


@dataclass(frozen=True, eq=False)
class ImageQuestion:
    """Which models make images like those of ``query``, and unlike those of ``unwanted``?

    ``unwanted`` and ``style`` are for the default score alone: only its distances speak of chances,
    in which pictures against and words can be weighed. Raises InputError for them elsewhere.
    """

    query: Query
    score: Score
    unwanted: Query | None = None
    style: Wording | None = None

    def __post_init__(self) -> None:
        if not (self._speaks_of_chances or (self.style is None and self.unwanted is None)):
            raise InputError(
                "unwanted images, and words for the style, go with the default score alone",
                hint="leave them out, or the score",
            )

    @property
    def _speaks_of_chances(self) -> bool:
        return self.score is SCORES[DEFAULT_SCORE]

    @property
    def encoder_id(self) -> str:
        return self.query.encoder_id

    @property
    def about(self) -> ModelRef | None:
        return None

    def distances(self, stack: Stack, rows: Sequence[int], *, nearest: int | None = None) -> Floats:
        _check_lengths(stack, self.query)
        if nearest is not None and self._may_be_estimated:
            estimator = stack.estimator
            if estimator is not None:
                return self._settled(estimator, stack, rows, nearest)
        distances = self._of(self.query, stack, rows)
        images = len(self.query.image_embeddings)
        if self.unwanted is not None:
            _check_lengths(stack, self.unwanted)
            # All members are suspects, whatever a filter leaves, so that a filter changes nothing.
            everybody = range(len(stack.names))
            suspects = [self._of(each, stack, everybody) for each in self.unwanted.each()]
            innocent = innocence(np.stack(suspects), temperature=stack.temperature)
            chosen = innocent[as_rows(rows)]
            distances = contrasted(distances, chosen, images, temperature=stack.temperature)
        if self.style is not None:
            distances = worded_distances(
                distances,
                TextQuestion(self.style.embedding, self.encoder_id).distances(stack, rows),
                images,
                temperature=stack.temperature,
                logit_scale=self.style.logit_scale,
            )
        return distances

    @property
    def _may_be_estimated(self) -> bool:
        return self._speaks_of_chances and self.unwanted is None and self.style is None

    def _settled(
        self, estimator: Estimator, stack: Stack, rows: Sequence[int], nearest: int
    ) -> Floats:
        """Estimates without the prompt, and distances with it of those that matter."""
        images, concentration = self.query.image_embeddings, 1 / len(stack.image_prompt)
        members = as_rows(rows)

        def exact(chosen: NDArray[np.intp]) -> Floats:
            few = members[chosen].tolist()
            if self.query.has_prompts:
                return self.score(stack.candidates(few), self.query)
            return estimator.distances(few, images, concentration)

        return settled(estimator.estimates(rows, images, concentration), exact, nearest)

    def _of(self, query: Query, stack: Stack, rows: Sequence[int]) -> Floats:
        if not self._speaks_of_chances or query.has_prompts:
            return self.score(stack.candidates(rows), query)
        chosen = None if len(rows) == len(stack.names) else as_rows(rows)
        means, places = whitened_means(stack.means, stack.scatter, chosen)
        concentration = 1 / len(stack.image_prompt)
        return np.asarray(
            means.distances(query.image_embeddings, concentration, places).mean(axis=0)
        )

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        if not self._speaks_of_chances:
            return None
        images = len(self.query.image_embeddings)
        return confidences(distances, images, temperature=stack.temperature)

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        weights = self.query.weights(stack.prompt_embeddings, stack.image_prompt)
        return [
            best_prompts(
                images,
                weights,
                self.query.image_embeddings,
                stack.image_prompt,
                len(stack.prompt_embeddings),
                stack.key.gamma,
                count=count,
            )
            for images in stack.images(rows)
        ]


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

    def distances(self, stack: Stack, rows: Sequence[int], *, nearest: int | None = None) -> Floats:
        arrays = {"images": stack.means, "prompts": stack.prompt_embeddings}
        for what, array in arrays.items():
            if array.shape[-1] != len(self.embedding):
                raise IncomparableSpecsError(
                    f"{stack.entries[0].encoder} has no common space for images and texts: the "
                    f"text has {len(self.embedding)} values, {what} have {array.shape[-1]}",
                    hint="search with an image",
                )
        return text_distances(
            stack.images(rows),
            stack.prompt_embeddings,
            stack.image_prompt,
            self.embedding,
        )

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

    def distances(self, stack: Stack, rows: Sequence[int], *, nearest: int | None = None) -> Floats:
        images = self.exemplar.image_embeddings
        _check_width("image", stack.means, images, self.encoder_id)
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


def _identity(name: str) -> str:
    return str(ModelRef.parse(name).identity)


def _largest(values: Floats, count: int) -> PromptValues:
    order = np.argsort(-values, kind="stable")[:count]
    return [(int(prompt), float(values[prompt])) for prompt in order]


def _check_lengths(stack: Stack, query: Query) -> None:
    _check_width("image", stack.means, query.image_embeddings, query.encoder_id)
    if query.prompt_embeddings is not None:
        _check_width("prompt", stack.prompt_embeddings, query.prompt_embeddings, query.encoder_id)


def _check_width(what: str, ours: Floats, theirs: Floats, encoder_id: str) -> None:
    if ours.shape[-1] != theirs.shape[-1]:
        raise IncomparableSpecsError(
            f"the query's {what} embeddings have {theirs.shape[-1]} values, those of the "
            f"specifications {ours.shape[-1]}, though both name encoder {encoder_id[:8]}",
            hint="encode the query again with the encoder that the specifications name",
        )
