"""The models of a group that count, in the order in which all questions see them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from gmi_registry.index.standing import Standing
from gmi_registry.model import Trust

__all__ = ["Member", "Members"]

# No name and no stamp holds a line's end.
_END = "\n"
_STANDINGS = tuple(
    Standing(stale, trust) for stale in (None, False, True) for trust in (None, *get_args(Trust))
)
_UNKNOWN = -1


class Member(NamedTuple):
    """A model: its reference as text, the part of its group that it lies in, its row there, what a
    hub said of it, and how often it was downloaded."""

    name: str
    part: int
    row: int
    standing: Standing
    downloads: int | None


@dataclass(frozen=True, eq=False)
class Members:
    """M members in the order of their ``names``, packed so that thousands are read at once:
    ``parts`` and ``rows`` [M] say where each lies; of their standings ``codes`` [M] and ``stamps``
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
        standings = [it.standing for it in known]
        plain = [replace(standing, stamp=None) for standing in standings]
        counts = [_UNKNOWN if it.downloads is None else it.downloads for it in known]
        return cls(
            [it.name for it in known],
            np.array([it.part for it in known], np.int32),
            np.array([it.row for it in known], np.int32),
            np.array([_STANDINGS.index(standing) for standing in plain], np.uint8),
            [standing.stamp or "" for standing in standings],
            np.array(counts, np.int64),
        )

    def standing(self, row: int) -> Standing:
        """What a hub said of the model at ``row``."""
        standing: Standing = _STANDINGS[int(self.codes[row])]
        stamp = self.stamps[row]
        return replace(standing, stamp=stamp) if stamp else standing

    def counts(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Downloads of the models at ``rows`` [R], NaN for unknown: [R]."""
        found = self.downloads[rows].astype(np.float64)
        found[found == _UNKNOWN] = np.nan
        return found

    def to_bytes(self) -> bytes:
        """What ``from_bytes`` reads."""
        arrays = {
            name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        # Where all are empty, which most are, nothing is written and nothing taken apart.
        texts = {
            name: np.frombuffer(_END.join(value).encode() if any(value) else b"", np.uint8)
            for name, value in vars(self).items()
            if isinstance(value, list)
        }
        return save(arrays | texts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self | None:
        """The inverse of ``to_bytes``; None for bytes that another program wrote."""
        try:
            arrays = load(data)
            count = len(arrays["parts"])
            texts = {
                name: str(text.data, "utf-8").split(_END) if len(text) else [""] * count
                for name in ("names", "stamps")
                for text in (arrays.pop(name),)
            }
            found = cls(
                names=texts["names"],
                parts=arrays["parts"],
                rows=arrays["rows"],
                codes=arrays["codes"],
                stamps=texts["stamps"],
                downloads=arrays["downloads"],
            )
        except (SafetensorError, LookupError, TypeError, ValueError):
            return None
        lengths = {len(value) for value in vars(found).values()}
        return found if len(lengths) == 1 else None
