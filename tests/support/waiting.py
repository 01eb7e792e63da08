"""Waiting for another thread or process, in short steps and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(done: Callable[[], object], seconds: float = 60, step: float = 0.01) -> None:
    """Until ``done`` says so; an AssertionError after ``seconds``."""
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(step)
