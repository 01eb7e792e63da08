"""Warnings of libraries to their own authors, which no user can act on."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["without_future_warnings"]


@contextmanager
def without_future_warnings() -> Iterator[None]:
    """Drop FutureWarnings in the block, unless ``python -W`` or PYTHONWARNINGS asks for them."""
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore", FutureWarning)
        yield
