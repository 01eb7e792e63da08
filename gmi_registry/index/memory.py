"""An index in memory: specifications read from their sources, in groups that can be compared."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import GmiError, RateLimitError
from gmi_registry.filters import Filters
from gmi_registry.index.entry import (
    UNKNOWN_STATUS,
    ComparabilityKey,
    IndexedSpec,
    IndexEntry,
    Ranking,
    SkippedSpec,
    SpecStatus,
)
from gmi_registry.index.groups import (
    HeldPrompts,
    ModelGroup,
    Selection,
    as_rows,
    sampled_scatter,
    sampled_temperature,
)
from gmi_registry.index.queries import ImageQuery, IndexQuery
from gmi_registry.index.rank import rank_groups
from gmi_registry.scoring import DEFAULT_SCORE, Query, Score, WithinScatter, score_named
from gmi_registry.scoring.default import mean_images
from gmi_registry.scoring.paper import Invariants
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.threads import map_in_order

if TYPE_CHECKING:
    from gmi_registry.index.cache import SpecCache
    from gmi_registry.scoring.kernels import Floats
    from gmi_registry.spec import ModelRef, Spec

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SpecSource:
    """Where the specification of one model comes from, said so that the index need know no hub.

    ``load`` reads it, and is not called where the cache already has it. For that the source names
    either ``digest``, the SHA-256 of ``spec.json``, or a ``stamp``: any text that changes whenever
    the two files do, such as hub, id and revision, or path, sizes and modification times. With
    neither, the specification is read each time. ``downloads`` and ``nsfw`` replace what the
    manifest says, unless they are None; ``hub_tags`` are those that the hub lists now, ``status``
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
    status: SpecStatus = UNKNOWN_STATUS
    url: str | None = None
    checked: bool = False


# Part of the name of what is kept: a temperature fitted in another way is another.
_TEMPERATURE_METHOD = 1
_TEMPERATURE = struct.Struct("<d")


class MemoryGroup(ModelGroup):
    """The group of ``members``, at least one, with everything in memory.

    ``image_embeddings`` are [M, N, D] float16 and ``gram_matrices`` [M, N, N] float32. ``cache``
    keeps what was worked out of exactly these members.
    """

    def __init__(self, members: Sequence[IndexedSpec], cache: SpecCache | None = None) -> None:
        self._cache = cache
        # Sorted, so that the order in which models arrived leaves no trace in any rounding.
        members = sorted(members, key=lambda member: str(member.entry.ref))
        self.key = members[0].entry.key
        self.image_embeddings = np.stack([member.image_embeddings for member in members])
        self.gram_matrices = np.stack([member.gram for member in members])
        self._entries = tuple(member.entry for member in members)
        # Of each member which of the different arrays of prompt embeddings it holds: [M].
        held = [member.prompt_embeddings for member in members]
        self._prompt_embeddings = {id(array): array for array in held}
        numbers = {each: number for number, each in enumerate(self._prompt_embeddings)}
        self._held = np.array([numbers[id(array)] for array in held], np.intp)

    @property
    def entries(self) -> tuple[IndexEntry, ...]:
        return self._entries

    @cached_property
    def names(self) -> list[str]:
        return [str(entry.ref) for entry in self.entries]

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.entries[0].prompts

    @cached_property
    def digest(self) -> str:
        return canonical_digest([[str(entry.ref), entry.digest] for entry in self.entries])

    @property
    def image_dim(self) -> int:
        return int(self.image_embeddings.shape[-1])

    @property
    def text_dim(self) -> int:
        return int(next(iter(self._prompt_embeddings.values())).shape[-1])

    def prompts_held(self, rows: Sequence[int]) -> Sequence[HeldPrompts]:
        whose = self._held[as_rows(rows)]
        arrays = list(self._prompt_embeddings.values())
        numbers = sorted(set(whose.tolist()))
        return [(arrays[number], np.flatnonzero(whose == number)) for number in numbers]

    @cached_property
    def means(self) -> Floats:
        return mean_images(self.image_embeddings)

    @cached_property
    def scatter(self) -> WithinScatter:
        return sampled_scatter(self._digests, self.images)

    @cached_property
    def temperature(self) -> float:
        name = f"{_TEMPERATURE_METHOD} {self.key} {self.digest}"
        kept = None if self._cache is None else self._cache.kept("temperature", name)
        if kept is not None and len(kept) == _TEMPERATURE.size:
            return float(_TEMPERATURE.unpack(kept)[0])
        found = sampled_temperature(self._digests, self.images, self.image_prompt)
        if self._cache is not None:
            self._cache.keep("temperature", name, _TEMPERATURE.pack(found))
        return found

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        return self.image_embeddings[self._places(rows)]

    def grams(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return self.gram_matrices[self._places(rows)]

    def downloads(self, rows: Sequence[int]) -> NDArray[np.float64]:
        counts = [self.entries[row].downloads for row in rows]
        return np.array([np.nan if count is None else count for count in counts], np.float64)

    def invariants(self, rows: Sequence[int]) -> Callable[[], Invariants] | None:
        # For some of the members they are had on the way, to the same last bit.
        return (lambda: self._invariants) if self._is_all(rows) else None

    @cached_property
    def _invariants(self) -> Invariants:
        return Invariants.of(self.image_embeddings, self.gram_matrices)

    @property
    def _digests(self) -> list[str]:
        return [entry.digest for entry in self.entries]

    def _is_all(self, rows: Sequence[int] | None) -> bool:
        """Whether these are all members, in their order: nothing has to be copied of those."""
        if rows is None:
            return True
        members = len(self.entries)
        return len(rows) == members and np.array_equal(as_rows(rows), np.arange(members))

    def _places(self, rows: Sequence[int] | None) -> slice | NDArray[np.intp]:
        return slice(None) if rows is None or self._is_all(rows) else as_rows(rows)


class SpecIndex:
    """Specifications in memory, in groups within which distances mean the same.

    A model is known by its reference without the revision, on civitai by its version, and has one
    specification here.
    ``skipped`` lists those that could not be taken in. Not safe for threads that add and rank at
    the same time.
    """

    def __init__(self, cache: SpecCache | None = None) -> None:
        self._cache = cache
        self._members: dict[ModelRef, IndexedSpec] = {}
        self._groups: dict[ComparabilityKey, MemoryGroup] = {}
        self._prompt_embeddings: dict[bytes, NDArray[np.float16]] = {}
        self._skipped: list[SkippedSpec] = []
        self._status: dict[str, SpecStatus] = {}

    @classmethod
    def from_sources(
        cls,
        sources: Iterable[SpecSource],
        *,
        cache: SpecCache | None = None,
        workers: int = 1,
        progress: Progress | None = None,
    ) -> Self:
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
        return tuple(member.entry for member in self._members.values())

    @property
    def skipped(self) -> tuple[SkippedSpec, ...]:
        """Sources that could not be taken in."""
        return tuple(self._skipped)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, spec: Spec) -> None:
        """Take a specification in; an earlier one of the same model gives way."""
        self._put(IndexedSpec.of(spec))

    def remove(self, model: ModelRef) -> None:
        """Forget a model, whatever its revision. Raises KeyError where it is unknown."""
        member = self._members.pop(model.identity)
        self._groups.pop(member.entry.key, None)
        self._status.pop(str(model.identity), None)

    def mark(self, model: ModelRef, *, stale: bool) -> None:
        """Say whether the weights of a model are others than those that were described."""
        name = str(model.identity)
        self._status[name] = replace(self.status(name), stale=stale)

    def rank(
        self,
        images: Query,
        score: str | Score = DEFAULT_SCORE,
        filters: Filters | None = None,
        *,
        unwanted: Query | None = None,
        top: int | None = 10,
        best_prompts: int = 3,
        repeats: bool = False,
    ) -> Ranking:
        """:meth:`answer` to ``images``, by the score of that name.

        The distances of ``unwanted``, images of the same encoder, count against a model. Raises
        InputError for an unknown score.
        """
        score = score_named(score) if isinstance(score, str) else score
        query = ImageQuery(images, score, unwanted)
        return self.answer(query, filters, top=top, best_prompts=best_prompts, repeats=repeats)

    def answer(
        self,
        query: IndexQuery,
        filters: Filters | None = None,
        *,
        top: int | None = 10,
        best_prompts: int = 3,
        repeats: bool = False,
    ) -> Ranking:
        """:func:`~gmi_registry.index.rank.rank_groups` of all models that pass the filters.

        A model that the query is about is left out, as if it did not pass.
        """
        chosen = self.select(filters or Filters(), query.about)
        return rank_groups(self, chosen, query, top=top, best_prompts=best_prompts, repeats=repeats)

    def select(self, filters: Filters, leave_out: ModelRef | None = None) -> list[Selection]:
        """The models that pass, by groups in the order in which their first models came in."""
        passed: dict[ComparabilityKey, set[ModelRef]] = defaultdict(set)
        for identity, member in self._members.items():
            stale = self.status(str(identity)).stale
            if identity != leave_out and filters.admits(member.entry.traits(stale)):
                passed[member.entry.key].add(member.entry.ref)
        return [
            Selection(group, [row for row, it in enumerate(group.entries) if it.ref in models])
            for key, models in passed.items()
            for group in (self._group(key),)
        ]

    def base_models(self) -> set[str]:
        """What base models are called."""
        return {name for entry in self.entries for name in entry.base_models}

    def status(self, name: str) -> SpecStatus:
        """What is known of the specification of the model whose identity has that name."""
        return self._status.get(name, UNKNOWN_STATUS)

    def _admit(self, source: SpecSource, indexed: IndexedSpec) -> None:
        """Take in what a source gave, or note why not."""
        identity, entry = source.model.identity, indexed.entry
        if identity in self._members:
            earlier = self._members[identity].entry.digest
            if earlier != entry.digest:
                reason = f"the model is indexed already, with specification {earlier[:12]}"
                self._skipped.append(SkippedSpec(source.model, reason))
            return
        if entry.ref.identity != identity and not source.checked:
            reason = f"the specification describes {entry.ref.identity}"
            self._skipped.append(SkippedSpec(source.model, reason))
            return
        entry = entry.listed(
            source.model,
            url=source.url,
            hub_tags=source.hub_tags,
            nsfw=source.nsfw,
            downloads=source.downloads,
        )
        self._put(replace(indexed, entry=entry))
        self._status[str(entry.ref.identity)] = source.status

    def _put(self, indexed: IndexedSpec) -> None:
        if indexed.entry.ref.identity in self._members:
            self.remove(indexed.entry.ref)
        # Thousands of members bring the same prompts: one copy is kept.
        prompts = indexed.prompt_embeddings
        fingerprint = hashlib.sha256(repr(prompts.shape).encode() + prompts.tobytes()).digest()
        prompts = self._prompt_embeddings.setdefault(fingerprint, prompts)
        self._members[indexed.entry.ref.identity] = replace(indexed, prompt_embeddings=prompts)
        self._groups.pop(indexed.entry.key, None)

    def _group(self, key: ComparabilityKey) -> MemoryGroup:
        """The group of that key, made where a member came or went since."""
        if key not in self._groups:
            members = [it for it in self._members.values() if it.entry.key == key]
            group = self._groups[key] = MemoryGroup(members, self._cache)
            # The members' own arrays become views, so that nothing is held twice.
            for row, entry in enumerate(group.entries):
                self._members[entry.ref.identity] = replace(
                    self._members[entry.ref.identity],
                    image_embeddings=group.image_embeddings[row],
                    gram=group.gram_matrices[row],
                )
        return self._groups[key]


class _Reader:
    """Reads sources, in any number of threads. ``refusal`` is the hub's first RateLimitError."""

    def __init__(self, cache: SpecCache | None) -> None:
        self._cache = cache
        self.refusal: RateLimitError | None = None

    def read(self, source: SpecSource) -> IndexedSpec | SkippedSpec:
        """From the cache where it can be, else read and kept there."""
        known = self._known(source)
        # Whether a model of another name is this one, only its source can say.
        if known is not None and known.entry.ref.identity == source.model.identity:
            return known
        if self.refusal is not None:
            return SkippedSpec(source.model, f"not read any more: {self.refusal.message}")
        try:
            spec = source.load()
        except GmiError as error:
            if isinstance(error, RateLimitError):
                self.refusal = self.refusal or error
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
