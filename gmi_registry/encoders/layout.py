"""The folder of an encoder that needs no torch: which files, and how each is read.

::

    encoder.json         what the encoder is, and the digest of every other file
    image.onnx           pixels float32 [B, 3, S, S] to embeddings float32 [B, D]
    text.onnx            tokens int64 [B, L] to embeddings float32 [B, E]
    merges.txt           the byte-pair vocabulary
    golden.safetensors   what torch makes of some pictures and texts
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from gmi_registry.encoders.graph import LARGEST_FILE
from gmi_registry.encoders.wording import Cleaning
from gmi_registry.errors import DigestMismatchError, InputError, UnsupportedVersionError
from gmi_registry.sanitize import first_fault
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.canonical import canonical_json, parse_json
from gmi_registry.spec.fields import Name, Part, Sha256

__all__ = [
    "ENCODER_NAME",
    "LIMITS",
    "ONNX_FOLDER",
    "Description",
    "FileEntry",
    "OnnxFolder",
    "TextInput",
]

ONNX_FOLDER = "onnx"
"""What the folder is called beside an encoder in open_clip's layout."""

ENCODER_NAME = "encoder.json"

FileName = Literal["image.onnx", "text.onnx", "merges.txt", "golden.safetensors"]

LIMITS: dict[str, int] = {
    ENCODER_NAME: 64 * 1024,
    "image.onnx": LARGEST_FILE,
    "text.onnx": LARGEST_FILE,
    "merges.txt": 8 * 1024 * 1024,
    "golden.safetensors": 4 * 1024 * 1024,
}
"""The files, and the most bytes that each may have."""

_AGAIN = "export the encoder again: gmi encoder export NAME/PRETRAINED --output DIR"


class FolderFormat(Part):
    """Name and version of the layout."""

    name: Literal["gmi-onnx-encoder"] = "gmi-onnx-encoder"
    version: Literal[1] = 1


class FileEntry(Part):
    """One file: SHA-256 (hex) and bytes."""

    sha256: Sha256
    size: Annotated[int, Field(ge=1, le=LARGEST_FILE)]

    @classmethod
    def of(cls, data: bytes) -> FileEntry:
        """The entry of a file with this content."""
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


class TextInput(Part):
    """How a text becomes tokens: CLIP's byte pairs, ``length`` (L) numbers, ``cleaning`` first."""

    tokenizer: Literal["clip-bpe"] = "clip-bpe"
    length: Annotated[int, Field(ge=2, le=4096)]
    cleaning: Cleaning = "lower"


class Description(Part):
    """The content of ``encoder.json``.

    ``fill_color`` is what ``resize_mode`` longest pads with; ``weights`` says how the ONNX files
    keep their numbers (they compute in float32); ``tools`` are the versions that exported it.
    """

    format: FolderFormat = FolderFormat()
    encoder: EncoderRef
    logit_scale: Annotated[float, Field(gt=0, le=1e6)]
    fill_color: Annotated[int, Field(ge=0, le=255)] = 0
    text: TextInput
    weights: Literal["float32", "float16"] = "float32"
    opset: Annotated[int, Field(ge=1, le=1000)]
    files: Annotated[dict[FileName, FileEntry], Field(min_length=4)]
    tools: Annotated[dict[Name, Name], Field(max_length=20)]

    @model_validator(mode="after")
    def _check(self) -> Description:
        for name, entry in self.files.items():
            if entry.size > LIMITS[name]:
                raise ValueError(f"{name} has more than {LIMITS[name]:,} bytes")
        return self

    def to_bytes(self) -> bytes:
        """Canonical JSON and a newline."""
        return canonical_json(self.model_dump(mode="python")) + b"\n"


class OnnxFolder:
    """The folder at ``path``, described by its ``encoder.json``, which is read at once.

    ``digest`` is the SHA-256 of that file, and so stands for them all. Raises InputError where it
    is missing or malformed, UnsupportedVersionError where it is of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        data = _read(path / ENCODER_NAME, LIMITS[ENCODER_NAME])
        self.digest = hashlib.sha256(data).hexdigest()
        self.description = _parsed(data, path / ENCODER_NAME)
        self._trusted: dict[str, list[int]] = {}
        self._viewed: dict[str, list[int]] = {}

    def read(self, name: FileName, *, trusted: bool = False) -> bytes:
        """The content of a file.

        Raises InputError for one that is missing, a link or no file, DigestMismatchError for other
        bytes than ``encoder.json`` names; with ``trusted`` their number alone is compared, and
        with what :meth:`trust` was told.
        """
        entry = self.description.files[name]
        with _opened(self.path / name, entry.size) as stream:
            self._require_same(name, stream, trusted)
            data = stream.read()
        if len(data) != entry.size or not (trusted or FileEntry.of(data) == entry):
            raise self._other(name)
        return data

    def view(self, name: FileName, *, trusted: bool = False) -> memoryview:
        """The content of a file, mapped into memory and not copied. Raises as :meth:`read`.

        Whoever cuts the file short while it is mapped ends the process that reads it; a file that
        is replaced or deleted stays as it was.
        """
        entry = self.description.files[name]
        with _opened(self.path / name, entry.size) as stream:
            self._viewed[name] = self._require_same(name, stream, trusted)
            # Not by way of the mapping, whose pages would all count as this process's.
            if not trusted and hashlib.file_digest(stream, "sha256").hexdigest() != entry.sha256:
                raise self._other(name)
            return memoryview(mmap.mmap(stream.fileno(), entry.size, access=mmap.ACCESS_READ))

    def stamp(self) -> dict[str, list[int]] | None:
        """Size, times and inode of every file, or None where one is not there."""
        try:
            return {name: _stamp((self.path / name).lstat()) for name in sorted(LIMITS)}
        except OSError:
            return None

    def trust(self, stamp: dict[str, list[int]]) -> None:
        """From now on a file that is read as trusted must have this ``stamp``."""
        self._trusted = stamp

    def require_viewed(self, name: FileName) -> None:
        """Raise DigestMismatchError unless the file is the one that :meth:`view` opened.

        For whoever had it opened by its name once more: what is swapped in between is not read.
        """
        try:
            found = _stamp((self.path / name).lstat())
        except OSError:
            found = None
        if found is None or found != self._viewed.get(name):
            raise self._other(name)

    def _require_same(self, name: FileName, stream: io.FileIO, trusted: bool) -> list[int]:
        found = _stamp(os.fstat(stream.fileno()))
        if found[0] != self.description.files[name].size or (
            trusted and self._trusted and found != self._trusted.get(name)
        ):
            raise self._other(name)
        return found

    def _other(self, name: FileName) -> DigestMismatchError:
        return DigestMismatchError(
            f"{self.path / name} is not the file that {ENCODER_NAME} names", hint=_AGAIN
        )


def _stamp(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _parsed(data: bytes, path: Path) -> Description:
    try:
        document = parse_json(data)
        declared = document.get("format") if isinstance(document, dict) else None
        version = declared.get("version") if isinstance(declared, dict) else None
        if isinstance(version, int) and version > 1:
            raise UnsupportedVersionError(
                f"{path} has version {version}; this program reads version 1",
                hint="pip install --upgrade gmi-registry",
            )
        return Description.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _malformed(path, first_fault(error)) from None
    except ValueError as error:
        raise _malformed(path, str(error)) from None


def _malformed(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {' '.join(reason.split())[:300]}", hint=_AGAIN)


def _read(path: Path, limit: int) -> bytes:
    with _opened(path, limit) as stream:
        return stream.read()


@contextlib.contextmanager
def _opened(path: Path, limit: int) -> Iterator[io.FileIO]:
    """A regular file, and no link: what comes from a hub may point anywhere."""
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link", hint="put the file itself there")
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        with io.FileIO(path, "rb", opener=lambda file, _: os.open(file, flags)) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is not a regular file", hint=_AGAIN)
            if status.st_size > limit:
                raise InputError(
                    f"{path} has {status.st_size:,} bytes, more than {limit:,}", hint=_AGAIN
                )
            yield stream
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", hint=_AGAIN) from None
