"""Files and folders that appear whole or not at all, and files of a cache.

The latter begin with the SHA-256 of what follows, so that what a disk, a crash or another program
did to one is noticed, and it is made again. Processes share a folder without locks: the last to
write wins.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gmi_registry.errors import InputError

_PLACE_HINT = "name a file in a folder that exists and that you can write to"
_SEAL = hashlib.sha256().digest_size
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h
_RENAME_SWAP = 2  # sys/stdio.h of macOS
# The kernel, the C library or the file system does not know the call.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def scratch_file(
    folder: Path, name: str | None = None, *, private: bool = False
) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file in ``folder``, open for writing and reading; it goes away unless it gets a name.

    It is called ``name`` until then, in place of what a killed process left under that; without one
    ``.WORD.part``, where WORD is nobody else's. ``private`` keeps other users from reading it.
    Raises OSError.
    """
    scratch = folder / (name or f".{os.urandom(8).hex()}.part")
    if name is not None:
        scratch.unlink(missing_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(scratch, flags, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream, scratch
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


@contextlib.contextmanager
def new_file(
    path: Path, *, flush: bool = True, private: bool = False, scratch: str | None = None
) -> Iterator[BinaryIO]:
    """A file to be filled, which takes the name ``path`` where the block ends without an error.

    With ``flush`` it is on the disk before that, so that after a power cut, too, ``path`` is the
    old file or the whole new one. ``private`` and ``scratch``, its name until then, are as for
    :func:`scratch_file`. Raises OSError; ``path`` is then as it was.
    """
    with scratch_file(path.parent, scratch, private=private) as (stream, place):
        yield stream
        flush_file(stream, disk=flush)
        # Closed before it gets its name, since Windows renames no open file.
        stream.close()
        place.replace(path)


def flush_file(stream: BinaryIO, *, disk: bool = True) -> None:
    """Hand over what a stream has gathered, and with ``disk`` wait until it is on the disk."""
    stream.flush()
    if disk:
        os.fsync(stream.fileno())


def write_file(
    path: Path, content: bytes, *, flush: bool = True, scratch: str | None = None
) -> None:
    """Write a file whole or not at all, as :func:`new_file` does."""
    with new_file(path, flush=flush, scratch=scratch) as stream:
        stream.write(content)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that must not be there yet, and have it on the disk; for a folder that appears
    whole. Raises OSError."""
    with path.open("xb") as stream:
        stream.write(content)
        flush_file(stream)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut, where the system can. Raises OSError."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(fresh: Path, target: Path, old: Path) -> None:
    """Let the folder ``fresh`` take the name ``target``, which may be that of another folder.

    That one is then called ``fresh`` or ``old``, which must not be there before; all three lie on
    one file system. Where this system cannot exchange two folders, a reader finds no ``target`` for
    a moment, and after a crash just then its old content at ``old``. Raises OSError; all is then
    as it was.
    """
    if not target.exists():
        fresh.rename(target)
        return
    if exchange(fresh, target):
        return
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not flushed: after a power cut the seal tells a torn file from a whole one.
    with new_file(path, flush=False, private=True) as stream:
        stream.write(hashlib.sha256(content).digest())
        stream.write(content)


def require_writable_file(path: Path, what: str, *, hint: str = _PLACE_HINT) -> None:
    """Raise InputError where :func:`write_text` could not write ``path``; nothing is written."""
    folder = path.absolute().parent
    reason = None
    if path.is_dir():
        reason = "it is a folder"
    elif not folder.is_dir():
        reason = f"{folder} is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = f"you cannot write to {folder}"
    if reason is not None:
        raise InputError(f"{path}: the {what} cannot be written: {reason}", hint=hint)


def write_text(path: Path, text: str, what: str, *, hint: str = _PLACE_HINT) -> Path:
    """Write ``text`` as UTF-8 to ``path`` whole or not at all, and return the absolute path.

    Raises InputError, which calls the text ``what``, where that cannot be done; a file that was
    there before is then unchanged.
    """
    # A file name may hold bytes that are no text.
    content = text.encode("utf-8", "backslashreplace")
    path = path.absolute()
    try:
        write_file(path, content)
    except OSError as error:
        raise InputError(
            f"{path}: the {what} cannot be written: {error.strerror}",
            hint=hint,
        ) from error
    return path
