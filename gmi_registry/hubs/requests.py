"""Requests to hubs: how many there were, when one that failed is made again, and what was said.

What hubs said before lies in files, for searches offline. Deleting them is always safe, what is
damaged counts as empty, and where nothing can be written nothing is remembered.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.sanitize import holds_secret

LONGEST_WAIT = 310.0
"""Seconds. Hubs count requests over five minutes, so no honest wait is longer."""

OnWait = Callable[[float], None]
"""Told the seconds of every wait before a hub is asked again."""

T = TypeVar("T")

_MOST_TRIES = 5
_log = logging.getLogger("gmi_registry.hubs")


class RequestCounter:
    """Counts HTTP requests. ``on_wait`` is called in the thread that waits."""

    def __init__(self, on_wait: OnWait | None = None) -> None:
        self.on_wait = on_wait
        self._methods: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        """Requests so far."""
        with self._lock:
            return self._methods.total()

    @property
    def methods(self) -> dict[str, int]:
        """Requests so far by method, the methods in alphabetical order."""
        with self._lock:
            return dict(sorted(self._methods.items()))

    def __str__(self) -> str:
        """E.g. ``requests: 1,003 (GET 503, HEAD 500)``."""
        methods = self.methods
        parts = ", ".join(f"{method} {count:,}" for method, count in methods.items())
        return f"requests: {sum(methods.values()):,}" + (f" ({parts})" if parts else "")

    def count(self, method: str) -> None:
        """One request more."""
        with self._lock:
            self._methods[method] += 1

    def tell(self, seconds: float) -> None:
        """Call ``on_wait``, where there is one."""
        if self.on_wait is not None:
            self.on_wait(seconds)


def log_wait(seconds: float) -> None:
    """Say to the log that a wait begins now."""
    _log.info("the hub is asked again in %.0f s", seconds)


@dataclass(frozen=True)
class Passing:
    """A failure that may pass: at most ``tries`` calls are made in all.

    Before the next one the hub is left alone for ``stated`` seconds where it says so, else for
    ``first`` seconds, and twice as long each further time.
    """

    tries: int
    stated: float | None = None
    first: float = 1.0

    def seconds(self, failures: int) -> float | None:
        """The wait after so many failures; None where nobody waits any longer."""
        # A second more, since hubs round.
        wait = self.first * 2 ** (failures - 1) if self.stated is None else self.stated + 1
        return None if failures >= self.tries or wait > LONGEST_WAIT else wait


def retry(
    call: Callable[[], T], passing: Callable[[Exception], Passing | None], on_wait: OnWait
) -> T:
    """What ``call`` returns, made again after a failure that ``passing`` says may pass.

    So it must be a call that may be made twice. ``on_wait`` is told of each wait before it begins.
    Raises what ``call`` raises in the end.
    """
    # A quarter of a second to import, which a folder can do without.
    import stamina

    logging.getLogger("stamina").addFilter(_not_ours)
    failures = 0

    def wait(error: Exception) -> bool | float:
        nonlocal failures
        failures += 1
        found = passing(error)
        seconds = None if found is None else found.seconds(failures)
        if seconds is None:
            return False
        on_wait(seconds)
        return seconds

    return stamina.retry(on=wait, attempts=_MOST_TRIES, timeout=None)(lambda: call())()


def _not_ours(record: logging.LogRecord) -> bool:
    """A filter: the library warns of every wait, and ``on_wait`` has told of ours already."""
    return not str(getattr(record, "stamina.callable", "")).startswith("gmi_registry.")


_LIMIT = 512 * 1024 * 1024


def read_note(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none that can be read."""
    content = read_sealed(path, limit=_LIMIT)
    try:
        found = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        _log.debug("%s cannot be read, and counts as empty: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def write_note(path: Path, document: object) -> None:
    """Put a document into a file, whole or not at all; where that fails nothing is remembered."""
    text = json.dumps(document)
    if holds_secret(text):
        return  # which the hub has echoed
    try:
        write_sealed(path, text.encode())
    except OSError as error:
        _log.debug("%s cannot be written: %s", path, error)


class ListingCache:
    """The last complete listing of one hub, in the file ``path``.

    ``version`` is that of what the hub keeps in it; a file of another one counts as empty.
    """

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self._version = version

    def read(self) -> dict[str, Any]:
        """What :meth:`keep` was given, and when, as ``listed``; empty where there was none."""
        document = read_note(self.path)
        declared = document.get("format")
        known = isinstance(declared, dict) and declared.get("version") == self._version
        return document if known else {}

    @property
    def listed(self) -> float | None:
        """When the last listing was kept, in seconds since 1970; None where there was none."""
        listed = self.read().get("listed")
        if isinstance(listed, int | float) and 0 <= listed < math.inf:
            return float(listed)
        return None

    @property
    def age(self) -> float | None:
        """How many seconds ago that was."""
        listed = self.listed
        return None if listed is None else max(0.0, time.time() - listed)

    def keep(self, **content: object) -> None:
        """Keep a complete listing in place of the one before."""
        declared = {"name": "gmi-listing", "version": self._version}
        write_note(self.path, {"format": declared, "listed": time.time(), **content})
