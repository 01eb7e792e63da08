"""Failures on demand."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Fault", "Faults"]

Kind = Literal[
    "429", "500", "cut", "slow", "stale-parent", "changed-file", "wrong-digest", "hostile-content"
]


@dataclass
class Fault:
    """What happens to the next ``times`` requests that match.

    ``method`` is None for any; ``path_regex`` is searched for in the path with its query, unquoted.
    A large file's bytes are asked for at ``/storage/{repo}/{sha256}/{path}`` on ``localhost``.

    - ``429``: refused by the RateLimit header, to be tried again in ``retry_after`` seconds.
    - ``500``: an internal error.
    - ``cut``: the connection ends after half the answer's body, or before any of it where it has
      none. The request has its effect, as when only the answer is lost.
    - ``slow``: the body takes ``seconds``, in pieces.
    - ``stale-parent``: just before a commit is looked at, somebody else commits ``files``.
    - ``changed-file``: just before a file is served, somebody else commits ``content`` (or else
      its bytes backwards) under its path. Pinned revisions still get the old bytes.
    - ``wrong-digest``: as many bytes, of which one differs from what the ETag promises.
    - ``hostile-content``: the file holds ``content`` instead, ETag and size alike. A HEAD request
      shows the same and does not count.

    ``applied`` says whether the request has its effect before the failure; None takes the usual
    for the kind: yes for ``cut`` and ``slow``, no for ``429`` and ``500``.
    """

    kind: Kind
    method: str | None = None
    path_regex: str = ".*"
    times: int = 1
    retry_after: int = 1
    seconds: float = 1.0
    content: bytes | None = None
    files: dict[str, bytes | None] = field(default_factory=lambda: {"notes.txt": b"in between\n"})
    applied: bool | None = None
    seen: int = 0

    @property
    def has_effect(self) -> bool:
        return self.kind not in ("429", "500") if self.applied is None else self.applied


_FILE = re.compile(r"/(resolve|raw|storage)/")
_COMMIT = re.compile(r"/api/[^/]+/[^/]+/[^/]+/commit/")


class Faults:
    """The faults that are still to come, in the order in which they were injected."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, target: str) -> Fault | None:
        """The first fault that this request meets; it is spent when its ``times`` are over."""
        for fault in self._waiting:
            if not _meets(fault, method, target):
                continue
            if not (fault.kind == "hostile-content" and method == "HEAD"):
                fault.seen += 1
                if fault.seen >= fault.times:
                    self._waiting.remove(fault)
            return fault
        return None


def _meets(fault: Fault, method: str, target: str) -> bool:
    if fault.method not in (None, method) or not re.search(fault.path_regex, target):
        return False
    if fault.kind == "stale-parent":
        return method == "POST" and bool(_COMMIT.match(target))
    if fault.kind in ("changed-file", "hostile-content"):
        return bool(_FILE.search(target)) and method in ("GET", "HEAD")
    if fault.kind == "wrong-digest":
        return bool(_FILE.search(target)) and method == "GET"
    return True
