"""Specifications on disk: ``gmi/spec.json`` and ``gmi/spec.tensors`` beside a model."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from gmi_registry.errors import DigestMismatchError, InputError, SpecFormatError, SpecNotFoundError
from gmi_registry.spec.described import OwnWeights
from gmi_registry.spec.manifest import MANIFEST_LIMIT, Manifest
from gmi_registry.spec.reference import ModelRef
from gmi_registry.spec.specification import Spec, checked_spec, encode_spec, require_model
from gmi_registry.spec.tensors import TENSORS_LIMIT

__all__ = [
    "MANIFEST_NAME",
    "PREVIEW_LIMIT",
    "PREVIEW_NAME",
    "SIGNATURE_LIMIT",
    "SIGNATURE_NAME",
    "SPEC_DIR",
    "TENSORS_NAME",
    "read_manifest",
    "read_spec",
    "replaced_names",
    "write_spec",
]

SPEC_DIR = "gmi"
MANIFEST_NAME = "spec.json"
TENSORS_NAME = "spec.tensors"
PREVIEW_NAME = "preview.webp"
SIGNATURE_NAME = "spec.sig"

PREVIEW_LIMIT = 8 * 1024 * 1024
"""Bytes of ``preview.webp``."""

SIGNATURE_LIMIT = 64 * 1024
"""Bytes of ``spec.sig``."""


def read_spec(
    directory: str | Path,
    *,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
    follow_links: bool = False,
) -> Spec:
    """Read and check the specification in ``directory``/gmi.

    ``expected`` is the model that should be described. One of a model with another id is refused,
    unless ``own_weights`` says that ``expected`` has the weights that are described: then it was
    renamed since. Links are refused, since they could name
    any file of this machine; ``follow_links`` is for folders whose links a trusted program made,
    such as a download cache. Raises SpecNotFoundError where there is no ``gmi/spec.json``,
    otherwise UnsupportedVersionError, DigestMismatchError or SpecFormatError.
    """
    folder = _spec_folder(Path(directory), follow_links)
    manifest_bytes = _read(folder / MANIFEST_NAME, MANIFEST_LIMIT, follow_links)
    # The manifest first: a file that it does not describe is not worth reading.
    manifest = Manifest.from_bytes(manifest_bytes)
    require_model(manifest, expected, own_weights)
    tensors_bytes = _read(
        folder / TENSORS_NAME, TENSORS_LIMIT, follow_links, size=manifest.tensors.size
    )
    return checked_spec(manifest, manifest_bytes, tensors_bytes)


def read_manifest(
    directory: str | Path,
    *,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
    follow_links: bool = False,
) -> Manifest:
    """Like :func:`read_spec`, for the manifest alone; the tensor file is not looked at.

    Raises SpecNotFoundError, UnsupportedVersionError or SpecFormatError.
    """
    folder = _spec_folder(Path(directory), follow_links)
    manifest = Manifest.from_bytes(_read(folder / MANIFEST_NAME, MANIFEST_LIMIT, follow_links))
    require_model(manifest, expected, own_weights)
    return manifest


def write_spec(spec: Spec, directory: str | Path, *, preview: bytes | None = None) -> Path:
    """Write ``directory``/gmi and return it; both files appear together or not at all.

    ``preview`` is the content of ``preview.webp``; with None a preview that is already there
    stays, as does every other file in the folder, but for a signature of another specification.
    ``directory`` is made if its parent exists.
    Raises SpecFormatError for a Spec whose parts disagree, InputError where the disk is full or
    the place cannot be written; in both cases everything is as before.
    """
    manifest_bytes, tensors_bytes = encode_spec(spec)
    contents = {MANIFEST_NAME: manifest_bytes, TENSORS_NAME: tensors_bytes}
    if preview is not None:
        if len(preview) > PREVIEW_LIMIT:
            raise InputError(f"the preview has {len(preview):,} bytes, over {PREVIEW_LIMIT:,}")
        contents[PREVIEW_NAME] = preview
    directory = Path(directory)
    target = directory / SPEC_DIR
    made = not directory.exists()
    try:
        directory.mkdir(exist_ok=True)
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise InputError(f"{target} is not a folder", hint="remove it, then try again")
        _replace_folder(target, contents)
    except OSError as error:
        if made and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()
        raise _cannot_write(target, error, sum(map(len, contents.values()))) from error
    return target


def replaced_names(target: Path, contents: Mapping[str, bytes]) -> set[str]:
    """Names of the files in ``target`` whose place ``contents`` take: name to bytes.

    Their own, and ``spec.sig`` unless ``spec.json`` stays the same, which pins the tensors as well:
    a signature does not outlive its specification.
    """
    try:
        same = _read(target / MANIFEST_NAME, MANIFEST_LIMIT, False) == contents[MANIFEST_NAME]
    except SpecFormatError:
        same = False
    return {*contents, *(() if same else (SIGNATURE_NAME,))}


def _spec_folder(directory: Path, follow_links: bool) -> Path:
    folder = directory / SPEC_DIR
    if not follow_links and folder.is_symlink():
        raise _is_a_link(folder)
    if not (folder / MANIFEST_NAME).is_symlink() and not (folder / MANIFEST_NAME).exists():
        raise SpecNotFoundError(
            f"{directory} holds no {SPEC_DIR}/{MANIFEST_NAME}",
            hint="name the folder that contains gmi/, or make the specification with gmi-publish",
        )
    return folder


def _is_a_link(path: Path) -> SpecFormatError:
    return SpecFormatError(
        f"{path} is a symbolic link", hint="put the file itself there; links are not followed"
    )


def _read(path: Path, limit: int, follow_links: bool, *, size: int | None = None) -> bytes:
    """A regular file of at most ``limit`` bytes, and of exactly ``size`` where that is known."""
    if not follow_links and path.is_symlink():
        raise _is_a_link(path)
    # O_NOFOLLOW closes the gap between the look and the opening, O_NONBLOCK keeps a pipe from
    # blocking the reader; neither exists on Windows, where the look has to do.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not follow_links:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    try:
        # With an opener the descriptor is closed also where the path turns out to be a folder.
        with io.FileIO(path, "rb", opener=lambda name, _: os.open(name, flags)) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise SpecFormatError(f"{path} is not a regular file")
            if status.st_size > limit:
                raise SpecFormatError(f"{path} has {status.st_size:,} bytes, more than {limit:,}")
            if size is not None and status.st_size != size:
                raise DigestMismatchError(
                    f"{path} has {status.st_size:,} bytes, but {MANIFEST_NAME} names {size:,}",
                    hint="download both files again, from the same revision",
                )
            data = stream.read(status.st_size + 1)
    except FileNotFoundError:
        raise SpecFormatError(
            f"{path} is missing", hint="download both files again, from the same revision"
        ) from None
    except OSError as error:
        raise SpecFormatError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) != status.st_size:
        raise SpecFormatError(f"{path} changed while it was read", hint="try again")
    return data


def _replace_folder(target: Path, contents: dict[str, bytes]) -> None:
    """Fill a folder beside ``target``, then let the two change places."""
    with tempfile.TemporaryDirectory(prefix=".gmi-", dir=target.parent) as scratch:
        fresh = Path(scratch) / "new"
        if target.exists():
            replaced = replaced_names(target, contents)
            shutil.copytree(
                target, fresh, symlinks=True, ignore=lambda _, names: replaced & set(names)
            )
        else:
            fresh.mkdir()
        for name, content in contents.items():
            _write(fresh / name, content)
        if not target.exists():
            fresh.rename(target)
            return
        # No portable call exchanges two folders. Between these two renames a reader finds no
        # specification, never half of one.
        old = Path(scratch) / "old"
        target.rename(old)
        try:
            fresh.rename(target)
        except BaseException:
            old.rename(target)
            raise


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _cannot_write(target: Path, error: OSError, size: int) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"{target}: the disk is full; nothing was written",
            hint=f"free {size:,} bytes, or choose another place",
        )
    return InputError(
        f"{target} cannot be written: {error.strerror or error}; nothing was changed",
        hint="choose a place that you may write to",
    )
