"""The ``gmi`` folder beside a model, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from gmi_registry.errors import AuthError, HubError
from gmi_registry.hubs.exchange import exchange
from gmi_registry.spec import PREVIEW_NAME, SPEC_DIR
from gmi_registry.spec.files import (
    HeldFolder,
    UnusableFileError,
    copy_others,
    first_uncopied,
    held_folder,
    replaced_names,
)

__all__ = ["probe", "replace_spec_folder"]

_SCRATCH = ".gmi-"
_OLD = "old"


def replace_spec_folder(
    model: Path, contents: Mapping[str, bytes], *, inside: Path | None = None
) -> Path:
    """Put ``contents`` (name to bytes) into ``model``/gmi, and return that folder.

    The new folder is filled beside the old one and flushed to the disk; then the two change places.
    So a reader, or a crash at any point, finds either the old files or the new ones. The files of a
    specification go together: an old preview or signature does not outlive its specification. Files
    in ``gmi`` under other names stay. What an earlier, killed call left behind is removed. The
    folder ``model``, which lies in ``inside``, is held open: nothing is written to, or copied from,
    a folder that takes its name meanwhile.

    Raises AuthError or HubError; everything is then as it was.
    """
    target = _target(model)
    try:
        with held_folder(model, inside or False) as held, _alone(held.place) as alone:
            if alone:
                _sweep(held.place)
            scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=held.place))
            try:
                _swap_in(_filled(scratch, held, contents), held.place / SPEC_DIR, scratch)
                with contextlib.suppress(OSError):  # it is in place, and a failure would be a lie
                    _flush(held.place)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except UnusableFileError as error:
        raise HubError(f"{model} {error}; nothing was changed") from None
    except OSError as error:
        size = sum(map(len, contents.values()))
        raise _cannot_write(target, error, f"free {size:,} bytes, then try again") from error
    return target


def probe(model: Path) -> None:
    """Make and remove a folder in ``model``, which permission bits alone cannot tell to work.

    Raises AuthError for want of rights, else HubError, also for what stands in the place of its
    ``gmi``, and for what lies in there and could not be kept.
    """
    other = first_uncopied(_target(model))
    if other is not None:
        raise HubError(
            f"{other} cannot be kept beside the specification: it is no file that can be read",
            hint="remove it, then try again",
        )
    try:
        Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=model)).rmdir()
    except OSError as error:
        raise _cannot_write(model, error, "free some space, then try again") from error


def _target(model: Path) -> Path:
    target = model / SPEC_DIR
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise HubError(
            f"{target} is not a folder, so no specification can be put there",
            hint="remove it, then try again",
        )
    return target


def _filled(scratch: Path, held: HeldFolder, contents: Mapping[str, bytes]) -> Path:
    fresh, target = scratch / SPEC_DIR, held.place / SPEC_DIR
    if target.exists():
        copy_others(held, SPEC_DIR, fresh, {PREVIEW_NAME} | replaced_names(target, contents))
    else:
        fresh.mkdir()
    for name, content in contents.items():
        with (fresh / name).open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    _flush(fresh)
    return fresh


def _swap_in(fresh: Path, target: Path, scratch: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    if exchange(fresh, target):
        return
    # Between these two renames a reader finds no specification, never half of one. After a crash
    # just here, the next call finds the old folder in the scratch folder and puts it back.
    old = scratch / _OLD
    target.rename(old)
    try:
        fresh.rename(target)
    except BaseException:
        old.rename(target)
        raise


def _sweep(model: Path) -> None:
    """Remove what killed calls left; the caller is alone, so none of it is in use."""
    for left in sorted(model.glob(f"{_SCRATCH}*")):
        if left.is_symlink() or not left.is_dir():
            continue
        old, target = left / _OLD, model / SPEC_DIR
        if old.is_dir() and not target.exists():
            old.rename(target)
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _alone(model: Path) -> Iterator[bool]:
    """Wait for other calls on the same model; False where this system cannot lock a folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    handle = os.open(model, os.O_RDONLY)
    try:
        try:
            # The folder itself is locked, so that no lock file is left in a model's repository.
            fcntl.flock(handle, fcntl.LOCK_EX)
            locked = True
        except OSError:  # some network file systems
            locked = False
        yield locked
    finally:
        os.close(handle)


def _flush(folder: Path) -> None:
    """Have the names in a folder survive a power cut, where the system can."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(target: Path, error: OSError, room: str) -> HubError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"{target}: the disk is full; nothing was changed", hint=room)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AuthError(
            f"{target}: you may not write there; nothing was changed",
            hint="ask its owner for the right to write, or publish with --output DIR",
        )
    reason = error.strerror or str(error)
    return HubError(f"{target} cannot be written: {reason}; nothing was changed")
