"""Asking again, after a while that the hub names or that grows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import stamina

from gmi_registry.errors import RateLimitError
from gmi_registry.hubs.civitai.refusal import BusyError

__all__ = ["LONGEST_WAIT", "patiently"]

T = TypeVar("T")

LONGEST_WAIT = 300.0
"""Seconds. A hub that asks for more is not waited for."""

_TRIES = 5
_BUSY_TRIES = 4
_UNREACHED_TRIES = 3
"""So that nobody waits long for a hub that is not there."""


def patiently(call: Callable[[], T], on_wait: Callable[[float], None]) -> T:
    """What ``call`` returns, asked for again while the hub is busy, so it may be made twice.

    After 429 it waits as long as the hub says, a second more since hubs round, up to four times,
    unless that is longer than :data:`LONGEST_WAIT`; without a word of it, and after an error of
    the server or of the connection, for 1, 2 and 4 seconds. ``on_wait`` is told the seconds of
    each. Raises what ``call`` raises in the end.
    """
    logging.getLogger("stamina").addFilter(_not_ours)
    tries = 0

    def wait(error: Exception) -> bool | float:
        nonlocal tries
        tries += 1
        seconds = 2.0 ** (tries - 1)
        if isinstance(error, RateLimitError):
            most = _TRIES
            if error.retry_after is not None:
                seconds = error.retry_after + 1
        elif isinstance(error, BusyError):
            most = _BUSY_TRIES if error.reached else _UNREACHED_TRIES
        else:
            return False
        if tries >= most or seconds > LONGEST_WAIT:
            return False
        on_wait(seconds)
        return seconds

    return stamina.retry(on=wait, attempts=_TRIES, timeout=None)(call)()


def _not_ours(record: logging.LogRecord) -> bool:
    """A filter: the library warns of every wait, and ``on_wait`` has told of ours already."""
    return not str(getattr(record, "stamina.callable", "")).startswith("gmi_registry.")
