"""An index in memory: specifications read from their sources, in groups that can be compared."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import GmiError, RateLimitError
from gmi_registry.filters import Filters
from gmi_registry.index.entry import (
    UNKNOWN_STATUS,
    ComparabilityKey,
    IndexedSpec,
    IndexEntry,
    SpecStatus,
)
from gmi_registry.index.groups import (
    SCATTER_MODELS,
    TEMPERATURE_MODELS,
    HeldPrompts,
    ModelGroup,
    Selection,
    as_rows,
    drawn_by_lot,
    sampled,
)
from gmi_registry.index.queries import ImageQuery, IndexQuery
from gmi_registry.index.rank import rank_groups
from gmi_registry.index.result import Ranking, SkippedSpec
from gmi_registry.scoring import DEFAULT_SCORE, Candidates, Query, Score, WithinScatter, score_named
from gmi_registry.scoring.confidence import fitted_temperature
from gmi_registry.scoring.default import mean_images
from gmi_registry.scoring.paper import Invariants
from gmi_registry.scoring.repeats import whiten
from gmi_registry.scoring.sweep import norm_range
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.threads import map_in_order

if TYPE_CHECKING:
    from gmi_registry.index.cache import SpecCache
    from gmi_registry.scoring.kernels import Floats
    from gmi_registry.spec import ModelRef, Spec


@dataclass(frozen=True)
class SpecSource:
    """One model that has a specification.

    ``load`` reads it, and is not called where the cache already has it. For that the source names
    either ``digest``, the SHA-256 of ``spec.json``, or a ``stamp``: any text that changes whenever
    the two files do, such as hub, id and revision, or path, sizes and modification times. With
    neither, the specification is read each time. ``downloads`` and ``nsfw`` replace what the
    manifest says, unless they are None; ``hub_tags`` are those that the hub lists now, ``standing``
    is what it says of the specification, ``url`` the model's page there. ``checked`` says that
    ``load`` refuses a specification of any other model, so that another name in what it gives is
    one that the model had before; else a source of another model is skipped.
    """

    model: ModelRef
    load: Callable[[], Spec]
    digest: str | None = None
    stamp: str | None = None
    downloads: int | None = None
    nsfw: bool | None = None
    hub_tags: tuple[str, ...] = ()
    standing: SpecStatus = UNKNOWN_STATUS
    url: str | None = None
    checked: bool = False


# Part of the name of what is kept: a temperature fitted in another way is another.
_TEMPERATURE_METHOD = 1
_TEMPERATURE = struct.Struct("<d")


@dataclass(frozen=True, eq=False)
class MemoryGroup:
    """A :class:`~gmi_registry.index.ModelGroup` with everything in memory.

    ``image_embeddings`` are [M, N, D] float16, ``grams`` [M, N, N] float32. ``prompt_embeddings``
    are the different arrays [P, E] that members hold, and ``held`` [M] says which is whose.
    ``cache`` keeps what was worked out of exactly these members.
    """

    key: ComparabilityKey
    entries: tuple[IndexEntry, ...]
    image_embeddings: NDArray[np.float16]
    grams: NDArray[np.float32]
    prompt_embeddings: tuple[NDArray[np.float16], ...]
    held: NDArray[np.intp]
    image_prompt: NDArray[np.int32]
    cache: SpecCache | None = None

    @cached_property
    def names(self) -> list[str]:
        return [str(entry.model) for entry in self.entries]

    @cached_property
    def digest(self) -> str:
        return canonical_digest([[str(entry.model), entry.digest] for entry in self.entries])

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.entries[0].prompts

    def prompts_held(self, rows: Sequence[int]) -> Sequence[HeldPrompts]:
        whose = self.held[as_rows(rows)]
        return [
            (self.prompt_embeddings[number], np.flatnonzero(whose == number))
            for number in sorted(set(whose.tolist()))
        ]

    @property
    def text_dim(self) -> int:
        return int(self.prompt_embeddings[0].shape[-1])

    @property
    def image_dim(self) -> int:
        return int(self.image_embeddings.shape[-1])

    def row_norms(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return norm_range(self.images(rows))

    @cached_property
    def means(self) -> Floats:
        return mean_images(self.image_embeddings)

    @cached_property
    def scatter(self) -> WithinScatter:
        return WithinScatter.of(self._sample(SCATTER_MODELS))

    @cached_property
    def temperature(self) -> float:
        name = f"{_TEMPERATURE_METHOD} {self.key} {self.digest}"
        kept = None if self.cache is None else self.cache.kept("temperature", name)
        if kept is not None and len(kept) == _TEMPERATURE.size:
            return float(_TEMPERATURE.unpack(kept)[0])
        digests = [entry.digest for entry in self.entries]
        drawn = self.images(drawn_by_lot(digests, TEMPERATURE_MODELS).tolist())
        found = fitted_temperature(drawn, self.image_prompt)
        if self.cache is not None:
            self.cache.keep("temperature", name, _TEMPERATURE.pack(found))
        return found

    def whitened(self, rows: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        return whiten(self.means[as_rows(rows)], self.scatter, len(self.image_prompt))

    @cached_property
    def invariants(self) -> Invariants:
        return Invariants.of(self.image_embeddings, self.grams)

    @property
    def estimator(self) -> None:
        # Their images are in memory, so there are few.
        return None

    def _sample(self, most: int) -> NDArray[np.float16]:
        return self.images(sampled([entry.digest for entry in self.entries], most).tolist())

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        return self.image_embeddings if rows is None else self.image_embeddings[as_rows(rows)]

    def portions(self, rows: Sequence[int]) -> Sequence[NDArray[np.intp]]:
        return [np.arange(len(rows))]

    def files(self, rows: Sequence[int]) -> NDArray[np.intp]:
        return np.zeros(len(rows), np.intp)

    def at_hand(self, rows: Sequence[int]) -> bool:
        return True

    def candidates(
        self, rows: Sequence[int], prompt_embeddings: Floats, *, grams: bool = True
    ) -> Candidates:
        everything = len(rows) == len(self.entries)
        chosen = slice(None) if everything else as_rows(rows)
        downloads = [self.entries[row].downloads for row in rows]
        return Candidates(
            image_embeddings=self.image_embeddings[chosen],
            prompt_embeddings=prompt_embeddings,
            image_prompt=self.image_prompt,
            gamma=self.key.gamma,
            grams=self.grams[chosen] if grams else None,
            scatter=lambda: self.scatter,
            # For some of the members they are had on the way, to the same last bit.
            invariants=(lambda: self.invariants) if everything else None,
            downloads=np.array([np.nan if n is None else n for n in downloads], np.float64),
        )


class GroupMembers:
    """The members that share one key. Stacking is put off until somebody asks."""

    def __init__(self, key: ComparabilityKey, cache: SpecCache | None = None) -> None:
        self.key = key
        self._cache = cache
        self._members: dict[ModelRef, IndexedSpec] = {}
        self._prompt_embeddings: dict[bytes, NDArray[np.float16]] = {}
        self._fingerprints: dict[ModelRef, bytes] = {}
        self._stack: MemoryGroup | None = None

    def __len__(self) -> int:
        return len(self._members)

    def add(self, indexed: IndexedSpec) -> None:
        """Take a member in."""
        prompts = indexed.prompt_embeddings
        # Thousands of members bring the same prompts: one copy is kept.
        fingerprint = _fingerprint(prompts)
        shared = self._prompt_embeddings.setdefault(fingerprint, prompts)
        self._fingerprints[indexed.entry.model] = fingerprint
        self._members[indexed.entry.model] = replace(indexed, prompt_embeddings=shared)
        self._stack = None

    def remove(self, model: ModelRef) -> None:
        """Let a member go. Raises KeyError where it is none."""
        del self._members[model]
        del self._fingerprints[model]
        self._stack = None

    @property
    def stack(self) -> MemoryGroup:
        """The members' arrays, stacked. Raises ValueError for a group without members."""
        if self._stack is None:
            self._stack = self._stacked()
        return self._stack

    def _stacked(self) -> MemoryGroup:
        if not self._members:
            raise ValueError("a group without members has no arrays")
        # Sorted, so that the order in which models arrived leaves no trace in any rounding.
        models = sorted(self._members, key=str)
        members = [self._members[model] for model in models]
        images = np.stack([member.image_embeddings for member in members])
        grams = np.stack([member.gram for member in members])
        # The members' own arrays become views, so that nothing is held twice.
        for row, member in enumerate(members):
            self._members[models[row]] = replace(
                member, image_embeddings=images[row], gram=grams[row]
            )
        fingerprints = [self._fingerprints[model] for model in models]
        numbers = {each: number for number, each in enumerate(dict.fromkeys(fingerprints))}
        prompts = tuple(self._prompt_embeddings[each] for each in numbers)
        return MemoryGroup(
            key=self.key,
            entries=tuple(member.entry for member in members),
            image_embeddings=images,
            grams=grams,
            prompt_embeddings=prompts,
            held=np.array([numbers[each] for each in fingerprints], np.intp),
            image_prompt=np.repeat(
                np.arange(len(prompts[0]), dtype=np.int32), self.key.images_per_prompt
            ),
            cache=self._cache,
        )


def _fingerprint(prompts: NDArray[np.float16]) -> bytes:
    return hashlib.sha256(repr(prompts.shape).encode() + prompts.tobytes()).digest()


Progress = Callable[[int, int], None]


class SpecIndex:
    """Specifications in memory, in groups within which distances mean the same.

    A model is known by its reference without the revision, on civitai by its version, and has one
    specification here.
    ``skipped`` lists those that could not be taken in. Not safe for threads that add and rank at
    the same time.
    """

    def __init__(self, cache: SpecCache | None = None) -> None:
        self._cache = cache
        self._entries: dict[ModelRef, IndexEntry] = {}
        self._groups: dict[ComparabilityKey, GroupMembers] = {}
        self._skipped: list[SkippedSpec] = []
        self._standing: dict[str, SpecStatus] = {}

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
        index = cls(cache)
        waiting = list(sources)
        reader = _Reader(cache)
        outcomes = map_in_order(reader.read, waiting, workers)
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
        question = ImageQuery(query, score, unwanted)
        return self.answer(question, filters, top=top, best_prompts=best_prompts, repeats=repeats)

    def answer(
        self,
        question: IndexQuery,
        filters: Filters | None = None,
        *,
        top: int | None = 10,
        best_prompts: int = 3,
        repeats: bool = False,
    ) -> Ranking:
        """:func:`~gmi_registry.index.rank.rank_groups` of all models that pass the filters.

        A model that the question is about is left out, as if it did not pass.
        """
        chosen = self.select(filters or Filters(), question.about)
        return rank_groups(
            self, chosen, question, top=top, best_prompts=best_prompts, repeats=repeats
        )

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

    def standing(self, name: str) -> SpecStatus:
        """What is known of the specification of the model whose identity has that name."""
        return self._standing.get(name, UNKNOWN_STATUS)

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
        self._groups.setdefault(entry.key, GroupMembers(entry.key, self._cache)).add(indexed)


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


def _selection(stack: ModelGroup, models: Set[ModelRef]) -> Selection:
    return Selection(
        stack,
        [row for row, entry in enumerate(stack.entries) if entry.model in models],
    )
