"""Whether there is a hub at all, so that nobody waits long for one that is not there."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

__all__ = ["NeverReached", "Reach", "http_library"]

_TRIES = 3
_PATIENCE = 3.0  # seconds

http_library: Any = sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]
"""httpx or httpx2, whichever this version of huggingface_hub was built on."""


class NeverReached(OfflineModeIsEnabled):
    """No connection came about, now or before; the cause says why.

    The client's own loops try again after every broken connection, and its downloads look into
    the cache: this kind of error ends the former and leaves the latter.
    """


class Reach:
    """What became of the requests of one run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """A new run begins."""
        with self._lock:
            self._answered = False
            self._failures = 0
            self._since: float | None = None

    def send(self, send: Callable[..., Any], request: Any, **settings: Any) -> Any:
        """What ``send`` returns for a request.

        Where nothing has answered yet, the third connection that fails, or the first after three
        seconds, raises NeverReached; every other error passes. Once something has answered the
        network is there, and how often to try again is for the caller to decide.
        """
        with self._lock:
            if self._since is None:
                self._since = time.monotonic()
        try:
            response = send(request, **settings)
        except (http_library.ConnectError, http_library.ConnectTimeout) as error:
            if self._is_hopeless():
                raise NeverReached(str(error)) from error
            raise
        self._answered = True
        return response

    def _is_hopeless(self) -> bool:
        with self._lock:
            if self._answered or self._since is None:
                return False
            self._failures += 1
            late = time.monotonic() - self._since >= _PATIENCE
            return late or self._failures >= _TRIES
