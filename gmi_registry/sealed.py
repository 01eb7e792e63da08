"""Files of a cache: read as they were written, or not at all.

Each begins with the SHA-256 of what follows, so that what a disk, a crash or another program did to
it is noticed, and made again. It appears under its name whole, so that processes share a folder
without locks, the last to write winning.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path

__all__ = ["read_sealed", "write_sealed"]

_SEAL = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)


def read_sealed(path: Path, *, limit: int = -1) -> bytes | None:
    """What ``write_sealed`` was given; None where there is no file, or one that is damaged, cannot
    be read, or is longer than ``limit`` bytes. A damaged one is deleted."""
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + _SEAL if limit >= 0 else -1)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.debug("cannot read %s: %s", path, error)
        return None
    content = data[_SEAL:]
    if hashlib.sha256(content).digest() == data[:_SEAL]:
        return content
    _log.debug("%s is damaged and will be made again", path)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    return None


def write_sealed(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and the folder that it lies in. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(prefix=".", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(hashlib.sha256(content).digest())
            stream.write(content)
        # No fsync: after a power cut the seal tells a torn file from a whole one.
        Path(scratch).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(scratch).unlink()
        raise
