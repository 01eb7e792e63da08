"""Specifications on disk: ``gmi/spec.json`` and ``gmi/spec.tensors`` beside a model.

They are read, written whole or not at all, and checked with everything beside them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from gmi_registry.atomic import replace_folder, write_new
from gmi_registry.errors import (
    DigestMismatchError,
    GmiError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
)
from gmi_registry.spec.canonical import MANIFEST_LIMIT, TENSORS_LIMIT
from gmi_registry.spec.reference import ModelRef

if TYPE_CHECKING:
    from gmi_registry.spec.manifest import Manifest, OwnWeights, WeightFile
    from gmi_registry.spec.specification import Spec

SPEC_DIR = "gmi"
MANIFEST_NAME = "spec.json"
TENSORS_NAME = "spec.tensors"
PREVIEW_NAME = "preview.webp"
SIGNATURE_NAME = "spec.sig"

PREVIEW_LIMIT = 8 * 1024 * 1024
"""Bytes of ``preview.webp``."""

SIGNATURE_LIMIT = 64 * 1024
"""Bytes of ``spec.sig``."""


Links: TypeAlias = bool | Path
"""Which links are followed: none in ``gmi`` (False), all (True), or, with a folder, none in ``gmi``
and on the way to it only those that stay in that folder."""

_DIR_FD = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW") and hasattr(os, "O_DIRECTORY")


class UnusableFileError(Exception):
    """What has the place of a file, or of a folder, is none that may be read; says what it is."""


def read_spec(
    directory: str | Path,
    *,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
    follow_links: Links = False,
) -> Spec:
    """Read and check the specification in ``directory``/gmi.

    ``expected`` is the model that should be described. One of a model with another id is refused,
    unless ``own_weights`` says that ``expected`` has the weights that are described: then it was
    renamed since. Links are refused, since they could name any file of this machine;
    ``follow_links`` is True for folders whose links a trusted program made, such as a download
    cache, and a folder that strangers write to for what lies in it. Both files are those of the one
    folder that ``gmi`` was at first. Raises SpecNotFoundError where there is no ``gmi/spec.json``,
    otherwise UnsupportedVersionError, DigestMismatchError or SpecFormatError.
    """

    from gmi_registry.spec.manifest import Manifest
    from gmi_registry.spec.specification import checked_spec, require_model

    with _spec_folder(Path(directory), follow_links) as folder:
        manifest_bytes = _read(folder, MANIFEST_NAME, MANIFEST_LIMIT)
        # The manifest first: a file that it does not describe is not worth reading.
        manifest = Manifest.from_bytes(manifest_bytes)
        require_model(manifest, expected, own_weights)
        size = manifest.tensors.size
        tensors_bytes = _read(folder, TENSORS_NAME, TENSORS_LIMIT, size=size)
    return checked_spec(manifest, manifest_bytes, tensors_bytes)


def read_manifest(
    directory: str | Path,
    *,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
    follow_links: Links = False,
) -> Manifest:
    """Like :func:`read_spec`, for the manifest alone; the tensor file is not looked at.

    Raises SpecNotFoundError, UnsupportedVersionError or SpecFormatError.
    """
    from gmi_registry.spec.manifest import Manifest
    from gmi_registry.spec.specification import require_model

    with _spec_folder(Path(directory), follow_links) as folder:
        manifest = Manifest.from_bytes(_read(folder, MANIFEST_NAME, MANIFEST_LIMIT))
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
    from gmi_registry.spec.specification import encode_spec

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
        with held_folder(target.parent) as parent, parent.folder(target.name) as folder:
            same = _read(folder, MANIFEST_NAME, MANIFEST_LIMIT) == contents[MANIFEST_NAME]
    except (SpecFormatError, UnusableFileError, OSError):
        same = False
    return {*contents, *(() if same else (SIGNATURE_NAME,))}


class HeldFolder:
    """A folder that is held open: its files are read even where another takes its place meanwhile.

    Where the system cannot do that, as on Windows, the place is looked at before each file.
    """

    def __init__(self, path: Path, descriptor: int | None, *, follow_links: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        self._follow = follow_links

    @property
    def place(self) -> Path:
        """A path by which other functions reach this very folder, where the system has one."""
        held = Path(f"/proc/self/fd/{self._descriptor}")
        return held if self._descriptor is not None and held.is_dir() else self.path

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[HeldFolder]:
        """A folder in this one. Raises OSError, and UnusableFileError for a link."""
        path = self.path / name
        if self._descriptor is None:
            if not self._follow and path.is_symlink():
                raise UnusableFileError("is a symbolic link")
            if not path.is_dir():
                raise (NotADirectoryError if path.exists() else FileNotFoundError)(str(path))
            yield HeldFolder(path, None, follow_links=self._follow)
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | (0 if self._follow else os.O_NOFOLLOW)
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError:
            if not self._follow and self._is_link(name):
                raise UnusableFileError("is a symbolic link") from None
            raise
        try:
            yield HeldFolder(path, descriptor, follow_links=self._follow)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def file(self, name: str, *, second_names: bool = False) -> Iterator[io.FileIO]:
        """A regular file in this folder, open for reading.

        Raises OSError, and UnusableFileError for a link, for what is no regular file, and, unless
        ``second_names`` may be, for a second name of a file of somebody else's.
        """
        at = self.path / name if self._descriptor is None else name
        # O_NONBLOCK keeps a pipe from blocking the reader; what a device does when it is opened is
        # its own affair, so that it is looked at before.
        before = os.stat(at, dir_fd=self._descriptor, follow_symlinks=self._follow)
        _require_regular(before)
        flags = os.O_RDONLY
        for flag in ("O_NONBLOCK", "O_BINARY", *(() if self._follow else ("O_NOFOLLOW",))):
            flags |= getattr(os, flag, 0)
        try:
            stream = io.FileIO(
                os.fspath(at),
                "rb",
                opener=lambda path, _: os.open(path, flags, dir_fd=self._descriptor),
            )
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnusableFileError("is a symbolic link") from None
            raise
        with stream:
            status = os.fstat(stream.fileno())
            _require_regular(status)
            if not (second_names or self._follow or self._descriptor is None):
                self._require_same_owner(status)
            yield stream

    def _require_same_owner(self, status: os.stat_result) -> None:
        # Whoever may write here may give somebody's file a second name here, and have it read.
        assert self._descriptor is not None
        if status.st_nlink > 1 and status.st_uid != os.fstat(self._descriptor).st_uid:
            raise UnusableFileError("is another name of somebody else's file")

    def _is_link(self, name: str) -> bool:
        try:
            status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISLNK(status.st_mode)


@contextlib.contextmanager
def held_folder(path: Path, follow_links: Links = False) -> Iterator[HeldFolder]:
    """The folder ``path``, held open. With a folder as ``follow_links`` it must lie in that one.

    Raises OSError where it is not a folder, UnusableFileError where it lies outside.
    """
    follow = follow_links is True
    inside = follow_links if isinstance(follow_links, Path) else None
    if not _DIR_FD:
        if inside is not None and not path.resolve().is_relative_to(inside.resolve()):
            raise UnusableFileError("is a link that leads out of the hub")
        yield HeldFolder(path, None, follow_links=follow)
        return
    descriptor = _open_folder(path, inside)
    try:
        yield HeldFolder(path, descriptor, follow_links=follow)
    finally:
        os.close(descriptor)


def _open_folder(path: Path, inside: Path | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY
    if inside is None:
        return os.open(path, flags)
    try:
        root, real = inside.resolve(strict=True), path.resolve(strict=True)
    except RuntimeError:  # links that go round in a circle
        raise UnusableFileError("is a link that leads out of the hub") from None
    if not real.is_relative_to(root):
        raise UnusableFileError("is a link that leads out of the hub")
    descriptor = os.open(root, flags)
    # Step by step: what has become a link since it was resolved is not followed.
    for part in real.relative_to(root).parts:
        try:
            below = os.open(part, flags | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise UnusableFileError("is a symbolic link")
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFileError("is not a regular file")


@contextlib.contextmanager
def _spec_folder(directory: Path, follow_links: Links) -> Iterator[HeldFolder]:
    path = directory / SPEC_DIR
    with contextlib.ExitStack() as stack:
        try:
            parent = stack.enter_context(held_folder(directory, follow_links))
            folder = stack.enter_context(parent.folder(SPEC_DIR))
        except UnusableFileError as error:
            raise _unusable(path, error) from None
        except PermissionError as error:
            raise SpecFormatError(f"{path} cannot be read: {error.strerror}") from error
        except OSError:
            raise _not_found(directory) from None
        yield folder


def _not_found(directory: Path) -> SpecNotFoundError:
    return SpecNotFoundError(
        f"{directory} holds no {SPEC_DIR}/{MANIFEST_NAME}",
        hint="name the folder that contains gmi/, or make the specification with gmi-publish",
    )


def _unusable(path: Path, error: UnusableFileError) -> SpecFormatError:
    is_link = "link" in str(error)
    hint = "put the file itself there; links are not followed" if is_link else None
    return SpecFormatError(f"{path} {error}", hint=hint)


def _read(folder: HeldFolder, name: str, limit: int, *, size: int | None = None) -> bytes:
    """A regular file of at most ``limit`` bytes, and of exactly ``size`` where that is known."""
    path = folder.path / name
    try:
        with folder.file(name) as stream:
            status = os.fstat(stream.fileno())
            if status.st_size > limit:
                raise SpecFormatError(f"{path} has {status.st_size:,} bytes, more than {limit:,}")
            if size is not None and status.st_size != size:
                raise DigestMismatchError(
                    f"{path} has {status.st_size:,} bytes, but {MANIFEST_NAME} names {size:,}",
                    hint="download both files again, from the same revision",
                )
            data = stream.read(status.st_size + 1)
    except UnusableFileError as error:
        raise _unusable(path, error) from None
    except FileNotFoundError:
        if name == MANIFEST_NAME:
            raise _not_found(folder.path.parent) from None
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
    with held_folder(target.parent) as held:
        # All below is by way of the folder that is held, whatever takes its name meanwhile.
        target = held.place / target.name
        with tempfile.TemporaryDirectory(prefix=".gmi-", dir=held.place) as scratch:
            fresh = Path(scratch) / "new"
            if target.exists():
                copy_others(held, target.name, fresh, replaced_names(target, contents))
            else:
                fresh.mkdir()
            for name, content in contents.items():
                write_new(fresh / name, content)
            replace_folder(fresh, target, Path(scratch) / "old")


def copy_others(held: HeldFolder, name: str, fresh: Path, replaced: set[str]) -> None:
    """Copy the folder ``name`` in ``held`` to ``fresh``, without the files that are ``replaced``.

    Links stay links. Raises OSError, also where a link has taken the folder's place.
    """
    try:
        with held.folder(name) as folder:
            shutil.copytree(
                folder.place, fresh, symlinks=True, ignore=lambda _, names: replaced & set(names)
            )
    except UnusableFileError as error:
        raise OSError(errno.ELOOP, f"{name} {error}") from None


def first_uncopied(folder: Path) -> Path | None:
    """The first thing in ``folder`` that :func:`copy_others` would stumble over: what is neither a
    file, a folder nor a link, or cannot be read. Whoever draws for hours asks before."""

    def stumbles(place: Path) -> bool:
        if place.is_symlink():
            return False
        needed = os.R_OK | (os.X_OK if place.is_dir() else 0)
        return not (place.is_file() or place.is_dir()) or not os.access(place, needed)

    own = {folder / name for name in (MANIFEST_NAME, TENSORS_NAME, PREVIEW_NAME)}
    for base, folders, names in os.walk(folder):
        for name in sorted((*folders, *names)):
            place = Path(base, name)
            if place not in own and stumbles(place):
                return place
    return None


def _cannot_write(target: Path, error: OSError, size: int) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(
            f"{target}: the disk is full; nothing was written",
            hint=f"free {size:,} bytes, or choose another place",
        )
    return InputError(
        f"{target} cannot be written: {error.strerror or error}; nothing was changed",
        hint="choose a place that you can write to",
    )


# --- Checking all of them ------------------------------------------------------------------------

_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; ``detail`` is one line, ``hint`` the next thing to do or None."""

    check: Literal["manifest", "tensors", "preview", "weights", "signature"]
    status: Literal["ok", "failed", "skipped"]
    detail: str
    hint: str | None = None


def verify(
    directory: str | Path,
    *,
    expected: ModelRef | None = None,
    own_weights: OwnWeights | None = None,
    follow_links: Links = False,
    weights: bool = True,
) -> list[Finding]:
    """Check ``directory``/gmi, and the weight files beside it where they are there.

    Never raises for what it finds: a broken specification is a finding with status ``failed``.
    ``skipped`` means that there was nothing to look at (a weight file or preview that is not in
    ``directory``), or that an earlier failure left nothing to compare with. ``expected`` and
    ``own_weights`` are as for :func:`~gmi_registry.spec.read_spec`. With
    ``weights=False`` weight files, which can be gigabytes, are not read. The base model's weights
    lie elsewhere and are not looked at.
    """
    directory = Path(directory)
    try:
        manifest = read_manifest(
            directory, expected=expected, own_weights=own_weights, follow_links=follow_links
        )
    except GmiError as error:
        unread = "spec.json could not be read"
        return [
            Finding("manifest", "failed", error.message, error.hint),
            Finding("tensors", "skipped", unread),
            _preview(directory, follow_links),
            Finding("weights", "skipped", unread),
        ]
    described = f"format {manifest.format.version}, describes {manifest.model.ref}"
    if expected is not None and expected.id != manifest.model.id:
        described += f"; found at {expected.repository}, whose weights these are"
    return [
        Finding("manifest", "ok", described),
        # Whose it is has been judged.
        _tensors(directory, follow_links),
        _preview(directory, follow_links),
        *_weights(directory, manifest, follow_links, weights),
    ]


def _tensors(directory: Path, follow_links: Links) -> Finding:
    try:
        spec = read_spec(directory, follow_links=follow_links)
    except GmiError as error:
        return Finding("tensors", "failed", error.message, error.hint)
    images, width = spec.image_embeddings.shape
    return Finding("tensors", "ok", f"{images} images, {width} numbers each; digest agrees")


def _preview(directory: Path, follow_links: Links) -> Finding:
    path = directory / SPEC_DIR / PREVIEW_NAME
    try:
        with (
            held_folder(directory, follow_links) as parent,
            parent.folder(SPEC_DIR) as folder,
            folder.file(PREVIEW_NAME) as stream,
        ):
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(12)
    except UnusableFileError as error:
        if "link" not in str(error):
            return Finding("preview", "skipped", f"there is no {SPEC_DIR}/{PREVIEW_NAME}")
        return Finding("preview", "failed", f"{path} {error}")
    except OSError:
        return Finding("preview", "skipped", f"there is no {SPEC_DIR}/{PREVIEW_NAME}")
    if size > PREVIEW_LIMIT:
        return Finding("preview", "failed", f"{path} has {size:,} bytes, over {PREVIEW_LIMIT:,}")
    if start[:4] != b"RIFF" or start[8:] != b"WEBP":
        return Finding("preview", "failed", f"{path} is not a WebP picture")
    return Finding("preview", "ok", f"{size:,} bytes")


def _weights(
    directory: Path, manifest: Manifest, follow_links: Links, wanted: bool
) -> list[Finding]:
    if not wanted:
        return [Finding("weights", "skipped", "not asked for")]
    return [_weight(directory, weight, follow_links) for weight in manifest.model.weights]


def _weight(directory: Path, weight: WeightFile, follow_links: Links) -> Finding:
    path = directory / weight.path  # a RelativePath: no "..", no root, no drive
    try:
        # A hub's models may share a file; what somebody hands over holds its own.
        inside = directory if follow_links is False else follow_links
        place = path if inside is True else path.resolve()
        if not path.is_file():
            return Finding("weights", "skipped", f"{weight.path} is not here")
        digest = hashlib.sha256()
        with (
            held_folder(place.parent, inside) as folder,
            folder.file(place.name, second_names=True) as stream,
        ):
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    except UnusableFileError:
        return Finding("weights", "failed", f"{weight.path} leads out of {directory}")
    except OSError as error:
        return Finding("weights", "failed", f"{weight.path} cannot be read: {error.strerror}")
    if digest.hexdigest() != weight.sha256:
        return Finding(
            "weights",
            "failed",
            f"{weight.path} is not the file that was described",
            "the model changed after its specification was made: publish it again",
        )
    return Finding("weights", "ok", f"{weight.path} agrees")
