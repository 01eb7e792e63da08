"""What may be asked by images: which models make such?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.index.question import (
    Near,
    PromptReader,
    PromptValues,
    check_width,
    weighing,
)
from gmi_registry.index.reading import by_portions, near_by_means
from gmi_registry.index.selection import as_rows
from gmi_registry.index.stack import Stack
from gmi_registry.index.text_question import TextQuestion, check_common_space
from gmi_registry.scoring import DEFAULT_SCORE, KERNEL_SCORES, SCORES, Query, Score
from gmi_registry.scoring.confidence import (
    TailMass,
    confidences,
    distances_with_unwanted,
    log_innocence,
)
from gmi_registry.scoring.default import whitened_means
from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.ranking import best_prompts
from gmi_registry.scoring.refine import (
    CLOSE,
    LOOSE,
    estimates_of,
    log_kernels,
    refine,
    refine_by_line,
    refines_all,
)
from gmi_registry.scoring.repeats import repeat_groups
from gmi_registry.scoring.text import distances_with_text, mean_text_distances
from gmi_registry.spec import ModelRef

__all__ = ["ImageQuestion", "Wording"]

_HOPELESS = 60.0
"""Of a chance e⁻⁶⁰ that of the nearest model nothing is left in double precision, nor of a million
such."""
_TIMES_AS_LONG = 8.0
"""What one encoder gives for images differs in length by a factor of two or three."""
_FAINT = 7.0
"""With e⁻⁷ of the chance of the nearest nobody is much suspected, but by many of the kind."""
_MOST_SUSPECTS = 4096
_MORE = 4
"""Times as many models are asked for where all that were had to be measured."""


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
    in which pictures against and words can be weighed. ``prompts`` embeds the prompts of a group
    where those of the query count. Raises InputError for parts that do not go together.
    """

    query: Query
    score: Score
    unwanted: Query | None = None
    style: Wording | None = None
    prompts: PromptReader | None = None

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

    def distances(self, stack: Stack, rows: Sequence[int]) -> Floats:
        _check_lengths(stack, self.query)
        distances = self._of(self.query, stack, rows)
        images = len(self.query.image_embeddings)
        if self.unwanted is not None:
            _check_lengths(stack, self.unwanted)
            # All members are suspects, whatever a filter leaves, so that a filter changes nothing.
            everybody = range(len(stack.names))
            suspects = [self._of(each, stack, everybody) for each in self.unwanted.each()]
            innocent = log_innocence(
                np.stack(suspects),
                temperature=stack.temperature,
                repeats=_repeats(stack, np.stack(suspects)),
            )
            chosen = innocent[as_rows(rows)]
            distances = distances_with_unwanted(
                distances, chosen, images, temperature=stack.temperature
            )
        if self.style is not None:
            texts = TextQuestion(self.style.embedding, self.encoder_id, self.prompts).distances(
                stack, rows
            )
            distances = self._worded(stack, self.style, distances, texts)
        return distances

    def _worded(self, stack: Stack, style: Wording, distances: Floats, texts: Floats) -> Floats:
        return distances_with_text(
            distances,
            texts,
            len(self.query.image_embeddings),
            temperature=stack.temperature,
            logit_scale=style.logit_scale,
        )

    def near(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        _check_lengths(stack, self.query)
        if self._may_be_estimated:
            return self._settled(stack, rows, count)
        if self.score in KERNEL_SCORES:
            images, gamma = self.query.image_embeddings, stack.key.gamma
            each = partial(log_kernels, query_images=images, gamma=gamma)
            distances = partial(self.distances, stack)
            return near_by_means(stack, rows, count, distances, each, estimates_of)
        if self.unwanted is None and self.style is not None:
            check_common_space(stack, self.style.embedding)
            return self._near_by_words(stack, rows, count, self.style)
        return Near.everything(self.distances(stack, rows))

    def _near_by_words(self, stack: Stack, rows: Sequence[int], count: int, style: Wording) -> Near:
        """Means say how near images are, with and without the words, and so for whom images have to
        be read."""
        if stack.estimator is None or refines_all(len(rows), count):
            return Near.everything(self.distances(stack, rows))
        each = partial(mean_text_distances, text_embedding=style.embedding)
        texts = stack.estimator.of_means(rows, each)
        estimates = self._worded(stack, style, self._by_means(self.query, stack, rows), texts)
        members = as_rows(rows)
        found = refine_by_line(
            estimates, lambda some: self.distances(stack, members[some].tolist()), count
        )
        limit = float(np.partition(found.distances, count - 1)[count - 1])
        alone, spread = np.ones(len(found.others)), np.full(len(found.others), found.off)
        left = TailMass(alone, found.others, spread, limit)
        beyond = left.distances(len(self.query.image_embeddings) / (2 * stack.temperature))
        return Near(found.places, found.distances, beyond)

    @property
    def _may_be_estimated(self) -> bool:
        return self._speaks_of_chances and self.unwanted is None and self.style is None

    def _settled(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        """Means without the prompt, those that matter where they are many; with the prompt, for
        which images have to be read, those of them that matter."""
        estimator, prompted = stack.estimator, self.query.has_prompts
        images, concentration = self.query.image_embeddings, 1 / len(stack.image_prompt)
        members = as_rows(rows)
        everybody = np.arange(len(members))

        def measured(places: NDArray[np.intp]) -> Floats:
            few = members[places].tolist()
            if prompted:
                return self._of(self.query, stack, few)
            assert estimator is not None
            return estimator.distances(few, images, concentration)

        if refines_all(len(members), count) and (prompted or estimator is not None):
            return Near.everything(measured(everybody))
        care = LOOSE if prompted else CLOSE
        if estimator is None:
            estimates = self._by_means(self.query, stack, rows)
            if prompted:
                estimates = refine(estimates, measured, count, care).distances
            return Near.everything(estimates)
        # Without the prompt others are near, so that more of them are wanted.
        wanted = care.models(count) if prompted else count
        while True:
            places, estimates, left = estimator.near(rows, images, concentration, wanted)
            found = refine(estimates, partial(_at, measured, places), count, care)
            # Where estimates say so little that all of some are measured, more may be as near.
            if not found.exhausted or len(places) == len(members):
                break
            wanted *= _MORE
        beyond = left.distances(len(images) / (2 * stack.temperature))
        return Near(places, found.distances, beyond.astype(found.distances.dtype))

    def _of(self, query: Query, stack: Stack, rows: Sequence[int]) -> Floats:
        if not self._speaks_of_chances or query.has_prompts:
            return by_portions(stack, rows, partial(self._scored, query, stack))
        return self._by_means(query, stack, rows)

    def _scored(self, query: Query, stack: Stack, rows: Sequence[int]) -> Floats:
        # The default score compares no images with each other.
        grams = not self._speaks_of_chances
        if not query.has_prompts:
            # Which prompt embeddings they are does not matter: nothing is weighed by them.
            held, _ = stack.prompts_held(rows[:1])[0]
            return self.score(stack.candidates(rows, held, grams=grams), query)
        members, parts = as_rows(rows), weighing(stack, rows, self.prompts)
        found = [
            self.score(stack.candidates(members[places].tolist(), prompts, grams=grams), query)
            for prompts, places in parts
        ]
        out = np.empty(len(members), np.result_type(*found))
        for (_, places), distances in zip(parts, found, strict=True):
            out[places] = distances
        return out

    @staticmethod
    def _by_means(query: Query, stack: Stack, rows: Sequence[int]) -> Floats:
        images, concentration = query.image_embeddings, 1 / len(stack.image_prompt)
        if stack.estimator is not None:
            # It holds the means of so many, and need not have them all in memory.
            return stack.estimator.distances(rows, images, concentration)
        chosen = None if len(rows) == len(stack.names) else as_rows(rows)
        means, places = whitened_means(stack.means, stack.scatter, chosen)
        return np.asarray(means.distances(images, concentration, places).mean(axis=0))

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        if not self._speaks_of_chances:
            return None
        images, temperature = len(self.query.image_embeddings), stack.temperature
        # Of a million models nearly all have none, and need not be asked.
        near = distances <= distances.min(initial=np.inf) + 2 * _HOPELESS * temperature / images
        if near.all() or not near.any():
            return confidences(distances, images, temperature=temperature)
        chances = np.zeros(len(distances), working_dtype(distances))
        chances[near] = confidences(distances[near], images, temperature=temperature)
        return chances

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        weights: list[Floats] = [np.empty(0)] * len(rows)
        reader = self.prompts if self.query.has_prompts else None
        for prompts, places in weighing(stack, rows, reader):
            shared = self.query.weights(prompts, stack.image_prompt)
            for place in places.tolist():
                weights[place] = shared
        return [
            best_prompts(
                images,
                own,
                self.query.image_embeddings,
                stack.image_prompt,
                len(stack.prompts),
                stack.key.gamma,
                count=count,
            )
            for images, own in zip(stack.images(rows), weights, strict=True)
        ]

    def faults(self, stack: Stack, rows: Sequence[int]) -> Sequence[str | None]:
        # By the reader's own images: what members agree on, strangers could agree on.
        own = np.linalg.norm(self.query.image_embeddings.astype(np.float64), axis=1)
        if not own.min() > 0:
            # Of no length is no picture's: somebody asks with numbers.
            return [None] * len(rows)
        least, most = float(own.min()) / _TIMES_AS_LONG, float(own.max()) * _TIMES_AS_LONG
        reasons: list[str | None] = []
        for shortest, longest in stack.row_norms(rows).tolist():
            odd = shortest if shortest < least else longest
            inside = shortest >= least and longest <= most
            reasons.append(
                None
                if inside
                else f"it holds an image embedding of norm {odd:.4g}, where the encoder gives the "
                f"query {own.min():.3g} to {own.max():.3g}: no image has such"
            )
        return reasons


def _repeats(stack: Stack, distances: Floats) -> list[list[int]]:
    """Which of the members that may have made one of some images repeat each other; ``distances``
    [U, M] are those of each image alone."""
    limit = distances.min(axis=1, keepdims=True, initial=np.inf) + 2 * _FAINT * stack.temperature
    suspects = np.flatnonzero((distances <= limit).any(axis=0))
    nearest = distances[:, suspects].min(axis=0, initial=np.inf)
    suspects = suspects[np.argsort(nearest, kind="stable")[:_MOST_SUSPECTS]]
    groups = repeat_groups(*stack.whitened(suspects.tolist()))
    return [suspects[group].tolist() for group in groups if len(group) > 1]


def _at(
    measured: Callable[[NDArray[np.intp]], Floats],
    places: NDArray[np.intp],
    few: NDArray[np.intp],
) -> Floats:
    return measured(places[few])


def _check_lengths(stack: Stack, query: Query) -> None:
    check_width("image", stack.image_dim, query.image_embeddings, query.encoder_id)
    if query.prompt_embeddings is not None:
        check_width("prompt", stack.text_dim, query.prompt_embeddings, query.encoder_id)
