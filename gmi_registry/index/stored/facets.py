"""What filters ask of a group's members, packed so that a question reads little of it."""

from __future__ import annotations

import json
import zlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gmi_registry.filters import Clause, Filters, Traits
from gmi_registry.model import Kind

__all__ = ["Facets", "Postings", "facet_values"]

_KINDS: tuple[str, ...] = get_args(Kind)
_MARKS = ("stale", "mature")
# No tag and no base model holds a line's end.
_END = "\n"
# Members whose tags lie together: a question about one tag reads those alone that share its shard.
_SHARD_MEMBERS = 4096
_MOST_SHARDS = 512
_HEAD = 0
"""The place of what is not about tags."""


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
    """The facets of M members. ``values`` gives what :func:`facet_values` has made, by places.

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

    def passing(self, filters: Filters, *, nsfw: bool) -> NDArray[np.bool_] | None:
        """Which members pass, as :meth:`Filters.admits` would have it: [M]; None for all.

        Without ``nsfw`` none that is marked so passes, whatever its hub.
        """
        found = [(self._having(clause), clause.wanted) for clause in filters.clauses]
        if not nsfw:
            found.append((self._head["nsfw"].astype(bool), False))
        if not found:
            return None
        passing = np.ones(self._count, bool)
        for members, wanted in found:
            passing &= members if wanted else ~members
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
        columns = all(len(arrays[name]) == self._count for name in ("kind", "nsfw", *_MARKS))
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

    def _marked(self, rows: NDArray[np.int32]) -> NDArray[np.bool_]:
        found = np.zeros(self._count, bool)
        found[rows] = True
        return found

    def _having(self, clause: Clause) -> NDArray[np.bool_]:
        """Those that have one of the words of a clause."""
        if clause.field == "kind":
            kinds = [_KINDS.index(word) for word in clause.words if word in _KINDS]
            return np.isin(self._head["kind"], kinds)
        if clause.field == "mark":
            marked = np.zeros(self._count, bool)
            for word in clause.words:
                marked |= self._head[word].astype(bool)
            return marked
        of_word = self._tagged if clause.field == "tag" else self._bases.of_word
        return self._marked(np.concatenate([of_word(word) for word in clause.words]))

    def _tagged(self, word: str) -> NDArray[np.int32]:
        place = 1 + _shard(word, _shards(self._count))
        if place not in self._tags:
            arrays = self._read(place, lambda found: "tag.words" in found)
            self._tags[place] = Postings.from_arrays("tag", arrays)
        return self._tags[place].of_word(word)


def facet_values(lines: Iterable[Mapping[str, Any]]) -> dict[int, bytes]:
    """The facets of members by their lines of metadata, in order: a value for each place."""
    columns: dict[str, list[bool]] = {"nsfw": [], **{mark: [] for mark in _MARKS}}
    kinds = array("B")
    bases: dict[str, list[int]] = defaultdict(list)
    tags: dict[str, list[int]] = defaultdict(list)
    for row, line in enumerate(lines):
        traits = Traits.of(
            line["model"].partition(":")[0],
            tags=line.get("tags", ()),
            base_model=line.get("base_model"),
            kind=line["kind"],
            nsfw=bool(line.get("nsfw")),
            hub_tags=line.get("hub_tags") or (),
            stale=line.get("stale"),
        )
        kinds.append(_KINDS.index(line["kind"]))
        columns["nsfw"].append(bool(line.get("nsfw")))
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
