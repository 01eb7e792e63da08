"""The models of a group that count, in the order in which all questions see them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.standing import Standing
from gmi_registry.trust import Trust

__all__ = ["Member", "Members"]

# No name and no stamp holds a line's end.
_END = "\n"
_STANDINGS = tuple(
    Standing(stale, trust) for stale in (None, False, True) for trust in (None, *get_args(Trust))
)


class Member(NamedTuple):
    """A model: its reference as text, the number of its row in the reader's database, and what a
    hub said of it."""

    name: str
    number: int
    standing: Standing


@dataclass(frozen=True, eq=False)
class Members:
    """M members in the order of their ``names``, packed so that thousands are read at once:
    ``numbers`` [M], and of their standings ``codes`` [M] and ``stamps`` ("" for none)."""

    names: list[str]
    numbers: NDArray[np.int64]
    codes: NDArray[np.uint8]
    stamps: list[str]

    @classmethod
    def of(cls, members: Iterable[Member]) -> Self:
        """In order, whatever the order they come in."""
        known = sorted(members, key=lambda it: it.name)
        standings = [it.standing for it in known]
        plain = [replace(standing, stamp=None) for standing in standings]
        return cls(
            [it.name for it in known],
            np.array([it.number for it in known], np.int64),
            np.array([_STANDINGS.index(standing) for standing in plain], np.uint8),
            [standing.stamp or "" for standing in standings],
        )

    def standing(self, row: int) -> Standing:
        """What a hub said of the model at ``row``."""
        standing: Standing = _STANDINGS[int(self.codes[row])]
        stamp = self.stamps[row]
        return replace(standing, stamp=stamp) if stamp else standing

    def to_columns(self) -> tuple[str, bytes, bytes, str]:
        """What ``from_columns`` reads."""
        names, stamps = (_END.join(texts) for texts in (self.names, self.stamps))
        return names, self.numbers.tobytes(), self.codes.tobytes(), stamps

    @classmethod
    def from_columns(cls, names: str, numbers: bytes, codes: bytes, stamps: str) -> Self:
        """The inverse of ``to_columns``."""
        return cls(
            names.split(_END),
            np.frombuffer(numbers, np.int64),
            np.frombuffer(codes, np.uint8),
            stamps.split(_END),
        )
