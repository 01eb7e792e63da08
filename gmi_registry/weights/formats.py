"""What a file is by its first bytes, where it is no weight file that is read."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

__all__ = ["PICKLE_HINT", "FileFormat", "format_of"]

PICKLE_HINT = "convert the weights to .safetensors, then publish those"
_ANEW = "download it again; if that does not help, its author must upload it again as safetensors"
_UNPACK = "unpack it, and publish the safetensors file or the folder inside"
_SIGNED_IN = (
    "download it again, signed in where the hub asks for it: what came is a page of the hub"
)


class FileFormat(NamedTuple):
    """``title`` is what people call it; ``hint`` is the way out."""

    name: str
    title: str
    hint: str
    damage: Literal["cut-short", "malformed", "foreign"] = "foreign"


_PICKLE = FileFormat("pickle", "a pickle, which can run any program when it is opened", PICKLE_HINT)
_ZIP = FileFormat(
    "archive", "a packed archive (zip)", _UNPACK,
)  # fmt: skip
# Patterns are compiled when a file is asked about: a search imports this module, and asks of none.
_FORMATS: tuple[tuple[bytes, FileFormat], ...] = (
    (rb"version https://git-lfs", FileFormat(
        "lfs-pointer", "a Git LFS pointer, not the file", "fetch the file: git lfs pull")),
    # PyTorch's own format is a zip, too, with a pickle as its first member.
    (rb"PK\x03\x04.{26}[^/\n]{0,200}/(?:data\.pkl|byteorder|version)", _PICKLE),
    (rb"PK\x03\x04|PK\x05\x06", _ZIP),
    (rb"7z\xbc\xaf\x27\x1c", FileFormat("archive", "a packed archive (7z)", _UNPACK)),
    (rb"Rar!", FileFormat("archive", "a packed archive (rar)", _UNPACK)),
    (rb"\x1f\x8b", FileFormat("archive", "a packed archive (gzip)", _UNPACK)),
    (rb"\xfd7zXZ|\x28\xb5\x2f\xfd|BZh[1-9]", FileFormat(
        "archive", "a packed archive", _UNPACK)),
    (rb".{257}ustar", FileFormat("archive", "a packed archive (tar)", _UNPACK)),
    (rb"\x80[\x02-\x05][}\]c\x8a\x95()K.]", _PICKLE),
    (rb"\x89HDF\r\n", FileFormat("hdf5", "an HDF5 file, as Keras writes", PICKLE_HINT)),
    (rb"\x93NUMPY", FileFormat("numpy", "a NumPy array", PICKLE_HINT)),
    (rb"\x08[\x01-\x0f]\x12.{0,40}(pytorch|onnx|tf2onnx|keras2onnx|ai\.)", FileFormat(
        "onnx", "an ONNX model, which diffusers' pipelines for PyTorch cannot load",
        "publish the PyTorch weights that it was exported from, as safetensors")),
    (rb".{4}TFL3", FileFormat("tflite", "a TensorFlow Lite model", PICKLE_HINT)),
    (rb"(lmgg|ggml|fmgg|tjgg)", FileFormat(
        "ggml", "a ggml file, the format before GGUF", "convert it to GGUF or safetensors")),
    (rb"\s*<(!doctype|html|head|body|\?xml)", FileFormat(
        "web-page", "a web page, not the file itself", _SIGNED_IN)),
    (rb"\s*[{\[]\s*[\"{\[}\]]", FileFormat(
        "json", "a JSON text, not the file itself", _SIGNED_IN)),
    (rb"\x89PNG|\xff\xd8\xff|RIFF....WEBP|GIF8", FileFormat(
        "picture", "a picture", "name the model itself")),
    (rb"....ftyp", FileFormat("video", "a video", "name the model itself")),
    (rb"%PDF", FileFormat("document", "a PDF document", "name the model itself")),
)  # fmt: skip
_EMPTY = FileFormat("empty", "an empty file", _ANEW, "cut-short")
_BLANK = FileFormat(
    "blank", "a file of zeros, as an interrupted download leaves it", _ANEW, "cut-short"
)


def format_of(beginning: bytes) -> FileFormat | None:
    """What a file is that begins so; None where it may be a safetensors or a GGUF file."""
    if not beginning:
        return _EMPTY
    if len(beginning) >= 16 and not any(beginning[:64]):
        return _BLANK
    # The length of a safetensors header comes first, and may read like anything.
    if beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < 2**32:
        return None
    flags = re.DOTALL | re.IGNORECASE
    return next((it for pattern, it in _FORMATS if re.match(pattern, beginning, flags)), None)
