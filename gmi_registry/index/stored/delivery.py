"""Files of an index, checked once."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import DigestMismatchError, SpecFormatError
from gmi_registry.index.stored.document import (
    DOCUMENT_LIMIT,
    DOCUMENT_NAME,
    IndexDocument,
)
from gmi_registry.index.stored.fault import AGAIN
from gmi_registry.index.stored.files import IndexFiles
from gmi_registry.index.stored.layout import ArrayLayout, prompts_layout
from gmi_registry.index.stored.ledger import Ledger
from gmi_registry.index.stored.line import EntryLine
from gmi_registry.index.stored.record import FileRecord, GroupRecord, PartRecord
from gmi_registry.index.stored.statistics import Statistics, statistics_fault
from gmi_registry.index.stored.values import MEAN_NORMS, kernel_fault, norm_fault
from gmi_registry.spec.tensors import NORM_RANGE

__all__ = ["Delivery"]

Arrays = dict[str, NDArray[Any]]
_READ_AT_ONCE = 1 << 20
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)


class Delivery:
    """What ``files`` has, less everything that is not what ``index.json`` says.

    Methods raise DigestMismatchError for other bytes and SpecFormatError for bytes that break a
    rule, besides what ``files`` raises. What was checked is remembered in ``ledger``, so that a
    file is read to check it once. Without one, arrays are taken for what they should be, by their
    size and header alone: for a writer that looks into its own files here and there.
    """

    def __init__(self, files: IndexFiles, ledger: Ledger | None) -> None:
        self._files = files
        self._ledger = ledger

    def document(self) -> tuple[IndexDocument, str]:
        """``index.json`` and its digest."""
        path = self._files.fetch(DOCUMENT_NAME, sha256=None, size=None)
        with _opened(path, DOCUMENT_NAME) as stream:
            data = stream.read(DOCUMENT_LIMIT + 1)
        return IndexDocument.from_bytes(data), hashlib.sha256(data).hexdigest()

    def lines(self, part: PartRecord) -> list[tuple[EntryLine, bytes]]:
        """The metadata of a part's rows, and the bytes of each."""
        record = part.entries
        with self._checked(record) as stream:
            data = stream.read()
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise _mismatch(record)
        rows = data.split(b"\n")
        if rows.pop() != b"" or len(rows) != part.rows:
            raise _broken(record, f"has {len(rows)} whole lines, not {part.rows}")
        return [
            (EntryLine.from_bytes(row, f"{record.name}:{number}"), row)
            for number, row in enumerate(rows, 1)
        ]

    def prompts(self, group: GroupRecord) -> NDArray[np.float16]:
        """[P, E] of a group."""
        layout = prompts_layout(len(group.prompt_set.prompts), group.encoder.text_dim)
        record = group.prompt_embeddings
        return self._arrays(record, layout, lambda it: norm_fault(it["prompts"], NORM_RANGE))[
            "prompts"
        ]

    def statistics(self, group: GroupRecord) -> Statistics:
        """What the default score needs to know of a group."""
        record = group.statistics
        layout = Statistics.layout(group.encoder.image_dim)
        arrays = self._arrays(record.file, layout, statistics_fault)
        return Statistics.from_arrays(arrays, record.freedom, record.temperature)

    def part(self, part: PartRecord, kind: str, layout: ArrayLayout) -> NDArray[Any]:
        """The ``means``, ``images`` or ``grams`` of a part, mapped."""
        checks: dict[str, Callable[[Arrays], str | None]] = {
            "means": lambda it: norm_fault(it["means"], MEAN_NORMS),
            "images": lambda it: norm_fault(it["images"], NORM_RANGE),
            "grams": lambda it: kernel_fault(it["grams"]),
        }
        record: FileRecord = getattr(part, kind)
        return self._arrays(record, layout, checks[kind])[kind]

    def has_images(self, part: PartRecord) -> bool:
        """Whether the images of a part would be there at once."""
        return self._files.has(part.images.name)

    def _arrays(
        self, record: FileRecord, layout: ArrayLayout, fault: Callable[[Arrays], str | None]
    ) -> Arrays:
        with self._checked(record) as stream:
            found = layout.mapped(stream)
            if found is None:
                raise _broken(record, "does not begin with the header that its rows imply")
            path, status = Path(stream.name), os.fstat(stream.fileno())
            # The name says what the file is for, and so how its values were checked.
            if self._ledger is None or self._ledger.is_checked(record.name, path, status):
                return found
            if _digest(stream) != record.sha256:
                raise _mismatch(record)
            reason = fault(found)
            if reason is not None:
                raise _broken(record, reason)
            self._ledger.set_checked(record.name, path, status)
        return found

    def _checked(self, record: FileRecord) -> IO[bytes]:
        """The file, which is of the right size."""
        path = self._files.fetch(record.name, sha256=record.sha256, size=record.size)
        stream = _opened(path, record.name)
        size = os.fstat(stream.fileno()).st_size
        if size != record.size:
            stream.close()
            raise DigestMismatchError(
                f"{record.name} has {size:,} bytes, but {DOCUMENT_NAME} names {record.size:,}",
                hint=AGAIN,
            )
        return stream


def _opened(path: Path, name: str) -> IO[bytes]:
    try:
        # A pipe would keep the reader waiting for ever.
        raw = io.FileIO(path, "rb", opener=lambda it, how: os.open(it, how | _NO_WAITING))
    except OSError as error:
        raise SpecFormatError(f"{name} cannot be read: {error.strerror}", hint=AGAIN) from error
    if not stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        raw.close()
        raise SpecFormatError(f"{name} is not a regular file", hint=AGAIN)
    return io.BufferedReader(raw)


def _digest(stream: IO[bytes]) -> str:
    stream.seek(0)
    found = hashlib.sha256()
    while piece := stream.read(_READ_AT_ONCE):
        found.update(piece)
    return found.hexdigest()


def _mismatch(record: FileRecord) -> DigestMismatchError:
    return DigestMismatchError(
        f"{record.name} is not the file whose digest {DOCUMENT_NAME} names", hint=AGAIN
    )


def _broken(record: FileRecord, reason: str) -> SpecFormatError:
    return SpecFormatError(f"{record.name} {reason}", hint=AGAIN)
