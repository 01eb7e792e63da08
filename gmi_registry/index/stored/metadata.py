"""Metadata of the members of a stored group, packed so that a search reads little of it.

:class:`MemberTable` says which models there are, :class:`Facets` which of them a filter lets
through, and :class:`StoredEntries` what is shown of those that a search finds.
"""

from __future__ import annotations

import json
import zlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self, get_args, overload

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gmi_registry.filters import Clause, Filters
from gmi_registry.index.entry import IndexEntry, SpecStatus, plain_traits
from gmi_registry.index.stored.files import CheckedFiles, LocalDatabase
from gmi_registry.index.stored.format import GroupMetadata, PartMetadata
from gmi_registry.model import Kind, Trust

# No name, stamp, tag or base model holds a line's end.
_END = "\n"
_STATUSES = tuple(
    SpecStatus(stale, trust) for stale in (None, False, True) for trust in (None, *get_args(Trust))
)
_UNKNOWN = -1
_ENTRIES_AT_ONCE = 512
# Lines that lie together: so many are read where one is asked for.
_TOGETHER = 16
_KINDS: tuple[str, ...] = get_args(Kind)
_MARKS = ("stale", "mature")
# Members whose tags lie together: a query by one tag reads those alone that share its shard.
_SHARD_MEMBERS = 4096
_MOST_SHARDS = 512
_HEAD = 0
"""The place of what is not about tags."""


class Member(NamedTuple):
    """A model: its reference as text, the part of its group that it lies in, its row there, what a
    hub said of it, and how often it was downloaded."""

    name: str
    part: int
    row: int
    status: SpecStatus
    downloads: int | None


@dataclass(frozen=True, eq=False)
class MemberTable:
    """M members in the order of their ``names``, packed so that thousands are read at once:
    ``parts`` and ``rows`` [M] say where each lies; of their statuses ``codes`` [M] and ``stamps``
    ("" for none); ``downloads`` [M], -1 for unknown."""

    names: list[str]
    parts: NDArray[np.int32]
    rows: NDArray[np.int32]
    codes: NDArray[np.uint8]
    stamps: list[str]
    downloads: NDArray[np.int64]

    @classmethod
    def of(cls, members: Iterable[Member]) -> Self:
        """In order, whatever the order they come in."""
        known = sorted(members, key=lambda it: it.name)
        codes = [_STATUSES.index(replace(it.status, stamp=None)) for it in known]
        counts = [_UNKNOWN if it.downloads is None else it.downloads for it in known]
        return cls(
            [it.name for it in known],
            np.array([it.part for it in known], np.int32),
            np.array([it.row for it in known], np.int32),
            np.array(codes, np.uint8),
            [it.status.stamp or "" for it in known],
            np.array(counts, np.int64),
        )

    def status(self, row: int) -> SpecStatus:
        """What a hub said of the model at ``row``."""
        status: SpecStatus = _STATUSES[int(self.codes[row])]
        stamp = self.stamps[row]
        return replace(status, stamp=stamp) if stamp else status

    def counts(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Downloads of the models at ``rows`` [R], NaN for unknown: [R]."""
        found = self.downloads[rows].astype(np.float64)
        found[found == _UNKNOWN] = np.nan
        return found

    def to_bytes(self) -> bytes:
        """What ``from_bytes`` reads."""
        # Where all texts are empty, which most are, nothing is written and nothing taken apart.
        return save(
            {
                name: np.frombuffer(_END.join(value).encode() if any(value) else b"", np.uint8)
                if isinstance(value, list)
                else value
                for name, value in vars(self).items()
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """The inverse of ``to_bytes``; None for bytes that another program wrote."""
        try:
            arrays: dict[str, Any] = load(data)
            for name in ("names", "stamps"):
                text = arrays[name]
                split = str(text.data, "utf-8").split(_END) if len(text) else None
                arrays[name] = split or [""] * len(arrays["parts"])
            found = cls(**arrays)
        except (SafetensorError, LookupError, TypeError, ValueError):
            return None
        lengths = {len(value) for value in vars(found).values()}
        return found if len(lengths) == 1 else None


class MetadataLines:
    """The lines of parts of an index: out of the database, where they are, or else of the part's
    own file, which is then checked, and kept."""

    def __init__(self, files: CheckedFiles, database: LocalDatabase) -> None:
        self._files = files
        self._database = database
        self._read: dict[str, dict[int, bytes]] = {}

    @staticmethod
    def owner(part: PartMetadata) -> str:
        """Under which they lie in the database."""
        return f"lines {part.entries.sha256}"

    def of(self, part: PartMetadata, rows: Sequence[int] | None = None) -> list[bytes]:
        """Those of ``rows``, in that order; None means all, of which what was read waits for
        ``keep``. Raises what the files do."""
        wanted = range(part.rows) if rows is None else rows
        places = {row // _TOGETHER for row in wanted}
        found = {
            place: lines
            for place, value in self._database.values(self.owner(part), places).items()
            if len(lines := value.split(b"\n")) == min(_TOGETHER, part.rows - place * _TOGETHER)
        }
        if len(found) == len(places):
            return [found[row // _TOGETHER][row % _TOGETHER] for row in wanted]
        lines = [line for _, line in self._files.lines(part)]
        packs = range(0, len(lines), _TOGETHER)
        packed = {it // _TOGETHER: b"\n".join(lines[it : it + _TOGETHER]) for it in packs}
        self._read[self.owner(part)] = packed
        if rows is not None:
            self.keep()
        return [lines[row] for row in wanted]

    def keep(self) -> int:
        """Write down what was read of whole parts since the last time; how many these are."""
        read, self._read = self._read, {}
        if read:
            with self._database.together():
                for owner, packed in read.items():
                    self._database.put(owner, packed)
        return len(read)


class StoredEntries(Sequence[IndexEntry]):
    """The entries of a group's members. What was looked at stays in memory."""

    def __init__(self, lines: MetadataLines, group: GroupMetadata, members: MemberTable) -> None:
        self._lines = lines
        self._parts = group.parts
        self._members = members
        self._prompt_set = group.prompt_set.name
        self._shared: dict[str, Any] = {
            "encoder": f"{group.encoder.name}/{group.encoder.pretrained}",
            "prompts": group.prompt_set.prompts,
            "key": group.key.key,
        }
        self._known: dict[int, IndexEntry] = {}

    def __len__(self) -> int:
        return len(self._members.names)

    @overload
    def __getitem__(self, place: int) -> IndexEntry: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[IndexEntry, ...]: ...
    def __getitem__(self, place: int | slice) -> IndexEntry | tuple[IndexEntry, ...]:
        if isinstance(place, slice):
            return tuple(self.at(range(len(self))[place]))
        return self.at([range(len(self))[place]])[0]

    def __iter__(self) -> Iterator[IndexEntry]:
        for start in range(0, len(self), _ENTRIES_AT_ONCE):
            yield from self.at(range(start, min(len(self), start + _ENTRIES_AT_ONCE)))

    def at(self, places: Sequence[int]) -> list[IndexEntry]:
        """Of the members at ``places``, in that order: each part of theirs is asked once."""
        missing = np.array([place for place in places if place not in self._known], np.intp)
        parts = self._members.parts[missing]
        for part in np.unique(parts).tolist():
            members = missing[parts == part]
            rows = self._members.rows[members].tolist()
            lines = map(json.loads, self._lines.of(self._parts[part], rows))
            for place, line in zip(members.tolist(), lines, strict=True):
                prompt_set = line.get("prompt_set", self._prompt_set)
                entry = IndexEntry.from_plain(line, prompt_set=prompt_set, **self._shared)
                self._known[place] = entry
        return [self._known[place] for place in places]


@dataclass(frozen=True, eq=False)
class Postings:
    """Of K words, which ``rows`` each is of: those from ``starts`` [K + 1] on."""

    words: bytes
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]

    @classmethod
    def of(cls, found: Mapping[str, Sequence[int]]) -> Self:
        """Of rows by words."""
        words = sorted(found)
        text = "".join(f"{_END}{word}" for word in words) + _END
        starts = np.cumsum([0, *(len(found[word]) for word in words)], dtype=np.int64)
        rows = array("i", (row for word in words for row in found[word]))
        return cls(text.encode(), starts, np.frombuffer(rows, np.int32))

    def of_word(self, word: str) -> NDArray[np.int32]:
        """The rows of one word; none for one that is not there."""
        # What a terminal could not decode has no UTF-8, and is no word that a file may hold.
        wanted = f"{_END}{word}{_END}".encode(errors="replace")
        if _END in word or not word or word.encode(errors="replace").decode() != word:
            return self.rows[:0]
        at = self.words.find(wanted)
        if at < 0:
            return self.rows[:0]
        number = self.words.count(b"\n", 0, at)
        return self.rows[self.starts[number] : self.starts[number + 1]]

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Under names that begin with ``name``."""
        return {
            f"{name}.words": np.frombuffer(self.words, np.uint8),
            f"{name}.starts": self.starts,
            f"{name}.rows": self.rows,
        }

    @classmethod
    def from_arrays(cls, name: str, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of ``arrays``."""
        words = arrays[f"{name}.words"].tobytes()
        return cls(words, arrays[f"{name}.starts"], arrays[f"{name}.rows"])


class Facets:
    """What filters look at of M members. ``values`` gives what :func:`facet_values` has made, by
    places.

    What it does not give, or gives otherwise, ``again`` makes; that is kept by whoever makes it.
    """

    def __init__(
        self,
        members: int,
        values: Callable[[int], bytes | None],
        again: Callable[[], Mapping[int, bytes]],
    ) -> None:
        self._count = members
        self._values = values
        self._again = again
        self._made: Mapping[int, bytes] | None = None
        self._tags: dict[int, Postings] = {}

    def passing(self, filters: Filters) -> NDArray[np.bool_] | None:
        """Which members pass, as :meth:`Filters.admits` would have it: [M]; None for all."""
        if not filters.clauses:
            return None
        passing = np.ones(self._count, bool)
        for clause in filters.clauses:
            members = self._having(clause)
            passing &= members if clause.wanted else ~members
        return passing

    @property
    def base_models(self) -> set[str]:
        """What base models are called, folded."""
        return set(self._bases.words.decode().split(_END)) - {""}

    @cached_property
    def _head(self) -> dict[str, NDArray[Any]]:
        return self._read(_HEAD, self._is_head)

    @cached_property
    def _bases(self) -> Postings:
        return Postings.from_arrays("base", self._head)

    def _is_head(self, arrays: dict[str, NDArray[Any]]) -> bool:
        columns = all(len(arrays[name]) == self._count for name in ("kind", *_MARKS))
        return columns and int(arrays["shards"][0]) == _shards(self._count)

    def _read(
        self, place: int, fits: Callable[[dict[str, NDArray[Any]]], bool]
    ) -> dict[str, NDArray[Any]]:
        value = self._values(place) if self._made is None else self._made[place]
        if value is not None:
            try:
                arrays = load(value)
                if fits(arrays):
                    return arrays
            except (SafetensorError, LookupError, ValueError):
                pass
        self._made = self._again()
        return load(self._made[place])

    def _having(self, clause: Clause) -> NDArray[np.bool_]:
        """Which members have one of the words of a clause."""
        if clause.field == "kind":
            kinds = [_KINDS.index(word) for word in clause.words if word in _KINDS]
            return np.isin(self._head["kind"], kinds)
        found = np.zeros(self._count, bool)
        for word in clause.words:
            if clause.field == "mark":
                found |= self._head[word].astype(bool)
            elif clause.field == "tag":
                found[self._tagged(word)] = True
            else:
                found[self._bases.of_word(word)] = True
        return found

    def _tagged(self, word: str) -> NDArray[np.int32]:
        place = 1 + _shard(word, _shards(self._count))
        if place not in self._tags:
            arrays = self._read(place, lambda found: "tag.words" in found)
            self._tags[place] = Postings.from_arrays("tag", arrays)
        return self._tags[place].of_word(word)


def facet_values(lines: Iterable[Mapping[str, Any]]) -> dict[int, bytes]:
    """The facets of members by their lines of metadata, in order: a value for each place."""
    columns: dict[str, list[bool]] = {mark: [] for mark in _MARKS}
    kinds = array("B")
    bases: dict[str, list[int]] = defaultdict(list)
    tags: dict[str, list[int]] = defaultdict(list)
    for row, line in enumerate(lines):
        traits = plain_traits(line)
        kinds.append(_KINDS.index(line["kind"]))
        for mark in _MARKS:
            columns[mark].append(mark in (traits.marks or ()))
        for word in traits.base_models or ():
            bases[word].append(row)
        for word in traits.tags or ():
            tags[word].append(row)
    shards = _shards(len(kinds))
    head = {name: np.array(column, np.uint8) for name, column in columns.items()}
    head |= {"kind": np.frombuffer(kinds, np.uint8)}
    head |= {"shards": np.array([shards], np.int32)} | Postings.of(bases).arrays("base")
    split: list[dict[str, list[int]]] = [{} for _ in range(shards)]
    for tag, rows in tags.items():
        split[_shard(tag, shards)][tag] = rows
    found = {_HEAD: save(head)}
    for place, shard in enumerate(split, 1):
        found[place] = save(Postings.of(shard).arrays("tag"))
    return found


def _shards(members: int) -> int:
    return max(1, min(_MOST_SHARDS, -(-members // _SHARD_MEMBERS)))


def _shard(word: str, shards: int) -> int:
    return zlib.crc32(json.dumps(word).encode()) % shards
