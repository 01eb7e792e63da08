"""Files that appear whole or not at all: texts, and sealed files of a cache.

A sealed file begins with the SHA-256 of what follows, so that what a disk, a crash or another
program did to it is noticed, and it is made again. Processes share a folder without locks: the
last to write wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sys
from pathlib import Path

from gmi_registry.errors import InputError

_SEAL = hashlib.sha256().digest_size

_log = logging.getLogger(__name__)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS
# The kernel, the C library or the file system does not know the call.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def user_cache(chosen: Path | None = None) -> Path:
    """``chosen``, else the folder for what this package keeps for this user; neither need exist."""
    if chosen is not None:
        return chosen
    from platformdirs import user_cache_path

    return user_cache_path("gmi-registry", appauthor=False)


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
    import tempfile  # not for who only asks where the cache is

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


def exchange(first: Path, second: Path) -> bool:
    """Let two existing paths on one file system change places; no moment shows only one of them.

    Returns False, with nothing changed, where this system has no such call: renameat2(2) of
    Linux 3.15 and glibc 2.28, renamex_np(2) of macOS 10.12. Raises OSError where it failed.
    """
    import ctypes

    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    a, b = os.fsencode(first), os.fsencode(second)
    if sys.platform.startswith("linux") and hasattr(library, "renameat2"):
        assert library is not None
        failed = library.renameat2(_AT_FDCWD, a, _AT_FDCWD, b, _RENAME_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        assert library is not None
        failed = library.renamex_np(a, b, _RENAME_SWAP)
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


_HINT = "name a file in a folder that exists and that you may write to"


def require_writable_file(path: Path, what: str, *, hint: str = _HINT) -> None:
    """Raise InputError where :func:`write_whole` could not write ``path``; nothing is written."""
    folder = path.absolute().parent
    reason = None
    if path.is_dir():
        reason = "it is a folder"
    elif not folder.is_dir():
        reason = f"{folder} is no folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = f"you may not write to {folder}"
    if reason is not None:
        raise InputError(f"{path}: the {what} cannot be written: {reason}", hint=hint)


def write_text(path: Path, text: str, what: str, *, hint: str = _HINT) -> Path:
    """Write ``text`` as UTF-8 to ``path`` whole or not at all, and return the absolute path.

    Raises InputError, which calls the text ``what``, where that cannot be done; a file that was
    there before is then unchanged.
    """
    import secrets

    # A file name may hold bytes that are no text.
    content = text.encode("utf-8", "backslashreplace")
    path = path.absolute()
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with scratch.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: the {what} cannot be written: {error.strerror}",
            hint=hint,
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return path
