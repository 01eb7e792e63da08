"""An index of many specifications that lies in files and is opened without reading them all."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from gmi_registry.errors import SpecFormatError
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.name import identity_of
from gmi_registry.index.standing import UNKNOWN, Standing
from gmi_registry.index.stored.delivery import Delivery
from gmi_registry.index.stored.document import IndexDocument
from gmi_registry.index.stored.entries import PartLines
from gmi_registry.index.stored.facets import Facets, facet_values
from gmi_registry.index.stored.fault import AGAIN
from gmi_registry.index.stored.files import IndexFiles
from gmi_registry.index.stored.ledger import Ledger
from gmi_registry.index.stored.members import Member, Members
from gmi_registry.index.stored.record import GroupRecord, PartRecord
from gmi_registry.index.stored.stack import StoredStack
from gmi_registry.spec import EncoderRef, ModelRef

__all__ = ["GroupInfo", "IndexInfo", "StoredIndex"]

Progress = Callable[[Literal["index", "prepare"], int, int], None]

# Parts whose metadata are written in one step. Others that want to write wait for it.
_AT_ONCE = 16


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
    def of(cls, record: GroupRecord) -> GroupInfo:
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
        delivery: Delivery,
        ledger: Ledger,
        cache_dir: Path,
        told: Progress,
    ) -> None:
        self._ledger = ledger
        self.info = IndexInfo.of(document, digest)
        opened = _Opening(digest, delivery, ledger, cache_dir, told)
        self.groups: tuple[StoredStack, ...] = tuple(opened.stacks(document.groups))

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
        return cls._with(files, Ledger(cache_dir), cache_dir, told)

    @classmethod
    def _with(
        cls, files: IndexFiles, ledger: Ledger, cache_dir: Path, told: Progress
    ) -> StoredIndex:
        try:
            return cls._current(files, ledger, cache_dir, told)
        except BaseException:
            ledger.close()
            raise

    @classmethod
    def _current(
        cls, files: IndexFiles, ledger: Ledger, cache_dir: Path, told: Progress
    ) -> StoredIndex:
        delivery = Delivery(files, ledger)
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

    def find(self, model: ModelRef) -> tuple[StoredStack, int] | None:
        """The group and row of a model, whatever its revision; None where it is not indexed."""
        return self._found(str(model.identity))

    def standing(self, name: str) -> Standing:
        """What a hub said, when the index was written, of the model whose identity has that name,
        or which is named so in a group."""
        found = self._found(identity_of(name))
        return UNKNOWN if found is None else found[0].standing(found[1])

    def _found(self, identity: str) -> tuple[StoredStack, int] | None:
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
        self, digest: str, delivery: Delivery, ledger: Ledger, cache_dir: Path, told: Progress
    ) -> None:
        self._told = told
        self._digest = digest
        self._cache_dir = cache_dir
        self._delivery = delivery
        self._ledger = ledger
        self._lines = PartLines(delivery, ledger)
        self._identities: set[str] = set()

    def stacks(self, groups: tuple[GroupRecord, ...]) -> Iterator[StoredStack]:
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
            yield StoredStack(
                group,
                members,
                self._facets(group, members, facets),
                self._lines,
                self._delivery,
                self._cache_dir,
                self._told,
            )

    def _owner(self, kind: str, group: GroupRecord) -> str:
        return f"{kind} {self._digest} {group.folder}"

    def _kept(self, group: GroupRecord) -> Members | None:
        """The members of a group, if this index was opened before."""
        value = self._ledger.get(self._owner("members", group))
        members = None if value is None else Members.from_bytes(value)
        live = sum(part.live for part in group.parts)
        return members if members is not None and len(members.names) == live else None

    def _members(self, group: GroupRecord) -> tuple[Members, dict[int, bytes]]:
        """The members of a group by their metadata, and their facets."""
        found: list[Member] = []
        described: dict[str, dict[str, Any]] = {}
        for start in range(0, len(group.parts), _AT_ONCE):
            for number, part in enumerate(group.parts[start : start + _AT_ONCE], start):
                for member, line in self._live(number, part):
                    found.append(member)
                    described[member.name] = line
            if self._lines.keep():
                read = sum(part.rows for part in group.parts[: start + _AT_ONCE])
                self._told("index", read, sum(part.rows for part in group.parts))
        members = Members.of(found)
        facets = facet_values(described[name] for name in members.names)
        with self._ledger.together():
            self._ledger.put(self._owner("members", group), {0: members.to_bytes()})
            self._ledger.put(self._owner("facets", group), facets)
        return members, facets

    def _live(self, number: int, part: PartRecord) -> Iterator[tuple[Member, dict[str, Any]]]:
        """The rows of a part that count. They were checked before they were kept."""
        removed = set(part.removed)
        for row, data in enumerate(self._lines.of(part)):
            if row in removed:
                continue
            line = json.loads(data)
            name = line["model"]
            identity = identity_of(name)
            if identity in self._identities:
                raise SpecFormatError(f"{part.entries.name} holds {name} again", hint=AGAIN)
            self._identities.add(identity)
            standing = Standing(line.get("stale"), line.get("trust"), line.get("stamp"))
            yield Member(name, number, row, standing, line.get("downloads")), line

    def _facets(
        self, group: GroupRecord, members: Members, made: dict[int, bytes] | None
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
