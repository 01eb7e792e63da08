"""What can be asked of an index: images, a text, or a model.

Each query gives the members of a group distances, lower is nearer. Where members are many it first
makes a shortlist by what costs little, and measures exactly what that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import IncomparableSpecsError, InputError
from gmi_registry.index.entry import ComparabilityKey, IndexedSpec
from gmi_registry.index.groups import (
    CONTENT_MODELS,
    ModelGroup,
    as_rows,
    identity_of,
    sampled_by_name,
)
from gmi_registry.scoring import DEFAULT_SCORE, KERNEL_SCORES, SCORES, Query, Score
from gmi_registry.scoring.confidence import (
    TailMass,
    confidences,
    distances_with_unwanted,
    log_innocence,
)
from gmi_registry.scoring.default import whitened_means
from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.model_distance import content_means, model_distances, shared_contributions
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
from gmi_registry.scoring.text import (
    distances_with_text,
    mean_text_distances,
    text_contributions,
    text_distances,
)

if TYPE_CHECKING:
    from gmi_registry.spec import ModelRef

PromptValues = Sequence[tuple[int, float]]
"""Prompts by their index, each with what it adds; the nearest first."""


class Shortlist(NamedTuple):
    """``places`` [n] in the rows that were asked about, in no order, and the ``distances`` [n] of
    these. Only so many of the least have to be right as were asked for; the others may be estimates
    that are no less. ``beyond`` [g] are distances of models that would have the chances of all that
    is left out, which is further away."""

    places: NDArray[np.intp]
    distances: Floats
    beyond: Floats

    @classmethod
    def everything(cls, distances: Floats) -> Shortlist:
        """Nothing is left out of ``distances`` [R]."""
        return cls(np.arange(len(distances)), distances, distances[:0])


PromptReader = Callable[[ComparabilityKey, tuple[str, ...]], Floats]
"""The reader's own embeddings [P, E] of the prompts of a group, by the encoder that the group's
key names. Raises IncomparableSpecsError where the reader has another encoder."""

Weighed = tuple[Floats, NDArray[np.intp]]
"""Prompt embeddings [P, E], and the places of the members that are weighed by them."""


def weighing(
    stack: ModelGroup, rows: Sequence[int], reader: PromptReader | None
) -> Sequence[Weighed]:
    """The prompt embeddings by which the members at ``rows`` are weighed: the reader's own for all
    of them, or, without a ``reader``, for each those that come with it."""
    if reader is None:
        return stack.prompts_held(rows)
    return [(reader(stack.key, stack.prompts), np.arange(len(rows)))]


class IndexQuery(Protocol):
    """Something that gives every model of a group a distance, lower is nearer."""

    @property
    def encoder_id(self) -> str:
        """Specifications of any other encoder are not compared."""
        ...

    @property
    def about(self) -> ModelRef | None:
        """The identity of the model that the question is about, which is then no answer to it."""
        ...

    def distances(self, stack: ModelGroup, rows: Sequence[int]) -> Floats:
        """Of the members at ``rows`` [R]: [R].

        Raises IncomparableSpecsError where widths differ.
        """
        ...

    def near(self, stack: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        """Those of ``rows`` [R] that may be among the ``count`` nearest, R at most. Errors are
        those of :meth:`distances`."""
        ...

    def confidences(self, stack: ModelGroup, distances: Floats) -> Floats | None:
        """From the distances [R] of all members that are compared, the chance of each; None where
        these distances speak of none."""
        ...

    def best_prompts(
        self, stack: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        """For each of ``rows``, the ``count`` prompts that bring the member nearest."""
        ...

    def faults(self, stack: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
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


Distances = Callable[[Sequence[int]], Floats]
"""Of the members at some rows [R]: [R], each by itself."""


def distances_by_portions(stack: ModelGroup, rows: Sequence[int], distances: Distances) -> Floats:
    """``distances`` of the members at ``rows`` [R], asked for as many at a time as should be read
    at once: [R]."""
    portions = stack.portions(rows)
    if len(portions) == 1:
        return distances(rows)
    members = as_rows(rows)
    found = [distances(members[portion].tolist()) for portion in portions]
    out = np.empty(len(members), found[0].dtype)
    for portion, some in zip(portions, found, strict=True):
        out[portion] = some
    return out


def shortlist_by_means(
    stack: ModelGroup,
    rows: Sequence[int],
    count: int,
    distances: Distances,
    each: Callable[[Floats], Floats],
    estimates: Callable[[Floats], Floats] = np.asarray,
) -> Shortlist:
    """Those of ``rows`` [R] that may be among the ``count`` nearest.

    ``each`` says something of raw means, [n, D] to [n], of which ``estimates`` makes what distances
    rise with, [R] to [R]. Where members are few, or their images in memory, it is not asked.
    """
    if refines_all(len(rows), count):
        return Shortlist.everything(distances(rows))
    members, estimator = as_rows(rows), stack.estimator
    if estimator is not None:
        said = estimator.of_means(rows, each)
    elif len(stack.portions(rows)) > 1:
        everything = len(rows) == len(stack.names)
        said = each(stack.means if everything else stack.means[members])
    else:
        return Shortlist.everything(distances(rows))
    found = refine_by_line(estimates(said), lambda some: distances(members[some].tolist()), count)
    return Shortlist(found.places, found.distances, found.distances[:0])


@dataclass(frozen=True, eq=False)
class TextQuery:
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

    def distances(self, stack: ModelGroup, rows: Sequence[int]) -> Floats:
        check_common_space(stack, self.embedding)
        return distances_by_portions(stack, rows, partial(self._measured, stack))

    def _measured(self, stack: ModelGroup, rows: Sequence[int]) -> Floats:
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

    def near(self, stack: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        check_common_space(stack, self.embedding)
        distances = partial(self.distances, stack)
        each = partial(mean_text_distances, text_embedding=self.embedding)
        return shortlist_by_means(stack, rows, count, distances, each)

    def confidences(self, stack: ModelGroup, distances: Floats) -> Floats | None:
        return None

    def best_prompts(
        self, stack: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        images = stack.images(rows)
        named: list[PromptValues] = [()] * len(images)
        for prompts, places in weighing(stack, rows, self.prompts):
            for place in places.tolist():
                added = text_contributions(
                    images[place], prompts, stack.image_prompt, self.embedding
                )
                named[place] = largest(added, count)
        return named

    def faults(self, stack: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
        # Cosines alone are compared: lengths count for nothing.
        return [None] * len(rows)


def check_common_space(stack: ModelGroup, text_embedding: Floats) -> None:
    """Raises IncomparableSpecsError where texts [E] and images are of different widths."""
    widths = {"images": stack.image_dim, "prompts": stack.text_dim}
    for what, width in widths.items():
        if width != len(text_embedding):
            raise IncomparableSpecsError(
                f"{stack.entries[0].encoder} has no common space for images and texts: the "
                f"text has {len(text_embedding)} values, {what} have {width}",
                hint="search with an image",
            )


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
class ImageQuery:
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

    def distances(self, stack: ModelGroup, rows: Sequence[int]) -> Floats:
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
            texts = TextQuery(self.style.embedding, self.encoder_id, self.prompts).distances(
                stack, rows
            )
            distances = self._worded(stack, self.style, distances, texts)
        return distances

    def _worded(
        self, stack: ModelGroup, style: Wording, distances: Floats, texts: Floats
    ) -> Floats:
        return distances_with_text(
            distances,
            texts,
            len(self.query.image_embeddings),
            temperature=stack.temperature,
            logit_scale=style.logit_scale,
        )

    def near(self, stack: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        _check_lengths(stack, self.query)
        if self._may_be_estimated:
            return self._settled(stack, rows, count)
        if self.score in KERNEL_SCORES:
            images, gamma = self.query.image_embeddings, stack.key.gamma
            each = partial(log_kernels, query_images=images, gamma=gamma)
            distances = partial(self.distances, stack)
            return shortlist_by_means(stack, rows, count, distances, each, estimates_of)
        if self.unwanted is None and self.style is not None:
            check_common_space(stack, self.style.embedding)
            return self._near_by_words(stack, rows, count, self.style)
        return Shortlist.everything(self.distances(stack, rows))

    def _near_by_words(
        self, stack: ModelGroup, rows: Sequence[int], count: int, style: Wording
    ) -> Shortlist:
        """Means say how near images are, with and without the words, and so for whom images have to
        be read."""
        if stack.estimator is None or refines_all(len(rows), count):
            return Shortlist.everything(self.distances(stack, rows))
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
        return Shortlist(found.places, found.distances, beyond)

    @property
    def _may_be_estimated(self) -> bool:
        return self._speaks_of_chances and self.unwanted is None and self.style is None

    def _settled(self, stack: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
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

        if (prompted or estimator is not None) and refines_all(len(members), count):
            return Shortlist.everything(measured(everybody))
        care = LOOSE if prompted else CLOSE
        if estimator is None:
            estimates = self._by_means(self.query, stack, rows)
            if prompted:
                estimates = refine(estimates, measured, count, care).distances
            return Shortlist.everything(estimates)
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
        return Shortlist(places, found.distances, beyond.astype(found.distances.dtype))

    def _of(self, query: Query, stack: ModelGroup, rows: Sequence[int]) -> Floats:
        if not self._speaks_of_chances or query.has_prompts:
            return distances_by_portions(stack, rows, partial(self._scored, query, stack))
        return self._by_means(query, stack, rows)

    def _scored(self, query: Query, stack: ModelGroup, rows: Sequence[int]) -> Floats:
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
    def _by_means(query: Query, stack: ModelGroup, rows: Sequence[int]) -> Floats:
        images, concentration = query.image_embeddings, 1 / len(stack.image_prompt)
        if stack.estimator is not None:
            # It holds the means of so many, and need not have them all in memory.
            return stack.estimator.distances(rows, images, concentration)
        chosen = None if len(rows) == len(stack.names) else as_rows(rows)
        means, places = whitened_means(stack.means, stack.scatter, chosen)
        return np.asarray(means.distances(images, concentration, places).mean(axis=0))

    def confidences(self, stack: ModelGroup, distances: Floats) -> Floats | None:
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

    def best_prompts(
        self, stack: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
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

    def faults(self, stack: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
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


def _repeats(stack: ModelGroup, distances: Floats) -> list[list[int]]:
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


def _check_lengths(stack: ModelGroup, query: Query) -> None:
    check_width("image", stack.image_dim, query.image_embeddings, query.encoder_id)
    if query.prompt_embeddings is not None:
        check_width("prompt", stack.text_dim, query.prompt_embeddings, query.encoder_id)


@dataclass(frozen=True, eq=False)
class ModelQuery:
    """Which models draw like ``exemplar``? The exemplar itself is no answer."""

    exemplar: IndexedSpec

    @property
    def encoder_id(self) -> str:
        return self.exemplar.entry.key.encoder_id

    @property
    def about(self) -> ModelRef:
        return self.exemplar.entry.model.identity

    def distances(self, stack: ModelGroup, rows: Sequence[int]) -> Floats:
        self._check_width(stack)
        return self._distances(stack, self._content(stack), rows)

    def near(self, stack: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        self._check_width(stack)
        distances = partial(self._distances, stack, self._content(stack))
        mean = self.exemplar.image_embeddings.mean(axis=0, keepdims=True, dtype=np.float32)
        each = partial(log_kernels, query_images=mean, gamma=stack.key.gamma)
        return shortlist_by_means(stack, rows, count, distances, each, estimates_of)

    def _distances(self, stack: ModelGroup, content: Floats | None, rows: Sequence[int]) -> Floats:
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
        return distances_by_portions(
            stack,
            rows,
            lambda portion: model_distances(stack.images(portion), exemplar, gamma, **shared),
        )

    def _content(self, stack: ModelGroup) -> Floats | None:
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

    def _check_width(self, stack: ModelGroup) -> None:
        images = self.exemplar.image_embeddings
        check_width("image", stack.image_dim, images, self.encoder_id)

    def confidences(self, stack: ModelGroup, distances: Floats) -> Floats | None:
        return None

    def best_prompts(
        self, stack: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
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

    def faults(self, stack: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
        # The exemplar is a stranger's too, and says nothing about others.
        return [None] * len(rows)

    def _shares_prompts(self, stack: ModelGroup) -> bool:
        return stack.key.prompt_set_id == self.exemplar.entry.key.prompt_set_id
