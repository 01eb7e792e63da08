"""Groups of comparable specifications, and which members of them a search looks at.

An index in memory, an index in files and a Qdrant server have groups of the same kind, a
:class:`ModelGroup`, so that each query is written once.
"""

from __future__ import annotations

import hashlib
import heapq
import zlib
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.entry import ComparabilityKey, IndexEntry, SpecStatus, image_prompts
from gmi_registry.scoring import Candidates, WithinScatter
from gmi_registry.scoring.confidence import fitted_temperature
from gmi_registry.scoring.kernels import norm_range
from gmi_registry.scoring.repeats import whiten

if TYPE_CHECKING:
    from gmi_registry.filters import Filters
    from gmi_registry.index.entry import SkippedSpec
    from gmi_registry.scoring.kernels import Floats
    from gmi_registry.scoring.paper import Invariants
    from gmi_registry.scoring.prefilter import Refinement
    from gmi_registry.spec import ModelRef

HeldPrompts = tuple[NDArray[np.float16], NDArray[np.intp]]
"""Prompt embeddings [P, E], and the places of the members that hold them."""


class Estimator(Protocol):
    """Distances of the default score without a prompt, at two prices, and what means say.

    ``query_images`` are [B, D], distances the means over them, and ``concentration`` is that of
    :meth:`~gmi_registry.scoring.default.WhitenedMeans.distances`.
    """

    def near(
        self, rows: Sequence[int], query_images: Floats, concentration: float, count: int
    ) -> Refinement:
        """Distances of the members at ``rows`` [R], exact of those that may be among the ``count``
        nearest, and estimates of others."""
        ...

    def distances(self, rows: Sequence[int], query_images: Floats, concentration: float) -> Floats:
        """Of the members at ``rows`` [R], few of them: [R]."""
        ...

    def of_means(self, rows: Sequence[int], each: Callable[[Floats], Floats]) -> Floats:
        """``each`` of the raw means of the members at ``rows`` [R]: [R]. It is given some at a
        time, [n, D], and gives [n]."""
        ...


def as_rows(rows: Sequence[int]) -> NDArray[np.intp]:
    """``rows`` as an array; of a range without counting through it."""
    if isinstance(rows, range):
        return np.arange(rows.start, rows.stop, rows.step)
    return np.asarray(rows, np.intp)


class ModelGroup(ABC):
    """M members that share one key, by their rows 0..M-1, in the order of their references.

    ``names`` are the references as texts, and ``entries`` has one for each row. ``prompts`` are the
    P texts that all members answered. What is large is read where it is asked for: a query that is
    content with means should ask for nothing else.
    """

    key: ComparabilityKey

    @property
    @abstractmethod
    def names(self) -> Sequence[str]: ...

    @property
    @abstractmethod
    def entries(self) -> Sequence[IndexEntry]: ...

    @property
    @abstractmethod
    def prompts(self) -> tuple[str, ...]: ...

    @property
    @abstractmethod
    def digest(self) -> str:
        """Another one whenever a member joins, leaves or has another specification."""

    @property
    @abstractmethod
    def image_dim(self) -> int:
        """D."""

    @property
    @abstractmethod
    def text_dim(self) -> int:
        """E."""

    @abstractmethod
    def prompts_held(self, rows: Sequence[int]) -> Sequence[HeldPrompts]:
        """The embeddings of the prompts that come with the members at ``rows`` [R].

        Strangers made them, and no majority makes them right: who has the encoder weighs by its
        own (:data:`~gmi_registry.index.queries.PromptReader`), and who has not weighs each member
        by what that member holds, which changes no other's distance.
        """

    @property
    @abstractmethod
    def means(self) -> Floats:
        """[M, D]: the mean of each member's images."""

    @property
    @abstractmethod
    def scatter(self) -> WithinScatter:
        """Within-model statistics of all members, whatever a filter leaves of them."""

    @property
    @abstractmethod
    def temperature(self) -> float:
        """How far distances among all members can be trusted, whatever a filter leaves of them."""

    @abstractmethod
    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        """The images of the members at ``rows`` [R], None for all: [R, N, D]."""

    @abstractmethod
    def grams(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The Gram matrices of the members at ``rows`` [R]: [R, N, N]."""

    @abstractmethod
    def downloads(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Of the members at ``rows`` [R], NaN for unknown: [R]."""

    @property
    def estimator(self) -> Estimator | None:
        """For so many members that their means should not all be read; None for fewer."""
        return None

    @cached_property
    def image_prompt(self) -> NDArray[np.int32]:
        """[N]: the prompt of each image."""
        return image_prompts(len(self.prompts), self.key)

    def whitened(self, rows: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        """Fᵀμ of the members at ``rows`` [R], few of them: [R, D]; and tr((S + λI)⁻¹ S) / N, with
        F Fᵀ = (S + λI)⁻¹ of the default score. Raises as :meth:`images` does."""
        return whiten(self.means[as_rows(rows)], self.scatter, len(self.image_prompt))

    def row_norms(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The least and the greatest L2 norm of the images of the members at ``rows``: [R, 2]."""
        return norm_range(self.images(rows))

    def portions(self, rows: Sequence[int]) -> Sequence[NDArray[np.intp]]:
        """Places in ``rows`` [R], all of them in portions that should be read at once: one unless
        they would take more memory than there may be."""
        return [np.arange(len(rows))]

    def files(self, rows: Sequence[int]) -> NDArray[np.intp]:
        """Numbers of what the images of the members at ``rows`` [R] are read from: [R]. To read
        from few of these is to fetch and check few."""
        return np.zeros(len(rows), np.intp)

    def at_hand(self, rows: Sequence[int]) -> bool:
        """Whether the images of these members are on this machine, so that they may be shown for
        the asking. A ranking that needs them asks for them all the same."""
        return True

    def invariants(self, rows: Sequence[int]) -> Callable[[], Invariants] | None:
        """What the paper's score needs of the members at ``rows``, where that is kept."""
        return None

    def candidates(
        self, rows: Sequence[int], prompt_embeddings: Floats, *, grams: bool = True
    ) -> Candidates:
        """The members at ``rows``, weighed by ``prompt_embeddings`` [P, E], with everything that a
        score may want; without Gram matrices, which are slow to read, for one that does not."""
        return Candidates(
            image_embeddings=self.images(rows),
            prompt_embeddings=prompt_embeddings,
            image_prompt=self.image_prompt,
            gamma=self.key.gamma,
            grams=self.grams(rows) if grams else None,
            scatter=lambda: self.scatter,
            invariants=self.invariants(rows),
            downloads=self.downloads(rows),
        )


@dataclass(frozen=True, eq=False)
class Selection:
    """Members of one group that passed a filter: ``rows`` of ``group``."""

    group: ModelGroup
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> IndexEntry:
        """One of them, that says what all share. Raises IndexError where there is none."""
        return self.group.entries[self.rows[0]]


class Index(Protocol):
    """Specifications, in groups within which distances mean the same."""

    @property
    def skipped(self) -> Sequence[SkippedSpec]:
        """What could not be taken in."""
        ...

    def __len__(self) -> int: ...

    def base_models(self) -> set[str]:
        """What base models are called, in any letter case; perhaps those of other indexes too."""
        ...

    def select(self, filters: Filters, leave_out: ModelRef | None = None) -> list[Selection]:
        """What passes, group by group, without empty ones; ``leave_out`` is an identity."""
        ...

    def status(self, name: str) -> SpecStatus:
        """What is known of the specification of the model whose identity has that name."""
        ...

    def mark(self, model: ModelRef, *, stale: bool) -> None:
        """Say whether the weights of a model are others than those that were described."""
        ...


def identity_of(name: str) -> str:
    """The name of a model's identity, from a reference as text that is known to be one."""
    # Parsing would do, and take a hundred times longer; there are thousands of them.
    return name if name.startswith("civitai:") else name.partition("@")[0]


def rows_without(
    rows: Sequence[int], names: Sequence[str], identities: Collection[str]
) -> Sequence[int]:
    """``rows``, which ascend, less those of these identities; ``names`` of all are in order."""
    gone = rows_of(names, identities)
    members = as_rows(rows)
    left = ~np.isin(members, gone)
    return rows if left.all() else packed_rows(members[left])


def packed_rows(rows: NDArray[np.intp]) -> Sequence[int]:
    """``rows`` as numbers that nobody has to take apart one by one."""
    return array("q", rows.astype(np.int64).tobytes())


def rows_of(names: Sequence[str], identities: Collection[str]) -> list[int]:
    """The rows of these identities; ``names`` of all are in order."""
    return [row for identity in identities for row in _rows_of(names, identity)]


def _rows_of(names: Sequence[str], identity: str) -> Iterator[int]:
    # With a revision and without, which other names may stand between.
    for start in (identity, f"{identity}@"):
        for row in range(bisect_left(names, start), len(names)):
            if not names[row].startswith(start) or identity_of(names[row]) != identity:
                break
            yield row


SCATTER_MODELS = 256
"""Ten thousand images pin down a covariance of a thousand dimensions better than the shrinkage
cares for."""

TEMPERATURE_MODELS = 64
"""A temperature is one number."""

CONTENT_MODELS = 256
"""What models in general draw for a prompt is known to a sixteenth of what they differ by, and what
it is off by is the same for all of them."""


SampledImages = Callable[[Sequence[int]], NDArray[np.float16]]
"""Images [R, N, D] of the members at some rows [R], a few hundred at most."""


def sampled(digests: Sequence[str], most: int) -> NDArray[np.intp]:
    """The rows, ascending, of the ``most`` members whose digests come first; all where there are
    no more.

    A digest is as good as a number drawn at random, and stays with its member: of a million
    members a hundred more change one of ``most`` = 256 in a fortieth of the cases, and what was
    worked out from the sample stays right. Rows spread evenly would nearly all be others.
    """
    if len(digests) <= most:
        return np.arange(len(digests))
    first = heapq.nsmallest(most, range(len(digests)), key=lambda row: (digests[row], row))
    return np.array(sorted(first), np.intp)


def drawn_by_lot(digests: Sequence[str], most: int) -> NDArray[np.intp]:
    """The rows, ascending, of ``most`` members drawn by lot; all where there are no more.

    The digests of all members together are the seed, so that nobody can choose to be drawn: each
    specification that is tried draws everybody anew. The same members give the same draw.
    """
    if len(digests) <= most:
        return np.arange(len(digests))
    together = hashlib.sha256("".join(sorted(digests)).encode()).digest()

    def lot(row: int) -> tuple[bytes, int]:
        return hashlib.blake2b(digests[row].encode(), key=together, digest_size=16).digest(), row

    return np.array(sorted(heapq.nsmallest(most, range(len(digests)), key=lot)), np.intp)


def sampled_by_name(names: Sequence[str], most: int, but: Callable[[str], bool]) -> list[int]:
    """The same of those that are not ``but``, and where digests would have to be read for it: by
    check sums of their names."""
    order: Iterable[int] = range(len(names))
    if len(names) > most:
        sums = np.fromiter(map(zlib.crc32, map(str.encode, names)), np.uint32, len(names))
        order = np.argsort(sums, kind="stable").tolist()
    return sorted(islice((row for row in order if not but(names[row])), most))


def agreed_prompts(candidates: Sequence[NDArray[np.float16]]) -> NDArray[np.float16]:
    """What most of ``candidates`` [P, E], at least one, nearly say: the median of each number.

    They come with specifications, so strangers made them. Nobody is left out for other ones, and
    a search with words embeds the prompts itself; this is for programs that have no encoder.
    """
    return np.asarray(np.median(np.stack(candidates).astype(np.float32), axis=0), np.float16)


def sampled_scatter(digests: Sequence[str], images: SampledImages) -> WithinScatter:
    """Within-model statistics of the members of these ``digests``, in order."""
    return WithinScatter.of(images(sampled(digests, SCATTER_MODELS).tolist()))


def sampled_temperature(
    digests: Sequence[str], images: SampledImages, image_prompt: NDArray[np.integer]
) -> float:
    """How far distances among the members of these ``digests``, in order, can be trusted."""
    return fitted_temperature(
        images(drawn_by_lot(digests, TEMPERATURE_MODELS).tolist()), image_prompt
    )
