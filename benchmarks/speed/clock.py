"""Times taken in turns, so that what else the machine does falls on all works alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def timed(works: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work, ``rounds`` of them, after one that does not count."""
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            found[name].append(time.perf_counter() - began)
    return found


def ratio(found: Mapping[str, list[float]], above: str, below: str) -> float:
    """The median over rounds of one work's time over another's in the same round."""
    pairs = zip(found[above], found[below], strict=True)
    return statistics.median(first / second for first, second in pairs)
