"""What can be asked of an index: images, a text, or a model.

Each query gives the members of a group distances, lower is nearer. Where members are many it first
makes a shortlist by what costs little, and measures exactly what that leaves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

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
    confidences,
    distances_with_unwanted,
    log_innocence,
    tail_distances,
)
from gmi_registry.scoring.default import whitened_means
from gmi_registry.scoring.kernels import Floats, working_dtype
from gmi_registry.scoring.model_distance import content_means, model_distances, shared_contributions
from gmi_registry.scoring.prefilter import (
    LOOSE,
    Refinement,
    estimates_of,
    log_kernels,
    refine,
    refine_by_line,
    refines_all,
)
from gmi_registry.scoring.query import (
    distances_with_text,
    mean_text_distances,
    text_contributions,
    text_distances,
)
from gmi_registry.scoring.repeats import repeat_groups
from gmi_registry.scoring.scores import best_prompts

if TYPE_CHECKING:
    from gmi_registry.spec import ModelRef

PromptValues = Sequence[tuple[int, float]]
"""Prompts by their index, each with what it adds; the nearest first."""

PromptReader = Callable[[ComparabilityKey, tuple[str, ...]], Floats]
"""The reader's own embeddings [P, E] of the prompts of a group, by the encoder that the group's
key names. Raises IncomparableSpecsError where the reader has another encoder."""

Distances = Callable[[Sequence[int]], Floats]
"""Of the members at some rows [R]: [R], each by itself."""

Weighed = tuple[Floats, NDArray[np.intp]]
"""Prompt embeddings [P, E], and the places of the members that are weighed by them."""

_HOPELESS = 60.0
"""Of a chance e⁻⁶⁰ that of the nearest model nothing is left in double precision, nor of a million
such."""
_TIMES_AS_LONG = 8.0
"""What one encoder gives for images differs in length by a factor of two or three."""
_FAINT = 7.0
"""With e⁻⁷ of the chance of the nearest nobody is much suspected, but by many of the kind."""
_MOST_SUSPECTS = 4096


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

    @classmethod
    def of(cls, found: Refinement, beta: float | None = None) -> Shortlist:
        """Those whose distances are exact. Chances are shares of exp(-``beta`` d) of all, None
        where distances speak of none."""
        beyond = found.distances[:0]
        if beta is not None:
            others = found.distances[~found.exact]
            beyond = tail_distances(others, found.deviation, found.limit, beta)
            beyond = beyond.astype(found.distances.dtype)
        return cls(np.flatnonzero(found.exact), found.distances[found.exact], beyond)


class IndexQuery(ABC):
    """Something that gives every model of a group a distance, lower is nearer."""

    if TYPE_CHECKING:  # a field of one query, worked out by the others

        @property
        def encoder_id(self) -> str:
            """Specifications of any other encoder are not compared."""

    @property
    def about(self) -> ModelRef | None:
        """The identity of the model that the query is about, which is then no answer to it."""
        return None

    @abstractmethod
    def distances(self, group: ModelGroup, rows: Sequence[int]) -> Floats:
        """Of the members at ``rows`` [R]: [R].

        Raises IncomparableSpecsError where widths differ.
        """

    @abstractmethod
    def shortlist(self, group: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        """Those of ``rows`` [R] that may be among the ``count`` nearest, R at most. Errors are
        those of :meth:`distances`."""

    def confidences(self, group: ModelGroup, distances: Floats) -> Floats | None:
        """From the distances [R] of all members that are compared, the chance of each; None where
        these distances speak of none."""
        return None

    @abstractmethod
    def best_prompts(
        self, group: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        """For each of ``rows``, the ``count`` prompts that bring the member nearest."""

    def faults(self, group: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
        """For each of ``rows`` [R], why its arrays cannot be embeddings by the query's encoder;
        None where the query has nothing to tell it by."""
        return [None] * len(rows)


def distances_by_portions(group: ModelGroup, rows: Sequence[int], distances: Distances) -> Floats:
    """``distances`` of the members at ``rows`` [R], asked for as many at a time as should be read
    at once: [R]."""
    portions = group.portions(rows)
    if len(portions) == 1:
        return distances(rows)
    members = as_rows(rows)
    return _put_together(
        len(members), ((distances(members[places].tolist()), places) for places in portions)
    )


def shortlist_by_means(
    group: ModelGroup,
    rows: Sequence[int],
    count: int,
    distances: Distances,
    of_means: Callable[[Floats], Floats],
    estimates: Callable[[Floats], Floats] = np.asarray,
) -> Shortlist:
    """Those of ``rows`` [R] that may be among the ``count`` nearest.

    ``of_means`` gives a number for each raw mean, [n, D] to [n], of which ``estimates`` makes what
    distances rise with, [R] to [R]. Where members are few, or their images in memory, it is not
    asked.
    """
    if refines_all(len(rows), count):
        return Shortlist.everything(distances(rows))
    members, estimator = as_rows(rows), group.estimator
    if estimator is not None:
        numbers = estimator.of_means(rows, of_means)
    elif len(group.portions(rows)) > 1:
        everything = len(rows) == len(group.names)
        numbers = of_means(group.means if everything else group.means[members])
    else:
        return Shortlist.everything(distances(rows))
    found = refine_by_line(
        estimates(numbers), lambda some: distances(members[some].tolist()), count
    )
    return Shortlist.of(found)


def _weighing(
    group: ModelGroup, rows: Sequence[int], reader: PromptReader | None
) -> Sequence[Weighed]:
    """The prompt embeddings by which the members at ``rows`` are weighed: the reader's own for all
    of them, or, without a ``reader``, for each those that come with it."""
    if reader is None:
        return group.prompts_held(rows)
    return [(reader(group.key, group.prompts), np.arange(len(rows)))]


def _put_together(count: int, parts: Iterable[tuple[Floats, NDArray[np.intp]]]) -> Floats:
    """Distances with the places that they are for, as one array [count]."""
    known = list(parts)
    out = np.empty(count, np.result_type(*(distances for distances, _ in known)))
    for distances, places in known:
        out[places] = distances
    return out


def _largest(values: Floats, count: int) -> PromptValues:
    """The ``count`` prompts with the largest of ``values`` [P]."""
    order = np.argsort(-values, kind="stable")[:count]
    return [(int(prompt), float(values[prompt])) for prompt in order]


def check_width(what: str, width: int, theirs: Floats, encoder_id: str) -> None:
    """Raises IncomparableSpecsError where embeddings ``theirs`` [..., D] of a query are of another
    ``width`` than those of the specifications."""
    if width != theirs.shape[-1]:
        raise IncomparableSpecsError(
            f"the query's {what} embeddings have {theirs.shape[-1]} values, those of the "
            f"specifications {width}, though both name encoder {encoder_id[:8]}",
            hint="encode the query again with the encoder that the specifications name",
        )


def _check_common_space(group: ModelGroup, text_embedding: Floats) -> None:
    """Raises IncomparableSpecsError where texts [E] and images are of different widths."""
    for what, width in {"images": group.image_dim, "prompts": group.text_dim}.items():
        if width != len(text_embedding):
            raise IncomparableSpecsError(
                f"{group.entries[0].encoder} has no common space for images and texts: the "
                f"text has {len(text_embedding)} values, {what} have {width}",
                hint="search with an image",
            )


@dataclass(frozen=True, eq=False)
class TextQuery(IndexQuery):
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
                f"the text's embedding, of shape {self.embedding.shape}, is not a vector of numbers"
            )

    def distances(self, group: ModelGroup, rows: Sequence[int]) -> Floats:
        _check_common_space(group, self.embedding)
        return distances_by_portions(group, rows, partial(self._measured, group))

    def _measured(self, group: ModelGroup, rows: Sequence[int]) -> Floats:
        images = group.images(rows)

        def measured(prompts: Floats, places: NDArray[np.intp]) -> Floats:
            return text_distances(images[places], prompts, group.image_prompt, self.embedding)

        parts = _weighing(group, rows, self.prompts)
        return _put_together(len(images), ((measured(*part), part[1]) for part in parts))

    def shortlist(self, group: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        _check_common_space(group, self.embedding)
        of_means = partial(mean_text_distances, text_embedding=self.embedding)
        return shortlist_by_means(group, rows, count, partial(self.distances, group), of_means)

    def best_prompts(
        self, group: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        images = group.images(rows)
        named: list[PromptValues] = [()] * len(images)
        for prompts, places in _weighing(group, rows, self.prompts):
            for place in places.tolist():
                added = text_contributions(
                    images[place], prompts, group.image_prompt, self.embedding
                )
                named[place] = _largest(added, count)
        return named


@dataclass(frozen=True, eq=False)
class Wording:
    """Words for how images should look: ``embedding`` [E] is T(text), raw, and ``logit_scale`` the
    encoder's, which says how much a cosine to a text counts."""

    embedding: Floats
    logit_scale: float


@dataclass(frozen=True, eq=False)
class ImageQuery(IndexQuery):
    """Which models make images like these, and unlike those of ``unwanted``?

    ``images`` are embedded, with their pseudo-prompts. ``unwanted`` and ``style`` are for the
    default score alone: only its distances speak of chances, in which pictures against and words
    can be weighed. ``prompts`` embeds the prompts of a group where those of the images count.
    Raises InputError for parts that do not go together.
    """

    images: Query
    score: Score
    unwanted: Query | None = None
    style: Wording | None = None
    prompts: PromptReader | None = None

    def __post_init__(self) -> None:
        if not (self._speaks_of_chances or (self.style is None and self.unwanted is None)):
            raise InputError(
                "unwanted images, and words for the style, need the default score",
                hint="leave them out, or the score",
            )

    @property
    def _speaks_of_chances(self) -> bool:
        return self.score is SCORES[DEFAULT_SCORE]

    @property
    def encoder_id(self) -> str:
        return self.images.encoder_id

    def distances(self, group: ModelGroup, rows: Sequence[int]) -> Floats:
        _check_widths(group, self.images)
        distances = self._distances_to(self.images, group, rows)
        if self.unwanted is not None:
            distances = self._with_unwanted(self.unwanted, group, rows, distances)
        if self.style is not None:
            text = TextQuery(self.style.embedding, self.encoder_id, self.prompts)
            distances = self._with_style(self.style, group, distances, text.distances(group, rows))
        return distances

    def _with_unwanted(
        self, unwanted: Query, group: ModelGroup, rows: Sequence[int], distances: Floats
    ) -> Floats:
        _check_widths(group, unwanted)
        # All members are suspects, whatever a filter leaves, so that a filter changes nothing.
        everybody = range(len(group.names))
        suspects = [self._distances_to(each, group, everybody) for each in unwanted.each()]
        innocent = log_innocence(
            np.stack(suspects),
            temperature=group.temperature,
            repeats=_repeats(group, np.stack(suspects)),
        )
        return distances_with_unwanted(
            distances,
            innocent[as_rows(rows)],
            len(self.images.image_embeddings),
            temperature=group.temperature,
        )

    def _with_style(
        self, style: Wording, group: ModelGroup, distances: Floats, texts: Floats
    ) -> Floats:
        return distances_with_text(
            distances,
            texts,
            len(self.images.image_embeddings),
            temperature=group.temperature,
            logit_scale=style.logit_scale,
        )

    def shortlist(self, group: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        _check_widths(group, self.images)
        if self.score in KERNEL_SCORES:
            of_means = partial(
                log_kernels, query_images=self.images.image_embeddings, gamma=group.key.gamma
            )
            distances = partial(self.distances, group)
            return shortlist_by_means(group, rows, count, distances, of_means, estimates_of)
        if not self._speaks_of_chances or self.unwanted is not None:
            return Shortlist.everything(self.distances(group, rows))
        if self.style is not None:
            _check_common_space(group, self.style.embedding)
            return self._shortlist_with_style(self.style, group, rows, count)
        return self._shortlist_by_estimates(group, rows, count)

    def _shortlist_with_style(
        self, style: Wording, group: ModelGroup, rows: Sequence[int], count: int
    ) -> Shortlist:
        """Means say how near images are, with and without the words, and so for whom images have to
        be read."""
        if group.estimator is None or refines_all(len(rows), count):
            return Shortlist.everything(self.distances(group, rows))
        texts = group.estimator.of_means(
            rows, partial(mean_text_distances, text_embedding=style.embedding)
        )
        by_means = self._distances_of_means(self.images, group, rows)
        estimates = self._with_style(style, group, by_means, texts)
        members = as_rows(rows)
        found = refine_by_line(
            estimates, lambda some: self.distances(group, members[some].tolist()), count
        )
        return Shortlist.of(found, self._beta(group))

    def _beta(self, group: ModelGroup) -> float:
        """What distances are multiplied with where chances are given out."""
        return len(self.images.image_embeddings) / (2 * group.temperature)

    def _shortlist_by_estimates(
        self, group: ModelGroup, rows: Sequence[int], count: int
    ) -> Shortlist:
        """Means without the prompt, those that matter where they are many; with the prompt, for
        which images have to be read, those of them that matter."""
        members, prompted = as_rows(rows), self.images.has_prompts

        def measured(places: NDArray[np.intp]) -> Floats:
            return self._distances_to(self.images, group, members[places].tolist())

        if prompted and refines_all(len(members), count):
            return Shortlist.everything(measured(np.arange(len(members))))
        if group.estimator is None:
            estimates = self._distances_of_means(self.images, group, rows)
            if not prompted:
                return Shortlist.everything(estimates)
        else:
            # Without the prompt others are near, so that more of them are wanted.
            wanted = LOOSE.models(count) if prompted else count
            images, concentration = self.images.image_embeddings, 1 / len(group.image_prompt)
            found = group.estimator.near(rows, images, concentration, wanted)
            estimates = found.distances
        if prompted:
            found = refine(estimates, measured, count, LOOSE)
        return Shortlist.of(found, self._beta(group))

    def _distances_to(self, images: Query, group: ModelGroup, rows: Sequence[int]) -> Floats:
        if not self._speaks_of_chances or images.has_prompts:
            return distances_by_portions(group, rows, partial(self._scored, images, group))
        return self._distances_of_means(images, group, rows)

    def _scored(self, images: Query, group: ModelGroup, rows: Sequence[int]) -> Floats:
        # The default score compares no images with each other.
        grams = not self._speaks_of_chances
        if not images.has_prompts:
            # Which prompt embeddings they are does not matter: nothing is weighed by them.
            held, _ = group.prompts_held(rows[:1])[0]
            return self.score(group.candidates(rows, held, grams=grams), images)
        members = as_rows(rows)

        def scored(prompts: Floats, places: NDArray[np.intp]) -> Floats:
            some = members[places].tolist()
            return self.score(group.candidates(some, prompts, grams=grams), images)

        parts = _weighing(group, rows, self.prompts)
        return _put_together(len(members), ((scored(*part), part[1]) for part in parts))

    @staticmethod
    def _distances_of_means(images: Query, group: ModelGroup, rows: Sequence[int]) -> Floats:
        embeddings, concentration = images.image_embeddings, 1 / len(group.image_prompt)
        if group.estimator is not None:
            # It holds the means of so many, and need not have them all in memory.
            return group.estimator.distances(rows, embeddings, concentration)
        chosen = None if len(rows) == len(group.names) else as_rows(rows)
        means, places = whitened_means(group.means, group.scatter, chosen)
        return np.asarray(means.distances(embeddings, concentration, places).mean(axis=0))

    def confidences(self, group: ModelGroup, distances: Floats) -> Floats | None:
        if not self._speaks_of_chances:
            return None
        images, temperature = len(self.images.image_embeddings), group.temperature
        # Of a million models nearly all have none, and need not be asked.
        near = distances <= distances.min(initial=np.inf) + 2 * _HOPELESS * temperature / images
        if near.all() or not near.any():
            return confidences(distances, images, temperature=temperature)
        chances = np.zeros(len(distances), working_dtype(distances))
        chances[near] = confidences(distances[near], images, temperature=temperature)
        return chances

    def best_prompts(
        self, group: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        weights: list[Floats] = [np.empty(0)] * len(rows)
        reader = self.prompts if self.images.has_prompts else None
        for prompts, places in _weighing(group, rows, reader):
            shared = self.images.weights(prompts, group.image_prompt)
            for place in places.tolist():
                weights[place] = shared
        return [
            best_prompts(
                images,
                own,
                self.images.image_embeddings,
                group.image_prompt,
                len(group.prompts),
                group.key.gamma,
                count=count,
            )
            for images, own in zip(group.images(rows), weights, strict=True)
        ]

    def faults(self, group: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
        # By the reader's own images: what members agree on, strangers could agree on.
        own = np.linalg.norm(self.images.image_embeddings.astype(np.float64), axis=1)
        if not own.min() > 0:
            # Of no length is no picture's: somebody asks with numbers.
            return [None] * len(rows)
        least, most = float(own.min()) / _TIMES_AS_LONG, float(own.max()) * _TIMES_AS_LONG
        reasons: list[str | None] = []
        for shortest, longest in group.row_norms(rows).tolist():
            odd = shortest if shortest < least else longest
            inside = shortest >= least and longest <= most
            reasons.append(
                None
                if inside
                else f"it holds an image embedding of norm {odd:.4g}, and the encoder gives the "
                f"query {own.min():.3g} to {own.max():.3g}: no image has such a norm"
            )
        return reasons


def _repeats(group: ModelGroup, distances: Floats) -> list[list[int]]:
    """Which of the members that may have made one of some images repeat each other; ``distances``
    [U, M] are those of each image alone."""
    limit = distances.min(axis=1, keepdims=True, initial=np.inf) + 2 * _FAINT * group.temperature
    suspects = np.flatnonzero((distances <= limit).any(axis=0))
    nearest = distances[:, suspects].min(axis=0, initial=np.inf)
    suspects = suspects[np.argsort(nearest, kind="stable")[:_MOST_SUSPECTS]]
    alike = repeat_groups(*group.whitened(suspects.tolist()))
    return [suspects[places].tolist() for places in alike if len(places) > 1]


def _check_widths(group: ModelGroup, images: Query) -> None:
    check_width("image", group.image_dim, images.image_embeddings, images.encoder_id)
    if images.prompt_embeddings is not None:
        check_width("prompt", group.text_dim, images.prompt_embeddings, images.encoder_id)


@dataclass(frozen=True, eq=False)
class ModelQuery(IndexQuery):
    """Which models generate images like those of ``exemplar``? The exemplar itself is no answer."""

    exemplar: IndexedSpec

    @property
    def encoder_id(self) -> str:
        return self.exemplar.entry.key.encoder_id

    @property
    def about(self) -> ModelRef:
        return self.exemplar.entry.ref.identity

    def distances(self, group: ModelGroup, rows: Sequence[int]) -> Floats:
        return self._distances(group)(rows)

    def shortlist(self, group: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        mean = self.exemplar.image_embeddings.mean(axis=0, keepdims=True, dtype=np.float32)
        of_means = partial(log_kernels, query_images=mean, gamma=group.key.gamma)
        distances = self._distances(group)
        return shortlist_by_means(group, rows, count, distances, of_means, estimates_of)

    def _distances(self, group: ModelGroup) -> Distances:
        images = self.exemplar.image_embeddings
        check_width("image", group.image_dim, images, self.encoder_id)
        measured = partial(model_distances, exemplar=images, gamma=group.key.gamma)
        if self._shares_prompts(group):
            measured = partial(
                measured,
                image_prompt=group.image_prompt,
                exemplar_prompt=self.exemplar.image_prompt,
                content=self._content(group),
            )
        return lambda rows: distances_by_portions(
            group, rows, lambda portion: measured(group.images(portion))
        )

    def _content(self, group: ModelGroup) -> Floats:
        """What models in general show for each prompt, [P, D].

        Of members whatever a filter leaves, so that a filter changes no distance; but not of the
        exemplar, so that it does not matter whether it is one of them.
        """
        itself = str(self.about)
        others = sampled_by_name(
            group.names, CONTENT_MODELS, lambda name: identity_of(name) == itself
        )
        return content_means(group.images(others), group.image_prompt, len(group.prompts))

    def best_prompts(
        self, group: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        if not self._shares_prompts(group):
            return [()] * len(rows)
        return [
            _largest(
                shared_contributions(
                    images,
                    group.image_prompt,
                    self.exemplar.image_embeddings,
                    self.exemplar.image_prompt,
                    len(group.prompts),
                    group.key.gamma,
                ),
                count,
            )
            for images in group.images(rows)
        ]

    def _shares_prompts(self, group: ModelGroup) -> bool:
        return group.key.prompt_set_id == self.exemplar.entry.key.prompt_set_id
