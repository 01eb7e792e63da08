"""The BLAS that numpy multiplies matrices with: how many threads it has is chosen here."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np  # noqa: F401  which brings the BLAS that is looked for
from threadpoolctl import ThreadpoolController

__all__ = ["one_thread"]

_taken = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it a product of matrices takes the thread that asks for it, and no other.

    For those that put a thread on every core: several callers of a BLAS with threads of its own
    keep each other waiting. It is a setting of the whole process, so the first that is in it sets
    it and sets it back; for another that stays longer, products have their threads again.
    """
    if not _taken.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        _taken.release()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
