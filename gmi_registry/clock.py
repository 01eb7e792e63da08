"""The stages of a search, and how long each took."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Clock", "Progress", "Stage", "Timings"]

Stage = Literal["list", "index", "prepare", "encoder", "query", "rank"]
Progress = Callable[[Stage, int, int], None]
"""Told (stage, done, total): specifications in ``index``, and in ``prepare``, which a large index
has once; else 0 or 1 of 1."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time of each stage in seconds; 0 for one that was not reached.

    ``list`` asks the hub, ``index`` reads specifications, ``encoder`` loads the model, ``query``
    encodes the images, ``rank`` compares.
    """

    list: float = 0.0
    index: float = 0.0
    encoder: float = 0.0
    query: float = 0.0
    rank: float = 0.0

    @property
    def total(self) -> float:
        """The sum in seconds."""
        return self.list + self.index + self.encoder + self.query + self.rank


class Clock:
    """Times one stage after the other, and reports where each begins and ends."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._seconds: dict[Stage, float] = {}
        self._stage: Stage | None = None
        self._start = 0.0

    def begin(self, stage: Stage) -> None:
        self.end()
        self._stage, self._start = stage, time.perf_counter()
        self._tell(0)

    def end(self) -> None:
        if self._stage is not None:
            self._seconds[self._stage] = time.perf_counter() - self._start
            self._tell(1)
            self._stage = None

    def _tell(self, done: int) -> None:
        if self._stage is not None and self._stage != "index":  # which counts for itself
            self._progress(self._stage, done, 1)

    @property
    def timings(self) -> Timings:
        return Timings(**self._seconds)
