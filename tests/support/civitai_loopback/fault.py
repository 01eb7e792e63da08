"""Failures on demand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

__all__ = ["Fault", "Faults"]

Kind = Literal[
    "429", "500", "cut", "slow", "changed-file", "wrong-digest", "hostile", "endless", "loop",
    "expired", "whole", "circle", "left-out", "stumble", "bot-check", "login-page", "region",
]  # fmt: skip


@dataclass
class Fault:
    """What happens to the next ``times`` requests that match.

    ``method`` is None for any; ``path_regex`` is searched for in the path with its query, unquoted.
    A file's bytes are asked for at ``/storage/...`` on ``localhost``.

    - ``429``: refused, with ``Retry-After: retry_after`` unless that is None.
    - ``500``: an internal error.
    - ``cut``: the connection ends after half the answer's body.
    - ``slow``: the body takes ``seconds``, in pieces.
    - ``changed-file``: just before the request is looked at, the author replaces the file ``file``
      by one with ``content``.
    - ``wrong-digest``: as many bytes, of which one is another.
    - ``hostile``: ``content`` in place of the body, as ``content_type``, with ``status``, at
      ``location`` where that is given.
    - ``endless``: a listing whose every page leads to another, with no model on it.
    - ``loop``: a listing whose page leads to itself.
    - ``circle``: a listing whose pages lead to each other, in turns.
    - ``left-out``: a listing that goes by a tag lacks ``model``, which has it.
    - ``stumble``: a listing that would show ``model`` is an internal error; another is as ever.
    - ``bot-check``: 403 with the page that what stands before Civitai shows to browsers.
    - ``login-page``: 200 with the page to log in.
    - ``region``: 451 with the words for where a model is not given out.
    - ``expired``: the storage no longer takes the address that it gave.
    - ``whole``: the storage takes no notice of Range.
    """

    kind: Kind
    method: str | None = None
    path_regex: str = ".*"
    times: int = 1
    retry_after: int | None = 1
    seconds: float = 1.0
    file: int | None = None
    model: int | None = None
    content: bytes = b""
    content_type: str = "application/json"
    status: int = 200
    location: str | None = None
    seen: int = 0


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
            if fault.method not in (None, method) or not re.search(fault.path_regex, target):
                continue
            fault.seen += 1
            if fault.seen >= fault.times:
                self._waiting.remove(fault)
            return fault
        return None
