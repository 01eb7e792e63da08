"""An index in files that is opened and searched without reading all of it."""

from __future__ import annotations

import json
import logging
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import SpecFormatError
from gmi_registry.filters import Filters
from gmi_registry.index.entry import UNKNOWN_STATUS, ComparabilityKey, IndexedSpec, SpecStatus
from gmi_registry.index.groups import HeldPrompts, as_rows, identity_of, rows_of
from gmi_registry.index.stored.database import LocalDatabase
from gmi_registry.index.stored.files import CheckedFiles, IndexFiles
from gmi_registry.index.stored.format import (
    BUILD_AGAIN,
    GroupMetadata,
    IndexDocument,
    PartMetadata,
    Statistics,
)
from gmi_registry.index.stored.frame import FRAMED_MODELS, Frame, FrameSource
from gmi_registry.index.stored.frame_file import Stretch
from gmi_registry.index.stored.metadata import (
    Facets,
    Member,
    MemberTable,
    PartLines,
    StoredEntries,
    facet_values,
)
from gmi_registry.scoring import Candidates, WithinScatter, gram
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.repeats import whiten
from gmi_registry.scoring.sweep import norm_range
from gmi_registry.spec import EncoderRef, ModelRef
from gmi_registry.spec.canonical import canonical_digest

_MOST_MAPS = 256
# Models whose images are in memory at a time.
_IMAGES_AT_ONCE = 256

_log = logging.getLogger(__name__)


class StoredGroup:
    """A :class:`~gmi_registry.index.groups.ModelGroup` over the files of an index.

    Means and statistics were fetched when the index was opened; the images and Gram matrices of a
    part are fetched, checked and mapped when one of its members is asked for. Errors are those of
    :class:`~gmi_registry.index.stored.files.CheckedFiles`.
    """

    def __init__(
        self,
        record: GroupMetadata,
        members: MemberTable,
        facets: Facets,
        lines: PartLines,
        delivery: CheckedFiles,
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

    def prompts_held(self, rows: Sequence[int]) -> Sequence[HeldPrompts]:
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
        if len(rows) <= _IMAGES_AT_ONCE:
            return [np.arange(len(rows))]
        # In the order in which they lie.
        places = as_rows(rows)
        order = np.lexsort((self._within[places], self._part[places]))
        return [
            order[start : start + _IMAGES_AT_ONCE]
            for start in range(0, len(order), _IMAGES_AT_ONCE)
        ]

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

    def standing(self, row: int) -> SpecStatus:
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


Progress = Callable[[Literal["index", "prepare"], int, int], None]

# Parts whose metadata are written in one step. Others that want to write wait for it.
_PARTS_AT_ONCE = 16


@dataclass(frozen=True)
class GroupInfo:
    """What one group consists of: ``rows`` that count, ``removed`` ones that still take room,
    ``parts``, and the ``bytes`` of all its files."""

    key: ComparabilityKey
    encoder: EncoderRef
    prompt_set: str
    rows: int
    removed: int
    parts: int
    bytes: int

    @classmethod
    def of(cls, record: GroupMetadata) -> GroupInfo:
        """As ``index.json`` says."""
        sizes = {file.name: file.size for file in record.files}
        return cls(
            key=record.key.key,
            encoder=record.encoder,
            prompt_set=record.prompt_set.name,
            rows=sum(part.live for part in record.parts),
            removed=sum(len(part.removed) for part in record.parts),
            parts=len(record.parts),
            bytes=sum(sizes.values()),
        )


@dataclass(frozen=True)
class IndexInfo:
    """What an index consists of. ``digest`` is that of ``index.json``, which names all the rest."""

    digest: str
    version: str
    groups: tuple[GroupInfo, ...]

    @classmethod
    def of(cls, document: IndexDocument, digest: str) -> IndexInfo:
        """As ``index.json`` says."""
        groups = tuple(GroupInfo.of(group) for group in document.groups)
        return cls(digest, document.format.version, groups)

    @property
    def rows(self) -> int:
        """Models in all groups."""
        return sum(group.rows for group in self.groups)

    @property
    def parts(self) -> int:
        """Of all groups."""
        return sum(group.parts for group in self.groups)

    @property
    def removed(self) -> int:
        """Rows that count no more and still take room."""
        return sum(group.removed for group in self.groups)

    @property
    def bytes(self) -> int:
        """Of all files but ``index.json``."""
        return sum(group.bytes for group in self.groups)


class StoredIndex:
    """An index that was opened. ``groups`` are in the order of their keys.

    It shows one state: what is written to the files later is not seen. Safe for threads that only
    ask. Asking for images raises SpecFormatError where another program has meanwhile taken the
    files of this state away.
    """

    def __init__(
        self,
        document: IndexDocument,
        digest: str,
        delivery: CheckedFiles,
        ledger: LocalDatabase,
        cache_dir: Path,
        told: Progress,
    ) -> None:
        self._ledger = ledger
        self.info = IndexInfo.of(document, digest)
        opened = _Opening(digest, delivery, ledger, cache_dir, told)
        self.groups: tuple[StoredGroup, ...] = tuple(opened.stacks(document.groups))

    @classmethod
    def open(
        cls, files: IndexFiles, *, cache_dir: Path, progress: Progress | None = None
    ) -> StoredIndex:
        """Fetch and check what every search needs, and what ``cache_dir`` does not know yet.

        ``progress`` is told of what takes a while, once: (``index``, models, all) of metadata that
        are read, and later (``prepare``, models, all) of a large group that is first asked.

        Raises SpecFormatError for files that break the rules, DigestMismatchError for others than
        ``index.json`` names, UnsupportedVersionError for a newer major, and whatever ``files``
        raises. A cache that cannot be used costs time only.
        """
        told: Progress = progress or (lambda stage, done, total: None)
        return cls._with(files, LocalDatabase(cache_dir), cache_dir, told)

    @classmethod
    def _with(
        cls, files: IndexFiles, ledger: LocalDatabase, cache_dir: Path, told: Progress
    ) -> StoredIndex:
        try:
            return cls._current(files, ledger, cache_dir, told)
        except BaseException:
            ledger.close()
            raise

    @classmethod
    def _current(
        cls, files: IndexFiles, ledger: LocalDatabase, cache_dir: Path, told: Progress
    ) -> StoredIndex:
        delivery = CheckedFiles(files, ledger)
        document, digest = delivery.document()
        try:
            return cls(document, digest, delivery, ledger, cache_dir, told)
        except SpecFormatError:
            # Whoever writes the index may have taken files away since.
            document, another = delivery.document()
            if another == digest:
                raise
        return cls(document, another, delivery, ledger, cache_dir, told)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    def close(self) -> None:
        """Let the cache go. Arrays that were handed out stay valid."""
        self._ledger.close()

    def base_models(self) -> set[str]:
        """What base models are called, in lower case, in all indexes that the cache knows."""
        return {name for group in self.groups for name in group.base_models}

    def find(self, model: ModelRef) -> tuple[StoredGroup, int] | None:
        """The group and row of a model, whatever its revision; None where it is not indexed."""
        return self._found(str(model.identity))

    def standing(self, name: str) -> SpecStatus:
        """What a hub said, when the index was written, of the model whose identity has that name,
        or which is named so in a group."""
        found = self._found(identity_of(name))
        return UNKNOWN_STATUS if found is None else found[0].standing(found[1])

    def _found(self, identity: str) -> tuple[StoredGroup, int] | None:
        for group in self.groups:
            names = group.names
            # With a revision or without; names are in order.
            for beginning in (identity, f"{identity}@"):
                row = bisect_left(names, beginning)
                if row < len(names) and identity_of(names[row]) == identity:
                    return group, row
        return None


class _Opening:
    """The steps from ``index.json`` to groups that can be asked."""

    def __init__(
        self,
        digest: str,
        delivery: CheckedFiles,
        ledger: LocalDatabase,
        cache_dir: Path,
        told: Progress,
    ) -> None:
        self._told = told
        self._digest = digest
        self._cache_dir = cache_dir
        self._delivery = delivery
        self._ledger = ledger
        self._lines = PartLines(delivery, ledger)
        self._identities: set[str] = set()

    def stacks(self, groups: tuple[GroupMetadata, ...]) -> Iterator[StoredGroup]:
        known = [self._kept(group) for group in groups]
        # All or none: whether a model is in two groups shows only where all are looked at.
        whole = all(members is not None for members in known)
        for group, members in zip(groups, known, strict=True):
            facets = None
            if members is None or not whole:
                members, facets = self._members(group)
            owners = [PartLines.owner(part) for part in group.parts]
            owners += [self._owner(kind, group) for kind in ("members", "facets")]
            self._ledger.note(owners)
            if facets is not None:
                self._ledger.forget()
            yield StoredGroup(
                group,
                members,
                self._facets(group, members, facets),
                self._lines,
                self._delivery,
                self._cache_dir,
                self._told,
            )

    def _owner(self, kind: str, group: GroupMetadata) -> str:
        return f"{kind} {self._digest} {group.folder}"

    def _kept(self, group: GroupMetadata) -> MemberTable | None:
        """The members of a group, if this index was opened before."""
        value = self._ledger.get(self._owner("members", group))
        members = None if value is None else MemberTable.from_bytes(value)
        live = sum(part.live for part in group.parts)
        return members if members is not None and len(members.names) == live else None

    def _members(self, group: GroupMetadata) -> tuple[MemberTable, dict[int, bytes]]:
        """The members of a group by their metadata, and their facets."""
        found: list[Member] = []
        described: dict[str, dict[str, Any]] = {}
        for start in range(0, len(group.parts), _PARTS_AT_ONCE):
            for number, part in enumerate(group.parts[start : start + _PARTS_AT_ONCE], start):
                for member, line in self._live(number, part):
                    found.append(member)
                    described[member.name] = line
            if self._lines.keep():
                read = sum(part.rows for part in group.parts[: start + _PARTS_AT_ONCE])
                self._told("index", read, sum(part.rows for part in group.parts))
        members = MemberTable.of(found)
        facets = facet_values(described[name] for name in members.names)
        with self._ledger.together():
            self._ledger.put(self._owner("members", group), {0: members.to_bytes()})
            self._ledger.put(self._owner("facets", group), facets)
        return members, facets

    def _live(self, number: int, part: PartMetadata) -> Iterator[tuple[Member, dict[str, Any]]]:
        """The rows of a part that count. They were checked before they were kept."""
        removed = set(part.removed)
        for row, data in enumerate(self._lines.of(part)):
            if row in removed:
                continue
            line = json.loads(data)
            name = line["model"]
            identity = identity_of(name)
            if identity in self._identities:
                raise SpecFormatError(f"{part.entries.name} holds {name} again", hint=BUILD_AGAIN)
            self._identities.add(identity)
            standing = SpecStatus(line.get("stale"), line.get("trust"), line.get("stamp"))
            yield Member(name, number, row, standing, line.get("downloads")), line

    def _facets(
        self, group: GroupMetadata, members: MemberTable, made: dict[int, bytes] | None
    ) -> Facets:
        owner = self._owner("facets", group)

        def kept(place: int) -> bytes | None:
            return self._ledger.get(owner, place) if made is None else made[place]

        def again() -> dict[int, bytes]:
            described = {
                line["model"]: line
                for part in group.parts
                for line in map(json.loads, self._lines.of(part))
            }
            values = facet_values(described[name] for name in members.names)
            self._lines.keep()
            self._ledger.put(owner, values)
            return values

        return Facets(len(members.names), kept, again)
