"""One writer at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gmi_registry.errors import InputError

__all__ = ["LOCK_NAME", "locked"]

LOCK_NAME = ".index.lock"
PATIENCE = 60.0
"""Seconds to wait for another writer."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep every other writer out of ``folder``, which is made where it is missing.

    The system lets the lock go when its holder ends, however that may be. Raises InputError where
    another writer still holds it after a minute.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK_NAME)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        raise InputError(
            f"another program is writing the index in {folder}",
            hint="try again when it has ended",
        ) from None
    try:
        yield
    finally:
        lock.release()
