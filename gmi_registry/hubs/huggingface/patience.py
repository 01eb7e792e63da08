"""Asking again where huggingface_hub's client asks only once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import HfHubHTTPError

from gmi_registry.hubs.huggingface.limit import wait_after
from gmi_registry.hubs.huggingface.reach import http_library
from gmi_registry.hubs.huggingface.traffic import announce_wait

__all__ = ["patiently", "pause"]

T = TypeVar("T")

_TRIES = 5
_BUSY = frozenset({500, 502, 503, 504})
_BUSY_TRIES = 3
_BUSY_WAIT = 1.0
_BROKEN = (
    http_library.RemoteProtocolError,
    http_library.ReadError,
    http_library.WriteError,
    http_library.ConnectError,
    http_library.TimeoutException,
)


def pause(seconds: float) -> None:
    """Ask nothing of the hub for so long, and say so to :class:`~.traffic.Traffic`.

    A hub that is asked again at once stays as busy as it is: the wait is what it asked for.
    """
    announce_wait(seconds)
    time.sleep(seconds)


def patiently(call: Callable[[], T], *, limited: bool = True) -> T:
    """What ``call`` returns, asked for again while the hub is busy.

    After 429 it waits as long as the hub says, up to four times, unless that is longer than
    :data:`~.limit.LONGEST_WAIT`; after an error of the server, or a connection that broke or did
    not come about, a few seconds, twice. So ``call`` must be one that may be made twice.
    ``limited=False`` is for calls that see to 429 and to connections by themselves. The waits are
    told to :class:`~.traffic.Traffic`. Raises what ``call`` raises in the end.
    """
    for attempt in range(1, _TRIES):
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code
            wait = None
            if status == 429 and limited:
                wait = wait_after(error.response.headers, 2.0**attempt)
            elif status in _BUSY and attempt < _BUSY_TRIES:
                wait = _BUSY_WAIT * attempt
            if wait is None:
                raise
        except _BROKEN:
            if not limited or attempt >= _BUSY_TRIES:
                raise
            wait = _BUSY_WAIT * attempt
        pause(wait)
    return call()
