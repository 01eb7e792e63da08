"""``index.json``: which files the index consists of, and what is in them."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, ValidationError, model_validator

from gmi_registry.errors import SpecFormatError, UnsupportedVersionError
from gmi_registry.index.stored.fault import AGAIN, first_fault
from gmi_registry.index.stored.record import FileRecord, GroupRecord
from gmi_registry.spec.canonical import canonical_json
from gmi_registry.spec.fields import Part

__all__ = ["DOCUMENT_LIMIT", "DOCUMENT_NAME", "FORMAT_VERSION", "IndexDocument"]

DOCUMENT_NAME = "index.json"

DOCUMENT_LIMIT = 8 * 1024 * 1024
"""Bytes of ``index.json``."""

# Enough for a million models, while a validator that lists millions of faults takes gigabytes.
_MOST_VALUES = 100_000

FORMAT_VERSION = "1.0"
"""What this package writes."""

_READS_MAJOR, _READS_MINOR = (int(number) for number in FORMAT_VERSION.split("."))


class Format(Part):
    """Name and version (``major.minor``) of the format."""

    name: Literal["gmi-index"] = "gmi-index"
    version: Annotated[str, StringConstraints(pattern=r"^1\.(0|[1-9][0-9]{0,3})$")] = FORMAT_VERSION


class IndexDocument(Part):
    """The whole document. ``to_bytes`` and ``from_bytes`` are inverse, unknown fields included."""

    format: Format = Format()
    groups: Annotated[tuple[GroupRecord, ...], Field(max_length=10_000)] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        keys = [group.key.key for group in self.groups]
        if any(first >= second for first, second in pairwise(keys)):
            raise ValueError("groups are not in the order of their keys, or one is there twice")
        seen: set[str] = set()
        for group in self.groups:
            for part in group.parts:
                if part.entries.name in seen:
                    raise ValueError(f"the part {part.entries.name} is named twice")
                seen.add(part.entries.name)
        return self

    @property
    def files(self) -> dict[str, FileRecord]:
        """All files of the index by their names; two parts may share one with arrays."""
        return {file.name: file for group in self.groups for file in group.files}

    def to_bytes(self) -> bytes:
        """Canonical JSON and a newline. Raises SpecFormatError for more than 8 MiB."""
        data = canonical_json(self.model_dump(mode="python")) + b"\n"
        excess = _excess(data)
        if excess is not None:
            raise _broken(excess)
        return data

    @classmethod
    def from_bytes(cls, data: bytes) -> IndexDocument:
        """Read ``index.json``.

        Raises SpecFormatError, or UnsupportedVersionError for a newer major version.
        """
        excess = _excess(data)
        if excess is not None:
            raise _broken(excess)
        _require_known_major(data)
        try:
            document = cls.model_validate_json(data, strict=True)
            known = canonical_json(document.known()) + b"\n"
            spelled = document.to_bytes()
        except ValidationError as error:
            raise _broken(first_fault(error)) from None
        except ValueError as error:
            raise _broken(str(error)) from None
        # One content has one spelling, which also rules out a key that is there twice.
        if spelled != data:
            raise _broken("is not in canonical form")
        minor = int(document.format.version.partition(".")[2])
        if minor <= _READS_MINOR and known != data:
            raise _broken(f"has a field that version {document.format.version} does not know")
        return document


class _DeclaredFormat(BaseModel):
    version: str


class _Declared(BaseModel):
    """As much of a document of any version as says which it is."""

    format: _DeclaredFormat


def _require_known_major(data: bytes) -> None:
    # Before anything else: a newer major may be laid out in a way that nothing else expects.
    try:
        version = _Declared.model_validate_json(data).format.version
    except ValidationError:
        return
    major = version.partition(".")[0]
    if major.isascii() and major.isdecimal() and len(major) < 6 and int(major) > _READS_MAJOR:
        raise UnsupportedVersionError(
            f"the index has format version {version[:20]}; this program reads up to "
            f"{_READS_MAJOR}.x",
            hint="pip install --upgrade gmi-registry",
        )


def _excess(data: bytes) -> str | None:
    """Why a document is too large to be looked into, or None."""
    if len(data) > DOCUMENT_LIMIT:
        return f"has more than {DOCUMENT_LIMIT:,} bytes"
    # At least as many as there are values, and found in a moment.
    if sum(map(data.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        return f"holds more than {_MOST_VALUES:,} values"
    return None


def _broken(reason: str) -> SpecFormatError:
    return SpecFormatError(f"{DOCUMENT_NAME}: {reason}", hint=AGAIN)
