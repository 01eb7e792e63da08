"""``encoder.json``: what an exported encoder is, and the digest of each of its other files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from gmi_registry.encoders.encoder import EXPORT_AGAIN, LARGEST_FILE, LIMITS, FileName
from gmi_registry.encoders.tokenizer import Cleaning
from gmi_registry.errors import InputError, UnsupportedVersionError, upgrade_hint
from gmi_registry.sanitize import first_fault
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.canonical import canonical_json, parse_json
from gmi_registry.spec.manifest import Name, Part, Sha256


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


def parse_description(data: bytes, path: Path) -> Description:
    """The content of the ``encoder.json`` at ``path``.

    Raises InputError where it is malformed, UnsupportedVersionError where it is of a newer version.
    """
    try:
        document = parse_json(data)
        declared = document.get("format") if isinstance(document, dict) else None
        version = declared.get("version") if isinstance(declared, dict) else None
        if isinstance(version, int) and version > 1:
            raise UnsupportedVersionError(
                f"{path} has version {version}; this program reads version 1",
                hint=upgrade_hint(),
            )
        return Description.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise _malformed(path, first_fault(error)) from None
    except ValueError as error:
        raise _malformed(path, str(error)) from None


def _malformed(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: {' '.join(reason.split())[:300]}", hint=EXPORT_AGAIN)
