"""The worker as a process of its own, which may fall without taking the receiver with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

__all__ = ["WorkerProcess"]

_MODULE = "gmi_registry.webhook.worker"
_FIRST_WAIT = 1.0
_LONGEST_WAIT = 60.0
_STEADY = 60.0
_GOODBYE = 10.0


class WorkerProcess:
    """``python -m`` the worker with ``arguments``, begun again whenever it ends, from ``with`` on.

    It does not get the environment variables ``without``: secrets that are no business of its.

    Between two starts lies a second, twice as long each time up to a minute, until one has run for
    a minute. It draws pictures, and so may run out of memory: the model that was its turn is taken
    up again, and set aside after the third time. At the end of the block it is ended at once; what
    it was at is safe to cut off.
    """

    def __init__(self, arguments: Sequence[str], *, without: Sequence[str] = ()) -> None:
        self._environment = {k: v for k, v in os.environ.items() if k not in without}
        self._command = [sys.executable, "-m", _MODULE, "--until-input-ends", *arguments]
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="gmi-webhook-worker", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        process = self._process
        if process is not None:
            process.kill()
        self._thread.join(_GOODBYE)

    def is_alive(self) -> bool:
        """Whether it runs now."""
        process = self._process
        return process is not None and process.poll() is None

    def _keep(self) -> None:
        wait = _FIRST_WAIT
        while not self._stop.is_set():
            begun = time.monotonic()
            # Its standard input ends with this process, and it with that: no worker is left behind
            # even where this one is killed.
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, env=self._environment
            )
            if self._stop.is_set():
                self._process.kill()
            self._process.wait()
            wait = _FIRST_WAIT if time.monotonic() - begun > _STEADY else wait
            self._stop.wait(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
