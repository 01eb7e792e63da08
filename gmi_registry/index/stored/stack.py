"""The members of one group, read where they lie."""

from __future__ import annotations

import logging
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gmi_registry.filters import Filters
from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.name import rows_of
from gmi_registry.index.selection import as_rows
from gmi_registry.index.stack import Held
from gmi_registry.index.standing import Standing
from gmi_registry.index.stored.delivery import Delivery
from gmi_registry.index.stored.entries import PartLines, StoredEntries
from gmi_registry.index.stored.facets import Facets
from gmi_registry.index.stored.frame import FRAMED_MODELS, Frame, FrameSource
from gmi_registry.index.stored.frame_file import Stretch
from gmi_registry.index.stored.members import Members
from gmi_registry.index.stored.record import GroupRecord
from gmi_registry.index.stored.statistics import Statistics
from gmi_registry.scoring import Candidates, WithinScatter, gram
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.repeats import whiten
from gmi_registry.scoring.sweep import norm_range
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.canonical import canonical_digest

__all__ = ["StoredStack"]

_MOST_MAPS = 256
# Models whose images are in memory at a time.
_AT_ONCE = 256

_log = logging.getLogger(__name__)


class StoredStack:
    """A :class:`~gmi_registry.index.stack.Stack` over the files of an index.

    Means and statistics were fetched when the index was opened; the images and Gram matrices of a
    part are fetched, checked and mapped when one of its members is asked for. Errors are those of
    :class:`~gmi_registry.index.stored.delivery.Delivery`.
    """

    def __init__(
        self,
        record: GroupRecord,
        members: Members,
        facets: Facets,
        lines: PartLines,
        delivery: Delivery,
        cache_dir: Path,
        told: Callable[[Literal["prepare"], int, int], None],
    ) -> None:
        self._told = told
        self._cache_dir = cache_dir
        self._record = record
        self._delivery = delivery
        self._members = members
        self._facets = facets
        self._lines = lines
        # Which of the parts, in the order of index.json, a member lies in, and where: [M].
        self._part, self._within = members.parts, members.rows
        self._parts = record.parts
        # Where the rows of each part begin, counted through all.
        self._starts = np.cumsum([0, *(part.rows for part in self._parts)])
        self._lock = threading.Lock()
        self._maps: dict[tuple[str, int], NDArray[Any]] = {}
        self.key: ComparabilityKey = record.key.key
        self.encoder: EncoderRef = record.encoder
        self._prompt_embeddings = delivery.prompts(record)
        self._statistics: Statistics = delivery.statistics(record)
        # Those of a large group are looked at once, when its frame is made.
        if not self._is_large:
            for part in range(len(self._parts)):
                self._mapped("means", part)

    def __len__(self) -> int:
        return len(self._members.names)

    @property
    def names(self) -> Sequence[str]:
        return self._members.names

    @cached_property
    def digest(self) -> str:
        parts = [[part.entries.sha256, list(part.removed)] for part in self._parts]
        return canonical_digest([self._record.folder, parts])

    @cached_property
    def entries(self) -> StoredEntries:
        encoder, shared = self._record.encoder, self._record.prompt_set
        return StoredEntries(
            self._lines,
            self._parts,
            self._members,
            self.key,
            f"{encoder.name}/{encoder.pretrained}",
            shared.name,
            shared.prompts,
        )

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts that all members answered: P of them."""
        return self._record.prompt_set.prompts

    def prompts_held(self, rows: Sequence[int]) -> Sequence[Held]:
        # Those of each member are not kept: who writes an index knows no encoder, and readers do.
        return [(self._prompt_embeddings, np.arange(len(rows)))]

    @property
    def text_dim(self) -> int:
        return self.encoder.text_dim

    @cached_property
    def image_prompt(self) -> NDArray[np.int32]:
        prompts = np.arange(len(self.prompts), dtype=np.int32)
        return np.repeat(prompts, self.key.images_per_prompt)

    @property
    def image_dim(self) -> int:
        return self.encoder.image_dim

    @property
    def _is_large(self) -> bool:
        return len(self) >= FRAMED_MODELS

    @cached_property
    def estimator(self) -> Frame | None:
        if not self._is_large:
            return None
        stretches = [Stretch(part.means.sha256, part.rows) for part in self._parts]
        source = FrameSource(
            folder=self._record.folder,
            stretches=stretches,
            statistics=self._record.statistics.file.sha256,
            scatter=self.scatter,
            means=self._means_of,
        )
        try:
            told = partial(self._told, "prepare")
            return Frame.of(source, self._cache_dir, self._places, told)
        except OSError as error:
            _log.warning("searching on without a frame, which takes longer: %s", error)
            return None

    def _means_of(self, part: int) -> NDArray[np.float32]:
        found = self._mapped("means", part)
        with self._lock:
            self._maps.pop(("means", part), None)
        return found

    @cached_property
    def means(self) -> Floats:
        found = self._gathered("means", np.arange(len(self)), np.float32)
        with self._lock:
            for part in range(len(self._parts)):
                self._maps.pop(("means", part), None)
        return found

    def whitened(self, rows: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        places = as_rows(rows)
        frame = self.estimator
        # A frame holds the means of a large group, whose parts need not be opened for a few.
        means = self.means[places] if frame is None else frame.means(rows)
        return whiten(means, self.scatter, len(self.image_prompt))

    @property
    def scatter(self) -> WithinScatter:
        return self._statistics.scatter

    @property
    def temperature(self) -> float:
        return self._statistics.temperature

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        places = np.arange(len(self)) if rows is None else np.asarray(rows, np.intp)
        return self._gathered("images", places, np.float16)

    def portions(self, rows: Sequence[int]) -> Sequence[NDArray[np.intp]]:
        if len(rows) <= _AT_ONCE:
            return [np.arange(len(rows))]
        # In the order in which they lie.
        places = as_rows(rows)
        order = np.lexsort((self._within[places], self._part[places]))
        return [order[start : start + _AT_ONCE] for start in range(0, len(order), _AT_ONCE)]

    def row_norms(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return norm_range(self.images(rows))

    def files(self, rows: Sequence[int]) -> NDArray[np.intp]:
        return np.asarray(self._part[as_rows(rows)])

    def at_hand(self, rows: Sequence[int]) -> bool:
        parts = np.unique(self._part[np.asarray(rows, np.intp)]).tolist()
        return all(self._delivery.has_images(self._parts[part]) for part in parts)

    def grams(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The Gram matrices of the members at ``rows`` [R]: [R, N, N]."""
        places = np.asarray(rows, np.intp)
        images = self._record.images
        out = np.ones((len(places), images, images), np.float32)
        upper = np.triu(np.ones((images, images), bool), 1)
        stored = self._gathered("grams", places, np.float32)[:, : int(upper.sum())]
        out[:, upper] = stored
        out.transpose(0, 2, 1)[:, upper] = stored
        return out

    def candidates(
        self, rows: Sequence[int], prompt_embeddings: Floats, *, grams: bool = True
    ) -> Candidates:
        return Candidates(
            image_embeddings=self.images(rows),
            prompt_embeddings=prompt_embeddings,
            image_prompt=self.image_prompt,
            gamma=self.key.gamma,
            grams=self.grams(rows) if grams else None,
            scatter=lambda: self.scatter,
            downloads=self._members.counts(np.asarray(rows, np.intp)),
        )

    def select(
        self,
        filters: Filters,
        *,
        hub: str | None = None,
        among: Collection[str] | None = None,
        nsfw: bool = True,
    ) -> Sequence[int]:
        """The members that pass, as :meth:`Filters.admits` would have it, in order.

        ``hub`` is the one they are on; ``among`` the texts of the identities of those that may
        pass; without ``nsfw`` none that is marked so does. None means any.
        """
        span = range(len(self)) if hub is None else self._span(f"{hub}:")
        passing = self._facets.passing(filters, nsfw=nsfw)
        if passing is None and among is None:
            return span
        chosen = np.ones(len(self), bool) if passing is None else passing
        chosen[: span.start] = chosen[span.stop :] = False
        if among is not None:
            named = np.zeros(len(self), bool)
            named[rows_of(self.names, among)] = True
            chosen &= named
        # Numbers that nobody has to take apart one by one.
        return array("q", np.flatnonzero(chosen).astype(np.int64).tobytes())

    @property
    def base_models(self) -> set[str]:
        """What the base models of the members are called, folded."""
        return self._facets.base_models

    def _span(self, prefix: str) -> range:
        """The members whose names begin so: they are in order."""
        first = bisect_left(self.names, prefix)
        return range(first, bisect_left(self.names, prefix[:-1] + chr(ord(prefix[-1]) + 1)))

    def standing(self, row: int) -> Standing:
        """What a hub said of a member when the index was written."""
        return self._members.standing(row)

    def indexed(self, row: int) -> IndexedSpec:
        """A member as it was when it was taken in: a question can be about it."""
        images = self.images([row])[0]
        # Worked out, since the file may have to be fetched, and is large.
        own = gram(images, self.key.gamma).astype(np.float32, copy=False)
        return IndexedSpec(self.entries[row], images, self._prompt_embeddings, own)

    @cached_property
    def _places(self) -> NDArray[np.intp]:
        """Where each member's row is, counted through all parts: [M]."""
        return np.asarray(self._starts[self._part] + self._within)

    def _gathered(self, kind: str, places: NDArray[np.intp], dtype: type[Any]) -> NDArray[Any]:
        """The arrays of members, one a row."""
        parts = self._part[places]
        shape = self._record.layout(kind, 1).arrays[0][2][1:]
        out = np.empty((len(places), *shape), dtype)
        for part in np.unique(parts).tolist():
            chosen = np.flatnonzero(parts == part)
            out[chosen] = self._mapped(kind, part)[self._within[places[chosen]]]
        return out

    def _mapped(self, kind: str, part: int) -> NDArray[Any]:
        with self._lock:
            known = self._maps.get((kind, part))
            if known is None:
                record = self._parts[part]
                layout = self._record.layout(kind, record.rows)
                known = self._delivery.part(record, kind, layout)
                # Each holds a file open, of which a process may have so many.
                while len(self._maps) >= _MOST_MAPS:
                    del self._maps[next(iter(self._maps))]
                self._maps[kind, part] = known
            return known
