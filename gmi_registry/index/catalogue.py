"""Many specifications as one thing that can be asked."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Set
from dataclasses import replace

from gmi_registry.errors import GmiError, RateLimitError
from gmi_registry.filters import Filters
from gmi_registry.index.cache import SpecCache
from gmi_registry.index.comparison import answer
from gmi_registry.index.crew import in_order
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.group import Group
from gmi_registry.index.image_question import ImageQuestion
from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.question import Question
from gmi_registry.index.result import Ranking, SkippedSpec
from gmi_registry.index.selection import Selection
from gmi_registry.index.source import SpecSource
from gmi_registry.index.stack import Stack
from gmi_registry.index.standing import UNKNOWN, Standing
from gmi_registry.scoring import DEFAULT_SCORE, Query, Score, score_named
from gmi_registry.spec import ModelRef, Spec

__all__ = ["SpecIndex"]

Progress = Callable[[int, int], None]


class SpecIndex:
    """Specifications in memory, in groups within which distances mean the same.

    A model is known by its reference without the revision, on civitai by its version, and has one
    specification here.
    ``skipped`` lists those that could not be taken in. Not safe for threads that add and rank at
    the same time.
    """

    def __init__(self) -> None:
        self._entries: dict[ModelRef, IndexEntry] = {}
        self._groups: dict[ComparabilityKey, Group] = {}
        self._skipped: list[SkippedSpec] = []
        self._standing: dict[str, Standing] = {}

    @classmethod
    def from_sources(
        cls,
        sources: Iterable[SpecSource],
        *,
        cache: SpecCache | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> SpecIndex:
        """Read every source, out of ``cache`` where it has it.

        ``workers`` threads read at a time, for sources that wait for a network; the models and the
        skipped ones come in the order of the sources all the same. ``progress`` is called with
        (done, all) after each. The sources come in order of trust: a second one for the same model
        is skipped. So is one whose ``load`` raises a GmiError, with its message as the reason.
        After a RateLimitError nothing more is asked for, which would make it worse, and the rest
        is skipped too, as far as the cache does not have it; where no model could be taken in at
        all, that error is raised.
        """
        index = cls()
        waiting = list(sources)
        reader = _Reader(cache)
        outcomes = in_order(reader.read, waiting, workers)
        with contextlib.closing(outcomes):
            for done, (source, outcome) in enumerate(zip(waiting, outcomes, strict=True), 1):
                if isinstance(outcome, SkippedSpec):
                    index._skipped.append(outcome)
                else:
                    index._admit(source, outcome)
                if progress is not None:
                    progress(done, len(waiting))
        if reader.refusal is not None and not len(index):
            raise reader.refusal
        return index

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        """All models, in the order they came in."""
        return tuple(self._entries.values())

    @property
    def skipped(self) -> tuple[SkippedSpec, ...]:
        """Sources that could not be taken in."""
        return tuple(self._skipped)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, spec: Spec) -> None:
        """Take a specification in; an earlier one of the same model gives way."""
        self._put(IndexedSpec.of(spec))

    def remove(self, model: ModelRef) -> None:
        """Forget a model, whatever its revision. Raises KeyError where it is unknown."""
        entry = self._entries.pop(model.identity)
        group = self._groups[entry.key]
        group.remove(entry.model)
        if not len(group):
            del self._groups[entry.key]
        self._standing.pop(str(model.identity), None)

    def mark(self, model: ModelRef, *, stale: bool) -> None:
        """Say whether the weights of a model are others than those that were described."""
        name = str(model.identity)
        self._standing[name] = replace(self.standing(name), stale=stale)

    def rank(
        self,
        query: Query,
        score: str | Score = DEFAULT_SCORE,
        filters: Filters | None = None,
        *,
        unwanted: Query | None = None,
        top: int | None = 10,
        best_prompts: int = 3,
        repeats: bool = False,
    ) -> Ranking:
        """:meth:`answer` to the question by images, by the score of that name.

        The distances of ``unwanted``, images of the same encoder, count against a model. Raises
        InputError for an unknown score.
        """
        score = score_named(score) if isinstance(score, str) else score
        question = ImageQuestion(query, score, unwanted)
        return self.answer(question, filters, top=top, best_prompts=best_prompts, repeats=repeats)

    def answer(
        self,
        question: Question,
        filters: Filters | None = None,
        *,
        top: int | None = 10,
        best_prompts: int = 3,
        repeats: bool = False,
    ) -> Ranking:
        """:func:`~gmi_registry.index.comparison.answer` of all models that pass the filters.

        A model that the question is about is left out, as if it did not pass.
        """
        chosen = self.select(filters or Filters(), question.about)
        return answer(self, chosen, question, top=top, best_prompts=best_prompts, repeats=repeats)

    def select(self, filters: Filters, leave_out: ModelRef | None = None) -> list[Selection]:
        """The models that pass, by groups in the order in which their first models came in."""
        passed: dict[ComparabilityKey, set[ModelRef]] = defaultdict(set)
        for ref, entry in self._entries.items():
            if ref != leave_out and filters.admits(entry.traits(self.standing(str(ref)))):
                passed[entry.key].add(entry.model)
        return [_selection(self._groups[key].stack, models) for key, models in passed.items()]

    def base_models(self) -> set[str]:
        """What base models are called."""
        return {name for entry in self._entries.values() for name in entry.base_models}

    def standing(self, name: str) -> Standing:
        """What is known of the specification of the model whose identity has that name."""
        return self._standing.get(name, UNKNOWN)

    def _admit(self, source: SpecSource, indexed: IndexedSpec) -> None:
        if source.model.identity in self._entries:
            earlier = self._entries[source.model.identity]
            if earlier.digest != indexed.entry.digest:
                reason = f"the model is indexed already, with specification {earlier.digest[:12]}"
                self._skipped.append(SkippedSpec(source.model, reason))
            return
        entry, described = indexed.entry, indexed.entry.model.identity
        if described != source.model.identity and not source.checked:
            reason = f"the specification describes {described}"
            self._skipped.append(SkippedSpec(source.model, reason))
            return
        # The hub knows the model of today, the manifest the one of the day it was described.
        if source.model.revision is not None or described != source.model.identity:
            entry = entry.found_at(source.model, source.url)
        entry = replace(entry, hub_tags=source.hub_tags)
        if source.downloads is not None:
            entry = replace(entry, downloads=source.downloads)
        if source.nsfw is not None:
            entry = replace(entry, nsfw=source.nsfw)
        self._put(replace(indexed, entry=entry))
        self._standing[str(entry.model.identity)] = source.standing

    def _put(self, indexed: IndexedSpec) -> None:
        entry = indexed.entry
        if entry.model.identity in self._entries:
            self.remove(entry.model)
        self._entries[entry.model.identity] = entry
        self._groups.setdefault(entry.key, Group(entry.key)).add(indexed)


class _Reader:
    """Reads sources, in any number of threads. ``refusal`` is the hub's first RateLimitError."""

    def __init__(self, cache: SpecCache | None) -> None:
        self._cache = cache
        self.refusal: RateLimitError | None = None

    def read(self, source: SpecSource) -> IndexedSpec | SkippedSpec:
        """From the cache where it can be, else read and kept there."""
        known = self._known(source)
        # Whether a model of another name is this one, only its source can say.
        if known is not None and known.entry.model.identity == source.model.identity:
            return known
        if self.refusal is not None:
            return SkippedSpec(source.model, f"not read any more: {self.refusal.message}")
        try:
            spec = source.load()
        except RateLimitError as error:
            self.refusal = self.refusal or error
            return SkippedSpec(source.model, error.message)
        except GmiError as error:
            return SkippedSpec(source.model, error.message)
        if source.digest is not None and spec.digest != source.digest:
            reason = (
                f"the hub promised specification {source.digest[:12]}, served {spec.digest[:12]}"
            )
            return SkippedSpec(source.model, reason)
        indexed = IndexedSpec.of(spec)
        if self._cache is not None:
            self._cache.put(indexed)
            if source.stamp is not None:
                self._cache.remember(source.stamp, spec.digest)
        return indexed

    def _known(self, source: SpecSource) -> IndexedSpec | None:
        if self._cache is None:
            return None
        digest = source.digest
        if digest is None and source.stamp is not None:
            digest = self._cache.digest_for(source.stamp)
        return None if digest is None else self._cache.get(digest)


def _selection(stack: Stack, models: Set[ModelRef]) -> Selection:
    return Selection(
        stack,
        [row for row, entry in enumerate(stack.entries) if entry.model in models],
    )
