"""A process that kills itself at one of the things that it does to files and to a hub."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from gmi_registry.spec import PromptSet

__all__ = ["COMMITTING", "NOTE", "PROMPTS", "Steps", "stages"]

PROMPTS = PromptSet("few", 1, tuple(f"a picture of thing number {n}" for n in range(20)))
_CHANGES = frozenset(
    {
        *("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.symlink"),
        *("os.truncate", "sqlite3.connect"),
    }
)
_COMMIT = "POST /api/models/alice/ink/commit/main"
COMMITTING = (_COMMIT, f"the answer to {_COMMIT} is used")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NOTE = "KILL_NOTE"
"""The variable with the path of the file in which a process says where it killed itself."""


class Steps:
    """Notes what a process changes, and kills it at a step: the number, or the first so named."""

    def __init__(self, last: int | str | None) -> None:
        self.names: list[str] = []
        self._last = last
        self._open = False

    def watch(self) -> None:
        import httpx2

        real = httpx2.Client.send

        def send(client: Any, request: Any, **settings: Any) -> Any:
            path = request.url.path
            self.step(f"{request.method} {path}")
            answer = real(client, request, **settings)
            self.step(f"the answer to {request.method} {path} is used")
            return answer

        httpx2.Client.send = send
        self._open = True
        sys.addaudithook(self._heard)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._open:
            return
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES:
            self.step(f"open {arguments[0]}")
        elif event in _CHANGES:
            self.step(f"{event} {arguments[0]}")

    def step(self, name: str) -> None:
        if not self._open:
            return
        self.names.append(name)
        if self._last in (name, len(self.names)):
            self._open = False
            found = {"step": len(self.names), "stage": self._stage(), "name": name}
            Path(os.environ[NOTE]).write_text(json.dumps(found), encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)

    def _stage(self) -> str:
        """What the process was at; another run may do the same a step earlier or later."""
        if self.names[-1] in COMMITTING:
            return "committing"
        pictures = [name for name in self.names if name.endswith(".png")]
        if any(name.startswith("os.remove") for name in pictures):
            return "cleaning"
        whole = len(pictures) == len(PROMPTS) and not self.names[-1].endswith(".png")
        return "putting" if whole else "drawing" if pictures else "looking"

    def stop(self) -> None:
        self._open = False


def stages(names: list[str]) -> dict[str, range]:
    """The steps of a run, counted from 1, by what it does then."""
    pictures = [number for number, name in enumerate(names, 1) if name.endswith(".png")]
    drawn = [number for number in pictures if names[number - 1].startswith("open ")]
    gone = [number for number in pictures if names[number - 1].startswith("os.remove")]
    # A step more or less in another run: what is remembered of files depends on their age.
    end = len(names) - 4
    return {
        "looking": range(1, drawn[0]),
        "drawing": range(drawn[0], drawn[-1] + 1),
        "putting": range(drawn[-1] + 1, gone[0]),
        "cleaning": range(gone[0], end),
    }
