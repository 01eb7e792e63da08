"""Requests and waits of one Civitai hub, those of its registry included."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

__all__ = ["CivitaiTraffic", "HasTraffic", "OnWait"]

OnWait = Callable[[float], None]
"""Told the seconds of every wait before the hub is asked again."""

_log = logging.getLogger("gmi_registry.hubs")


class Counted(Protocol):
    """Requests of something else, as :class:`CivitaiTraffic` counts its own."""

    on_wait: OnWait | None

    @property
    def methods(self) -> Mapping[str, int]: ...


@runtime_checkable
class HasTraffic(Protocol):
    """A store across a network."""

    @property
    def traffic(self) -> Counted: ...


class CivitaiTraffic:
    """Counts requests to Civitai and its storage, together with those that ``other`` counts."""

    def __init__(self, other: Counted | None = None) -> None:
        self._other = other
        self._methods: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._on_wait: OnWait | None = None

    @property
    def methods(self) -> dict[str, int]:
        """Requests so far by method, the methods in alphabetical order."""
        with self._lock:
            total = Counter(self._methods)
        total.update({} if self._other is None else self._other.methods)
        return dict(sorted(total.items()))

    @property
    def on_wait(self) -> OnWait | None:
        """Called in the thread that waits."""
        return self._on_wait

    @on_wait.setter
    def on_wait(self, told: OnWait | None) -> None:
        self._on_wait = told
        if self._other is not None:
            self._other.on_wait = told

    def count(self, method: str) -> None:
        """One request more."""
        with self._lock:
            self._methods[method] += 1

    def wait(self, seconds: float) -> None:
        """Tell of a wait that begins now."""
        _log.info("Civitai is asked again in %.0f s", seconds)
        if self._on_wait is not None:
            self._on_wait(seconds)
