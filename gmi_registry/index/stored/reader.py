"""An index in files that is opened and searched without reading all of it."""

from __future__ import annotations

import json
import logging
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import SpecFormatError
from gmi_registry.filters import Filters
from gmi_registry.index.entry import UNKNOWN_STATUS, ComparabilityKey, IndexedSpec, SpecStatus
from gmi_registry.index.groups import (
    HeldPrompts,
    ModelGroup,
    as_rows,
    identity_of,
    packed_rows,
    rows_of,
)
from gmi_registry.index.stored.files import CheckedFiles, IndexFiles, LocalDatabase
from gmi_registry.index.stored.format import (
    BUILD_AGAIN,
    GroupMetadata,
    IndexDocument,
    PartMetadata,
)
from gmi_registry.index.stored.metadata import (
    Facets,
    Member,
    MemberTable,
    MetadataLines,
    StoredEntries,
    facet_values,
)
from gmi_registry.index.stored.prefilter import (
    PREFILTER_MODELS,
    PrefilterSource,
    Segment,
    StoredPrefilter,
)
from gmi_registry.scoring import WithinScatter, gram
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.repeats import whiten
from gmi_registry.spec import EncoderRef, ModelRef
from gmi_registry.spec.canonical import canonical_digest

_MOST_MAPS = 256
# Models whose images are in memory at a time.
_IMAGES_AT_ONCE = 256

_log = logging.getLogger(__name__)


class StoredGroup(ModelGroup):
    """A group over the files of an index.

    Means and statistics were fetched when the index was opened; the images and Gram matrices of a
    part are fetched, checked and mapped when one of its members is asked for. Errors are those of
    :class:`~gmi_registry.index.stored.files.CheckedFiles`.
    """

    def __init__(
        self,
        metadata: GroupMetadata,
        members: MemberTable,
        facets: Facets,
        lines: MetadataLines,
        files: CheckedFiles,
        cache_dir: Path,
        told: Callable[[Literal["prepare"], int, int], None],
    ) -> None:
        self._metadata = metadata
        self._members = members
        self._facets = facets
        self._lines = lines
        self._files = files
        self._cache_dir = cache_dir
        self._told = told
        # Which of the parts, in the order of index.json, a member lies in, and where: [M].
        self._part, self._within = members.parts, members.rows
        self._parts = metadata.parts
        # Where the rows of each part begin, counted through all.
        self._starts = np.cumsum([0, *(part.rows for part in self._parts)])
        self._lock = threading.Lock()
        self._maps: dict[tuple[str, int], NDArray[Any]] = {}
        self.key = metadata.key.key
        self.encoder: EncoderRef = metadata.encoder
        self._prompt_embeddings = files.prompts(metadata)
        self._statistics = files.statistics(metadata)
        # Those of a large group are looked at once, when its prefilter is made.
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
        return canonical_digest([self._metadata.folder, parts])

    @cached_property
    def entries(self) -> StoredEntries:
        return StoredEntries(self._lines, self._metadata, self._members)

    @property
    def prompts(self) -> tuple[str, ...]:
        return self._metadata.prompt_set.prompts

    def prompts_held(self, rows: Sequence[int]) -> Sequence[HeldPrompts]:
        # Those of each member are not kept: who writes an index knows no encoder, and readers do.
        return [(self._prompt_embeddings, np.arange(len(rows)))]

    @property
    def text_dim(self) -> int:
        return self.encoder.text_dim

    @property
    def image_dim(self) -> int:
        return self.encoder.image_dim

    @property
    def _is_large(self) -> bool:
        return len(self) >= PREFILTER_MODELS

    @cached_property
    def estimator(self) -> StoredPrefilter | None:
        if not self._is_large:
            return None
        source = PrefilterSource(
            folder=self._metadata.folder,
            segments=[Segment(part.means.sha256, part.rows) for part in self._parts],
            statistics=self._metadata.statistics.file.sha256,
            scatter=self.scatter,
            means=self._means_of,
        )
        # Where each member's row is, counted through all parts: [M].
        places = np.asarray(self._starts[self._part] + self._within, np.intp)
        try:
            return StoredPrefilter(source, self._cache_dir, places, partial(self._told, "prepare"))
        except OSError as error:
            _log.warning("searching on without a prefilter, which takes longer: %s", error)
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
        if self.estimator is None:
            return super().whitened(rows)
        # A prefilter holds the means of a large group, whose parts need not be opened for a few.
        return whiten(self.estimator.means(rows), self.scatter, len(self.image_prompt))

    @property
    def scatter(self) -> WithinScatter:
        return self._statistics.scatter

    @property
    def temperature(self) -> float:
        return self._statistics.temperature

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        return self._gathered(
            "images", as_rows(range(len(self)) if rows is None else rows), np.float16
        )

    def portions(self, rows: Sequence[int]) -> Sequence[NDArray[np.intp]]:
        if len(rows) <= _IMAGES_AT_ONCE:
            return super().portions(rows)
        # In the order in which they lie.
        places = as_rows(rows)
        order = np.lexsort((self._within[places], self._part[places]))
        starts = range(0, len(order), _IMAGES_AT_ONCE)
        return [order[start : start + _IMAGES_AT_ONCE] for start in starts]

    def files(self, rows: Sequence[int]) -> NDArray[np.intp]:
        return np.asarray(self._part[as_rows(rows)])

    def at_hand(self, rows: Sequence[int]) -> bool:
        parts = np.unique(self._part[as_rows(rows)]).tolist()
        return all(self._files.has_images(self._parts[part]) for part in parts)

    def grams(self, rows: Sequence[int]) -> NDArray[np.float32]:
        images = self._metadata.images
        out = np.ones((len(rows), images, images), np.float32)
        upper = np.triu(np.ones((images, images), bool), 1)
        stored = self._gathered("grams", as_rows(rows), np.float32)[:, : int(upper.sum())]
        out[:, upper] = stored
        out.transpose(0, 2, 1)[:, upper] = stored
        return out

    def downloads(self, rows: Sequence[int]) -> NDArray[np.float64]:
        return self._members.counts(as_rows(rows))

    def select(self, filters: Filters, *, hub: str | None = None) -> Sequence[int]:
        """The members that pass, as :meth:`Filters.admits` would have it, in order.

        ``hub`` is the one they are on, None any.
        """
        span = range(len(self)) if hub is None else self._span(f"{hub}:")
        passing = self._facets.passing(filters)
        if passing is None:
            return span
        passing[: span.start] = passing[span.stop :] = False
        return packed_rows(np.flatnonzero(passing))

    @property
    def base_models(self) -> set[str]:
        """What the base models of the members are called, folded."""
        return self._facets.base_models

    def _span(self, prefix: str) -> range:
        """The members whose names begin so: they are in order."""
        first = bisect_left(self.names, prefix)
        return range(first, bisect_left(self.names, prefix[:-1] + chr(ord(prefix[-1]) + 1)))

    def status(self, row: int) -> SpecStatus:
        """What a hub said of a member when the index was written."""
        return self._members.status(row)

    def indexed(self, row: int) -> IndexedSpec:
        """A member as it was when it was taken in: a query can be about it."""
        images = self.images([row])[0]
        # Worked out, since the file may have to be fetched, and is large.
        own = gram(images, self.key.gamma).astype(np.float32, copy=False)
        return IndexedSpec(self.entries[row], images, self._prompt_embeddings, own)

    def _gathered(self, kind: str, places: NDArray[np.intp], dtype: type[Any]) -> NDArray[Any]:
        """The arrays of members, one a row."""
        parts = self._part[places]
        shape = self._metadata.layout(kind, 1).arrays[0][2][1:]
        out = np.empty((len(places), *shape), dtype)
        for part in np.unique(parts).tolist():
            chosen = np.flatnonzero(parts == part)
            out[chosen] = self._mapped(kind, part)[self._within[places[chosen]]]
        return out

    def _mapped(self, kind: str, part: int) -> NDArray[Any]:
        with self._lock:
            known = self._maps.get((kind, part))
            if known is None:
                metadata = self._parts[part]
                layout = self._metadata.layout(kind, metadata.rows)
                known = self._files.part(metadata, kind, layout)
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
    def of(cls, group: GroupMetadata) -> GroupInfo:
        """As ``index.json`` says."""
        sizes = {file.name: file.size for file in group.files}
        return cls(
            key=group.key.key,
            encoder=group.encoder,
            prompt_set=group.prompt_set.name,
            rows=sum(part.live for part in group.parts),
            removed=sum(len(part.removed) for part in group.parts),
            parts=len(group.parts),
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
        self, info: IndexInfo, groups: Sequence[StoredGroup], database: LocalDatabase
    ) -> None:
        self.info = info
        self.groups = tuple(groups)
        self._database = database

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
        database = LocalDatabase(cache_dir)
        checked = CheckedFiles(files, database)

        def opened(document: IndexDocument, digest: str) -> StoredIndex:
            opening = _Opening(digest, checked, database, cache_dir, told)
            groups = tuple(opening.groups(document.groups))
            return cls(IndexInfo.of(document, digest), groups, database)

        try:
            document, digest = checked.document()
            try:
                return opened(document, digest)
            except SpecFormatError:
                # Whoever writes the index may have taken files away since.
                document, another = checked.document()
                if another == digest:
                    raise
            return opened(document, another)
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)

    def close(self) -> None:
        """Let the cache go. Arrays that were handed out stay valid."""
        self._database.close()

    def base_models(self) -> set[str]:
        """What base models are called, in lower case, in all indexes that the cache knows."""
        return {name for group in self.groups for name in group.base_models}

    def find(self, model: ModelRef) -> tuple[StoredGroup, int] | None:
        """The group and row of a model, whatever its revision; None where it is not indexed."""
        return self._found(str(model.identity))

    def status(self, name: str) -> SpecStatus:
        """What a hub said, when the index was written, of the model whose identity has that name,
        or which is named so in a group."""
        found = self._found(identity_of(name))
        return UNKNOWN_STATUS if found is None else found[0].status(found[1])

    def _found(self, identity: str) -> tuple[StoredGroup, int] | None:
        for group in self.groups:
            row = next(iter(rows_of(group.names, [identity])), None)
            if row is not None:
                return group, row
        return None


class _Opening:
    """The steps from ``index.json`` to groups that can be asked."""

    def __init__(
        self,
        digest: str,
        files: CheckedFiles,
        database: LocalDatabase,
        cache_dir: Path,
        told: Progress,
    ) -> None:
        self._told = told
        self._digest = digest
        self._cache_dir = cache_dir
        self._files = files
        self._database = database
        self._lines = MetadataLines(files, database)
        self._identities: set[str] = set()

    def groups(self, groups: tuple[GroupMetadata, ...]) -> Iterator[StoredGroup]:
        known = [self._kept(group) for group in groups]
        # All or none: whether a model is in two groups shows only where all are looked at.
        whole = all(members is not None for members in known)
        for group, members in zip(groups, known, strict=True):
            facets = None
            if members is None or not whole:
                members, facets = self._members(group)
            owners = [MetadataLines.owner(part) for part in group.parts]
            owners += [self._owner(kind, group) for kind in ("members", "facets")]
            self._database.note(owners)
            if facets is not None:
                self._database.forget()
            yield StoredGroup(
                group,
                members,
                self._facets(group, members, facets),
                self._lines,
                self._files,
                self._cache_dir,
                self._told,
            )

    def _owner(self, kind: str, group: GroupMetadata) -> str:
        return f"{kind} {self._digest} {group.folder}"

    def _kept(self, group: GroupMetadata) -> MemberTable | None:
        """The members of a group, if this index was opened before."""
        value = self._database.get(self._owner("members", group))
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
        with self._database.together():
            self._database.put(self._owner("members", group), {0: members.to_bytes()})
            self._database.put(self._owner("facets", group), facets)
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
            status = SpecStatus(line.get("stale"), line.get("trust"), line.get("stamp"))
            yield Member(name, number, row, status, line.get("downloads")), line

    def _facets(
        self, group: GroupMetadata, members: MemberTable, made: dict[int, bytes] | None
    ) -> Facets:
        owner = self._owner("facets", group)

        def kept(place: int) -> bytes | None:
            return self._database.get(owner, place) if made is None else made[place]

        def again() -> dict[int, bytes]:
            described = {
                line["model"]: line
                for part in group.parts
                for line in map(json.loads, self._lines.of(part))
            }
            values = facet_values(described[name] for name in members.names)
            self._lines.keep()
            self._database.put(owner, values)
            return values

        return Facets(len(members.names), kept, again)
