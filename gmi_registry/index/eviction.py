"""What a cache holds on this disk, and which of it goes first: what was used longest ago.

The time of a file's last use is its modification time, which the caches here set anew when they
read it; the access time that a file system keeps is switched off on many.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["StoredFile", "evict", "mark_used", "stored_files"]

_SCRATCH_AGE = 3600.0
"""Seconds after which a file that somebody was writing, its name a dot first, has been given up."""

_MARK_AGE = 3600.0
"""Seconds after which a use is noted again: not at every read, and soon enough for days."""

_log = logging.getLogger(__name__)


def _deleted(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        _log.debug("cannot delete %s: %s", path, error)
        return False
    return True


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with its size in bytes and its last use in seconds since 1970.

    ``delete`` takes ``path`` away and says whether it did.
    """

    path: Path
    size: int
    used: float
    delete: Callable[[Path], bool] = _deleted


def stored_files(folder: Path) -> list[StoredFile]:
    """The plain files in ``folder`` and below, sorted by path; links are not followed.

    What cannot be looked at, or vanishes meanwhile, is left out.
    """
    found = []
    for place, _, names in os.walk(folder, followlinks=False):
        for name in names:
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(StoredFile(path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda file: file.path)


def evict(
    files: Iterable[StoredFile],
    *,
    unused_for: float = 0.0,
    max_bytes: int = 0,
    dry_run: bool = False,
) -> list[StoredFile]:
    """Delete the files longest unused until at most ``max_bytes`` are left; return what went.

    Files used within the last ``unused_for`` seconds are spared, even where more than ``max_bytes``
    stay then. With the defaults everything goes. ``dry_run`` only says what would. Each file goes
    in one step, so a program that reads them at the same time finds one whole or not at all; one
    that cannot be deleted stays, without an error.
    """
    files = list(files)
    now = time.time()
    left = sum(file.size for file in files)
    gone = []
    for file in sorted(files, key=lambda file: (file.used, file.path)):
        if left <= max_bytes and max_bytes > 0:
            break
        age = now - file.used
        if unused_for > 0 and age < unused_for:
            continue
        if file.path.name.startswith(".") and age < _SCRATCH_AGE:
            continue
        if dry_run or file.delete(file.path):
            gone.append(file)
            left -= file.size
    return gone


def mark_used(path: Path) -> None:
    """Note that ``path`` was read now. Nothing is raised: a cache may be read-only."""
    try:
        if abs(time.time() - path.stat().st_mtime) > _MARK_AGE:
            os.utime(path)
    except OSError as error:
        _log.debug("cannot note the use of %s: %s", path, error)
