"""Files in folders that strangers may write to: read within the folder, hashed, replaced whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gmi_registry.atomic import (
    flush_folder,
    read_sealed,
    replace_folder,
    write_new,
    write_sealed,
)
from gmi_registry.errors import AuthError, HubError, InputError
from gmi_registry.spec.canonical import TENSORS_LIMIT
from gmi_registry.spec.files import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    HeldFolder,
    Links,
    UnusableFileError,
    copy_others,
    first_uncopied,
    held_folder,
    replaced_names,
)

if TYPE_CHECKING:
    from gmi_registry.spec import Manifest, ModelRef

_CHUNK = 1024 * 1024
# Clocks of file systems tick as coarsely as 2 s: a file may change twice within one tick, and
# carry the same times before and after.
_TICK_NS = 2_000_000_000
_SHA256 = re.compile(rb"[0-9a-f]{64}")
_log = logging.getLogger(__name__)
_SCRATCH = ".gmi-"
_OLD = "old"


def require_inside(path: Path, root: Path) -> None:
    """Raise HubError unless ``path`` lies in ``root`` once all links are followed."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise HubError(
            f"{path} is a link that leads out of the hub",
            hint="put the files themselves there; such links are not followed",
        )


@contextlib.contextmanager
def opened_plain(
    path: Path,
    links: Links = False,
    *,
    within: tuple[str, ...] = (),
    second_names: bool = False,
) -> Iterator[io.FileIO]:
    """The regular file ``path``, open for reading; ``links`` are as for :func:`.read_spec`.

    Its folder is held open while the file is looked at, so that both are what they were. ``within``
    names the last folders above the file, none of which may be a link; ``second_names`` lets files
    of others pass that have several. Raises FileNotFoundError as such, and HubError for everything
    else that is wrong.
    """
    start = path.parents[len(within)]
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(held_folder(start, links))
            for name in within:
                folder = stack.enter_context(folder.folder(name))
            stream = stack.enter_context(folder.file(path.name, second_names=second_names))
        except UnusableFileError as error:
            hint = "put the file itself there" if "link" in str(error) else None
            raise HubError(f"{path} {error}", hint=hint) from None
        except FileNotFoundError:
            raise
        except IsADirectoryError:
            raise HubError(f"{path} is not a regular file") from None
        except OSError as error:
            raise HubError(f"{path} cannot be read: {error.strerror or error}") from error
        yield stream


def read_plain(
    path: Path, limit: int, links: Links = False, *, within: tuple[str, ...] = ()
) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; else as :func:`opened_plain`."""
    with opened_plain(path, links, within=within) as stream:
        try:
            content = bytearray()
            while len(content) <= limit and (piece := stream.read(limit + 1 - len(content))):
                content += piece
        except OSError as error:
            raise HubError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise HubError(f"{path} has more than {limit:,} bytes")
    return bytes(content)


class FileDigests:
    """SHA-256 of files, kept in ``directory`` under path, size, times and inode.

    One small file a digest, so that processes share the directory without locks. Where it cannot
    be written, digests are computed each time. One that is damaged is made again; deleting the
    directory at any time is safe.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def sha256(self, path: Path, *, inside: Path | None = None) -> str:
        """Digest (hex) of a regular file, which lies in ``inside`` once links are followed.

        Raises HubError where it cannot be read.
        """
        place, links = (path, True) if inside is None else (path.resolve(), inside)
        try:
            # Large files are shared between users by giving them several names.
            with opened_plain(place, links, second_names=True) as stream:
                before = os.fstat(stream.fileno())
                note = self.directory / _key(path, before)
                known = _noted(note)
                if known is not None:
                    return known
                digest = hashlib.sha256()
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                after = os.fstat(stream.fileno())
        except OSError as error:
            raise HubError(f"{path} cannot be read: {error.strerror or error}") from error
        if _key(path, before) != _key(path, after):
            raise HubError(
                f"{path} changed while it was read", hint="try again when it is complete"
            )
        if time.time_ns() - before.st_mtime_ns > _TICK_NS:
            try:
                write_sealed(note, digest.hexdigest().encode())
            except OSError as error:
                _log.debug("cannot remember the digest of a file: %s", error)
        return digest.hexdigest()


def _key(path: Path, status: os.stat_result) -> str:
    # The change time as well: programs that unpack or copy put the modification time back.
    parts = [
        os.fspath(path.absolute()),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _noted(note: Path) -> str | None:
    content = read_sealed(note, limit=64)
    return content.decode() if content is not None and _SHA256.fullmatch(content) else None


def read_upload(folder: Path, ref: ModelRef) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest, and the content of every file in ``folder`` (hidden ones left out).

    Raises InputError where ``folder`` holds anything but plain files, or one of the two is
    missing; SpecError where they are no specification of ``ref``.
    """
    from gmi_registry.spec import decode_spec

    contents: dict[str, bytes] = {}
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    for path in paths:
        if path.name.startswith("."):
            continue
        try:
            # Nothing in a specification is larger than the tensors may be.
            contents[path.name] = read_plain(path, TENSORS_LIMIT)
        except (HubError, FileNotFoundError) as error:
            reason = error.message if isinstance(error, HubError) else f"{path} is gone"
            raise InputError(f"{reason}, so the folder cannot be published") from None
    for name in (MANIFEST_NAME, TENSORS_NAME):
        if name not in contents:
            raise InputError(f"{folder} holds no {name}", hint="make it with gmi-publish --output")
    spec = decode_spec(contents[MANIFEST_NAME], contents[TENSORS_NAME], expected=ref)
    return spec.manifest, contents


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
                # After a crash between two renames the next call finds the old folder in the
                # scratch folder, and puts it back.
                fresh = _filled(scratch, held, contents)
                replace_folder(fresh, held.place / SPEC_DIR, scratch / _OLD)
                with contextlib.suppress(OSError):  # it is in place, and a failure would be a lie
                    flush_folder(held.place)
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
            f"{other} cannot be kept beside the specification: it is not a file that can be read",
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
        write_new(fresh / name, content)
    flush_folder(fresh)
    return fresh


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


def _cannot_write(target: Path, error: OSError, room: str) -> HubError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(f"{target}: the disk is full; nothing was changed", hint=room)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AuthError(
            f"{target}: you cannot write there; nothing was changed",
            hint="ask its owner for the right to write, or publish with --output DIR",
        )
    reason = error.strerror or str(error)
    return HubError(f"{target} cannot be written: {reason}; nothing was changed")
