"""Where the files of an index come from, and how each is checked once."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import DigestMismatchError, SpecFormatError, SpecNotFoundError
from gmi_registry.index.stored.database import LocalDatabase
from gmi_registry.index.stored.format import (
    BUILD_AGAIN,
    DOCUMENT_LIMIT,
    DOCUMENT_NAME,
    MEAN_NORMS,
    ArrayLayout,
    FileMetadata,
    GroupMetadata,
    IndexDocument,
    PartMetadata,
    Statistics,
    StoredMetadata,
    kernel_fault,
    norm_fault,
    prompts_layout,
    statistics_fault,
)
from gmi_registry.spec.canonical import NORM_RANGE


class IndexFiles(Protocol):
    """Something that has the files of one state of an index."""

    def fetch(self, name: str, *, sha256: str | None, size: int | None) -> Path:
        """The file ``name``, relative to ``index.json`` and divided by ``/``, on this disk.

        ``sha256`` and ``size`` (bytes) are what ``index.json`` says of it, None for that document
        itself; whoever asks checks the bytes against them, so that they need only serve to find
        the file, or to refuse one that is too large. Raises some GmiError where there is none.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether the file would be there at once, without anything being asked of a network."""
        ...


class FolderFiles:
    """An index in a folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def fetch(self, name: str, *, sha256: str | None, size: int | None) -> Path:
        """The file itself.

        Raises SpecNotFoundError where the folder holds no index, SpecFormatError for a file that
        is missing, or in whose place lies a link or no plain file.
        """
        path = self.folder.joinpath(*name.split("/"))
        if name == DOCUMENT_NAME and not path.exists():
            raise SpecNotFoundError(
                f"{self.folder} holds no {DOCUMENT_NAME}",
                hint="make the index with gmi index build, or name the folder where it lies",
            )
        if path.is_symlink() or path.parent.is_symlink():
            raise SpecFormatError(f"{path} is a symbolic link", hint="put the file itself there")
        if not path.is_file():
            raise SpecFormatError(f"{path} is missing", hint=BUILD_AGAIN)
        return path

    def has(self, name: str) -> bool:
        """All of an index in a folder is there."""
        return True


Arrays = dict[str, NDArray[Any]]
_READ_AT_ONCE = 1 << 20
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)


class CheckedFiles:
    """What ``files`` has, less everything that is not what ``index.json`` says.

    Methods raise DigestMismatchError for other bytes and SpecFormatError for bytes that break a
    rule, besides what ``files`` raises. What was checked is remembered in ``database``, so that a
    file is read to check it once. Without one, arrays are taken for what they should be, by their
    size and header alone: for a writer that looks into its own files here and there.
    """

    def __init__(self, files: IndexFiles, database: LocalDatabase | None) -> None:
        self._files = files
        self._database = database

    def document(self) -> tuple[IndexDocument, str]:
        """``index.json`` and its digest."""
        path = self._files.fetch(DOCUMENT_NAME, sha256=None, size=None)
        with _opened(path, DOCUMENT_NAME) as stream:
            data = stream.read(DOCUMENT_LIMIT + 1)
        return IndexDocument.from_bytes(data), hashlib.sha256(data).hexdigest()

    def lines(self, part: PartMetadata) -> list[tuple[StoredMetadata, bytes]]:
        """The metadata of a part's rows, and the bytes of each."""
        file = part.entries
        with self._of_right_size(file) as stream:
            data = stream.read()
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise _mismatch(file)
        rows = data.split(b"\n")
        if rows.pop() != b"" or len(rows) != part.rows:
            raise _broken(file, f"has {len(rows)} whole lines, not {part.rows}")
        return [
            (StoredMetadata.from_bytes(row, f"{file.name}:{number}"), row)
            for number, row in enumerate(rows, 1)
        ]

    def prompts(self, group: GroupMetadata) -> NDArray[np.float16]:
        """[P, E] of a group."""
        layout = prompts_layout(len(group.prompt_set.prompts), group.encoder.text_dim)
        return self._array("prompts", group.prompt_embeddings, layout)

    def statistics(self, group: GroupMetadata) -> Statistics:
        """What the default score needs to know of a group."""
        numbers = group.statistics
        layout = Statistics.layout(group.encoder.image_dim)
        arrays = self._arrays(numbers.file, layout, statistics_fault)
        return Statistics.from_arrays(arrays, numbers.freedom, numbers.temperature)

    def part(self, part: PartMetadata, kind: str, layout: ArrayLayout) -> NDArray[Any]:
        """The ``means``, ``images`` or ``grams`` of a part, mapped."""
        return self._array(kind, getattr(part, kind), layout)

    def has_images(self, part: PartMetadata) -> bool:
        """Whether the images of a part would be there at once."""
        return self._files.has(part.images.name)

    def _array(self, kind: str, file: FileMetadata, layout: ArrayLayout) -> NDArray[Any]:
        return self._arrays(file, layout, lambda arrays: _fault(kind, arrays[kind]))[kind]

    def _arrays(
        self, file: FileMetadata, layout: ArrayLayout, fault: Callable[[Arrays], str | None]
    ) -> Arrays:
        with self._of_right_size(file) as stream:
            found = layout.mapped(stream)
            if found is None:
                raise _broken(file, "does not begin with the header that its rows imply")
            path, status = Path(stream.name), os.fstat(stream.fileno())
            # The name says what the file is for, and so how its values were checked.
            if self._database is None or self._database.is_checked(file.name, path, status):
                return found
            if _digest(stream) != file.sha256:
                raise _mismatch(file)
            reason = fault(found)
            if reason is not None:
                raise _broken(file, reason)
            self._database.set_checked(file.name, path, status)
        return found

    def _of_right_size(self, file: FileMetadata) -> IO[bytes]:
        path = self._files.fetch(file.name, sha256=file.sha256, size=file.size)
        stream = _opened(path, file.name)
        size = os.fstat(stream.fileno()).st_size
        if size != file.size:
            stream.close()
            raise DigestMismatchError(
                f"{file.name} has {size:,} bytes, but {DOCUMENT_NAME} names {file.size:,}",
                hint=BUILD_AGAIN,
            )
        return stream


def _fault(kind: str, array: NDArray[Any]) -> str | None:
    if kind == "grams":
        return kernel_fault(array)
    return norm_fault(array, MEAN_NORMS if kind == "means" else NORM_RANGE)


def _opened(path: Path, name: str) -> IO[bytes]:
    try:
        # A pipe would keep the reader waiting for ever.
        raw = io.FileIO(path, "rb", opener=lambda it, how: os.open(it, how | _NO_WAITING))
    except OSError as error:
        raise SpecFormatError(
            f"{name} cannot be read: {error.strerror}", hint=BUILD_AGAIN
        ) from error
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        raw.close()
        raise SpecFormatError(f"{name} is not a regular file", hint=BUILD_AGAIN)
    return io.BufferedReader(raw)


def _digest(stream: IO[bytes]) -> str:
    stream.seek(0)
    found = hashlib.sha256()
    while piece := stream.read(_READ_AT_ONCE):
        found.update(piece)
    return found.hexdigest()


def _mismatch(file: FileMetadata) -> DigestMismatchError:
    return DigestMismatchError(
        f"{file.name} is not the file whose digest {DOCUMENT_NAME} names", hint=BUILD_AGAIN
    )


def _broken(file: FileMetadata, reason: str) -> SpecFormatError:
    return SpecFormatError(f"{file.name} {reason}", hint=BUILD_AGAIN)
