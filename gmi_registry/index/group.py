"""Specifications that may be compared with each other, stacked for one batched product."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.sample import SCATTER_MODELS, TEMPERATURE_MODELS, drawn_by_lot, sampled
from gmi_registry.index.selection import as_rows
from gmi_registry.index.stack import Held
from gmi_registry.scoring import Candidates, WithinScatter
from gmi_registry.scoring.confidence import fitted_temperature
from gmi_registry.scoring.default import mean_images
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.paper import Invariants
from gmi_registry.scoring.repeats import whiten
from gmi_registry.scoring.sweep import norm_range
from gmi_registry.spec import ModelRef
from gmi_registry.spec.canonical import canonical_digest

__all__ = ["Group", "MemoryStack"]


@dataclass(frozen=True, eq=False)
class MemoryStack:
    """A :class:`~gmi_registry.index.stack.Stack` with everything in memory: ``image_embeddings``
    [M, N, D] float16, ``grams`` [M, N, N] float32. ``prompt_embeddings`` are the different arrays
    [P, E] that members hold, and ``held`` [M] says which is whose."""

    key: ComparabilityKey
    entries: tuple[IndexEntry, ...]
    image_embeddings: NDArray[np.float16]
    grams: NDArray[np.float32]
    prompt_embeddings: tuple[NDArray[np.float16], ...]
    held: NDArray[np.intp]
    image_prompt: NDArray[np.int32]

    @cached_property
    def names(self) -> list[str]:
        return [str(entry.model) for entry in self.entries]

    @cached_property
    def digest(self) -> str:
        return canonical_digest([[str(entry.model), entry.digest] for entry in self.entries])

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.entries[0].prompts

    def prompts_held(self, rows: Sequence[int]) -> Sequence[Held]:
        whose = self.held[as_rows(rows)]
        return [
            (self.prompt_embeddings[number], np.flatnonzero(whose == number))
            for number in np.unique(whose).tolist()
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
        digests = [entry.digest for entry in self.entries]
        drawn = self.images(drawn_by_lot(digests, TEMPERATURE_MODELS).tolist())
        return fitted_temperature(drawn, self.image_prompt)

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


class Group:
    """The members that share one key. Stacking is put off until somebody asks."""

    def __init__(self, key: ComparabilityKey) -> None:
        self.key = key
        self._members: dict[ModelRef, IndexedSpec] = {}
        self._prompt_embeddings: dict[bytes, NDArray[np.float16]] = {}
        self._fingerprints: dict[ModelRef, bytes] = {}
        self._stack: MemoryStack | None = None

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
    def stack(self) -> MemoryStack:
        """The members' arrays, stacked. Raises ValueError for a group without members."""
        if self._stack is None:
            self._stack = self._stacked()
        return self._stack

    def _stacked(self) -> MemoryStack:
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
        return MemoryStack(
            key=self.key,
            entries=tuple(member.entry for member in members),
            image_embeddings=images,
            grams=grams,
            prompt_embeddings=prompts,
            held=np.array([numbers[each] for each in fingerprints], np.intp),
            image_prompt=np.repeat(
                np.arange(len(prompts[0]), dtype=np.int32), self.key.images_per_prompt
            ),
        )


def _fingerprint(prompts: NDArray[np.float16]) -> bytes:
    return hashlib.sha256(repr(prompts.shape).encode() + prompts.tobytes()).digest()
