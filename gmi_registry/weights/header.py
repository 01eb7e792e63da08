"""Headers of weight files: names, dtypes and shapes of tensors, without the tensors.

Two formats are read, safetensors and GGUF; both begin with a list of what follows. A file comes
from anybody: lengths and counts are judged before anything is allocated, and all that is read is at
most :data:`HEADER_LIMIT` bytes. A file of another format is called what it is, by its first bytes.
Sources: the format pages of https://github.com/huggingface/safetensors and
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from gmi_registry.errors import HubError
from gmi_registry.sanitize import one_line

HEADER_LIMIT = 25_000_000
"""Bytes of a header: what the Hub's own page of a file reads at most."""

_CONFIG_LIMIT = 4 * 1024 * 1024
_MOST_TENSORS = 100_000
_MOST_METADATA = 20_000
_MOST_DIMENSIONS = 8
# Longer than any layer is called; what searches names may rely on it.
_LONGEST_TENSOR_NAME = 1000
_LARGEST_DIMENSION = 2**48
# A list or an object of Python takes 56 bytes and more, two characters in JSON: without this
# a header of brackets would take 30 times its size.
_MOST_BRACKETS = 4 * _MOST_TENSORS
_DTYPE = re.compile(r"[A-Z][A-Z0-9_]{0,19}")
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32,
    "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of an element of safetensors, by dtype; sizes of other dtypes are not checked."""

_CUT_SHORT = "download it again: a part of it is missing"
_ANEW = "download or copy it again; if that does not help, its author must save it again"

Damage = Literal["cut-short", "malformed", "foreign"]

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
_LONGEST_NAME = 65_535
_LONGEST_KEPT = 4096
_MOST_KEPT = 16
_MOST_NESTED = 2
_ALIGNMENT = "general.alignment"
_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
_GGML = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""ggml's names of dtypes, elements of a block, and bytes of a block, by number."""
PICKLE_HINT = "convert the weights to .safetensors, then publish those"
_DOWNLOAD_AGAIN = (
    "download it again; if that does not help, its author must upload it again as safetensors"
)
_UNPACK = "unpack it, and publish the safetensors file or the folder inside"
_SIGNED_IN = (
    "download it again, signed in where the hub asks for it: what came is a page of the hub"
)


class WeightsFormatError(HubError):
    """A file that is no safetensors or GGUF file, or a damaged one.

    ``damage`` tells a file that ends too early (``cut-short``), one that breaks its own format
    (``malformed``) and one of another format (``foreign``).
    """

    def __init__(self, message: str, *, hint: str, damage: Damage) -> None:
        super().__init__(message, hint=hint)
        self.damage = damage


@dataclass(frozen=True, slots=True)
class Tensor:
    """``shape`` is in torch's order in both formats; of GGUF, ``dtype`` is ggml's name (Q4_K)."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says that it holds. ``metadata`` of GGUF are its scalars and short lists."""

    format: Literal["safetensors", "gguf"]
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """The number of elements of all tensors."""
        return sum(tensor.count for tensor in self.tensors.values())


def read_header(path: Path) -> Header:
    """The header of a file on this disk. Raises WeightsFormatError, for an unreadable one HubError.

    A file that is shorter than its header says is refused. What was read is kept for the next who
    asks, until the file is another one: a model's checks ask for the same header many times.
    """
    try:
        now = path.stat()
        return _header_at(path, now.st_size, now.st_mtime_ns, now.st_ino)
    except OSError as error:
        raise HubError(
            f"{path} cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from None


@lru_cache(maxsize=16)
def _header_at(path: Path, size: int, changed: int, inode: int) -> Header:
    with path.open("rb") as stream:
        return _read(stream, size, str(path))


def read_config(path: Path) -> dict[str, Any]:
    """What a ``config.json`` beside weights says; nothing where it cannot be read."""
    try:
        with path.open("rb") as stream:
            config = json.loads(stream.read(_CONFIG_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def header_from_bytes(data: bytes, *, size: int | None = None, name: str = "the file") -> Header:
    """The header of a file of ``size`` bytes (None: not known) that begins with ``data``.

    For what a range request brought: :func:`header_length` says how much is needed. ``name`` is for
    the messages. Raises WeightsFormatError.
    """
    return _read(io.BytesIO(data), size, name)


def header_length(beginning: bytes) -> int | None:
    """How many bytes of a safetensors file its header takes, told from the first 8.

    None for another format, or a length over :data:`HEADER_LIMIT`. The header of a GGUF file does
    not say its length.
    """
    if len(beginning) < 8 or beginning.startswith(b"GGUF"):
        return None
    length = int.from_bytes(beginning[:8], "little")
    return 8 + length if length <= HEADER_LIMIT else None


def _read(stream: BinaryIO, size: int | None, name: str) -> Header:
    beginning = stream.read(64)
    if beginning.startswith(b"GGUF"):
        return _Gguf(stream, size, name).read()

    foreign = format_of(beginning)
    if foreign is not None:
        raise WeightsFormatError(
            f"{name} is {foreign.title}", hint=foreign.hint, damage=foreign.damage
        )
    return _safetensors(beginning, stream, size, name)


def _fault(name: str, reason: str, kind: str = "safetensors") -> WeightsFormatError:
    return WeightsFormatError(f"{name} is no {kind} file: {reason}", hint=_ANEW, damage="malformed")


def _short(name: str, reason: str, kind: str = "safetensors") -> WeightsFormatError:
    return WeightsFormatError(
        f"{name} is a {kind} file that is cut short: {reason}", hint=_CUT_SHORT, damage="cut-short"
    )


# ---- safetensors


def _safetensors(beginning: bytes, stream: BinaryIO, size: int | None, name: str) -> Header:
    if len(beginning) < 8:
        raise _short(name, f"it has {len(beginning)} bytes, too few for a header")
    length = int.from_bytes(beginning[:8], "little")
    if length > HEADER_LIMIT:
        raise _fault(name, f"it declares a header of {length:,} bytes, more than {HEADER_LIMIT:,}")
    if length >= 1 and beginning[8:9] != b"{":
        raise _fault(name, "it does not begin with a header")
    content = beginning[8 : 8 + length]
    content += stream.read(length - len(content))
    if len(content) < length:
        raise _short(name, f"its header has {length:,} bytes, of which {len(content):,} are there")
    tensors, metadata, end = _parse(content, name)
    if size is not None and 8 + length + end != size:
        needed = 8 + length + end
        if size < needed:
            raise _short(name, f"it has {size:,} of {needed:,} bytes")
        raise _fault(name, f"{size - needed:,} bytes follow after its last tensor")
    return Header("safetensors", tensors, metadata)


class _Entry(NamedTuple):
    tensor: Tensor
    start: int
    stop: int


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    """A tensor's entry as such at once, which takes little memory; other objects as they are."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands in it twice")
    dtype, shape, offsets = (found.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(shape, list) or not isinstance(offsets, list):
        return found
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError("a tensor has an impossible dtype")
    if len(shape) > _MOST_DIMENSIONS or not all(_is_size(number) for number in shape):
        raise ValueError("a tensor has an impossible shape")
    if len(offsets) != 2 or not all(_is_size(number) for number in offsets):
        raise ValueError("a tensor has impossible offsets")
    entry = _Entry(Tensor(dtype, tuple(shape)), *offsets)
    bits = _BITS.get(dtype)
    if bits is not None and entry.tensor.count * bits != 8 * (entry.stop - entry.start):
        raise ValueError("a tensor's bytes do not make up its shape")
    return entry


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number <= _LARGEST_DIMENSION


def _parse(content: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, str], int]:
    """Tensors by name, metadata, and how many bytes the tensors take."""
    if content.count(b"{") + content.count(b"[") > _MOST_BRACKETS:
        raise _fault(name, "its header has too many parts")
    try:
        header = json.loads(content.decode("utf-8"), object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        raise _fault(name, f"its header cannot be read: {one_line(str(error), 120)}") from None
    if not isinstance(header, dict):
        raise _fault(name, "its header is no list of tensors")
    said = header.pop("__metadata__", None) or {}
    if (
        not isinstance(said, dict)
        or len(said) > _MOST_METADATA
        or not all(isinstance(value, str) for value in said.values())
    ):
        raise _fault(name, "its metadata are not all texts")
    if len(header) > _MOST_TENSORS:
        raise _fault(name, f"it has {len(header):,} tensors, more than {_MOST_TENSORS:,}")
    for key, entry in header.items():
        if len(key) > _LONGEST_TENSOR_NAME:
            raise _fault(name, f"a tensor's name has {len(key):,} characters")
        if not isinstance(entry, _Entry):
            raise _fault(name, f"its entry {one_line(key, 80)!r} describes no tensor")
    end = 0
    for start, stop in sorted((entry.start, entry.stop) for entry in header.values()):
        if start != end or stop < start:
            raise _fault(name, "its tensors overlap, or leave holes")
        end = stop
    return {key: entry.tensor for key, entry in header.items()}, said, end


# ---- GGUF


class _Gguf:
    """A reader of one file, from just behind its first bytes on."""

    def __init__(self, stream: BinaryIO, size: int | None, name: str) -> None:
        self._stream = stream
        self._size = size
        self._name = name
        self._position = 0
        stream.seek(0)

    def read(self) -> Header:
        self._take(4)
        version = self._number("<I")
        if version not in (2, 3):
            big = version in (0x02000000, 0x03000000)
            raise self._fault("big-endian" if big else f"version {version} of GGUF is not known")
        tensor_count, metadata_count = self._number("<Q"), self._number("<Q")
        if tensor_count > _MOST_TENSORS or metadata_count > _MOST_METADATA:
            raise self._fault(f"{tensor_count:,} tensors and {metadata_count:,} metadata")
        metadata: dict[str, str] = {}
        for _ in range(metadata_count):
            key = self._text()
            value = self._value(self._number("<I"), 0)
            if key in metadata:
                raise self._fault("a name stands in its metadata twice")
            if value is not None:
                metadata[key] = value
        tensors: dict[str, Tensor] = {}
        end = 0
        for _ in range(tensor_count):
            key, tensor, stop = self._tensor(metadata)
            if key in tensors:
                raise self._fault("a name stands in it twice")
            tensors[key] = tensor
            end = max(end, stop)
        self._check_size(metadata, end)
        return Header("gguf", tensors, metadata)

    def _tensor(self, metadata: Mapping[str, str]) -> tuple[str, Tensor, int]:
        key = self._text()
        if len(key) > _LONGEST_TENSOR_NAME:
            raise self._fault(f"a tensor's name has {len(key):,} characters")
        dimensions = self._number("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise self._fault("a tensor has an impossible shape")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
        number, offset = self._number("<I"), self._number("<Q")
        count = math.prod(shape)
        if count > _LARGEST_DIMENSION or offset > _LARGEST_DIMENSION:
            raise self._fault("a tensor has an impossible shape or offset")
        dtype, per_block, block = _GGML.get(number, (f"GGML_{number}", 1, 0))
        if count % per_block:
            raise self._fault("a tensor's elements make no whole blocks")
        # ComfyUI-GGUF flattens convolutions, and says what their shapes were.
        original = tuple(
            int(part) for part in metadata.get(_ORIGINAL_SHAPE + key, "").split(",") if part
        )
        if original and math.prod(original) == count:
            shape = original
        return key, Tensor(dtype, shape), offset + count // per_block * block

    def _check_size(self, metadata: Mapping[str, str], end: int) -> None:
        stated = metadata.get(_ALIGNMENT, "32")
        alignment = int(stated) if stated.isdecimal() and len(stated) < 10 else 0
        if alignment < 1:
            raise self._fault("an impossible alignment")
        needed = -(-self._position // alignment) * alignment + end
        if self._size is not None and self._size < needed and end:
            raise _short(self._name, f"it has {self._size:,} of {needed:,} bytes", "GGUF")

    def _value(self, kind: int, depth: int) -> str | None:
        """A metadata value as text; None for one that is passed over, being long."""
        if kind in _SCALARS:
            return str(self._number(_SCALARS[kind]))
        if kind == _STRING:
            length = self._number("<Q")
            content = self._take(length) if length <= HEADER_LIMIT else self._too_long()
            return content.decode("utf-8", "replace") if length <= _LONGEST_KEPT else None
        if kind != _ARRAY or depth > _MOST_NESTED:
            raise self._fault(f"metadata of an unknown kind, {kind}")
        part, length = self._number("<I"), self._number("<Q")
        if length > HEADER_LIMIT:
            self._too_long()
        if part in _SCALARS and length > _MOST_KEPT:
            self._take(length * struct.calcsize(_SCALARS[part]))
            return None
        parts = []
        for _ in range(length):
            value = self._value(part, depth + 1)
            if length <= _MOST_KEPT:
                parts.append(value)
        return ",".join(value for value in parts if value is not None) or None

    def _text(self) -> str:
        length = self._number("<Q")
        if length > _LONGEST_NAME:
            raise self._fault(f"a name of {length:,} bytes")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self._fault("a name that is no UTF-8") from None

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _take(self, length: int) -> bytes:
        if self._position + length > HEADER_LIMIT:
            self._too_long()
        content = self._stream.read(length)
        self._position += len(content)
        if len(content) < length:
            raise _short(self._name, f"its header ends after {self._position:,} bytes", "GGUF")
        return content

    def _too_long(self) -> bytes:
        raise self._fault(f"a header of more than {HEADER_LIMIT:,} bytes")

    def _fault(self, reason: str) -> WeightsFormatError:
        return _fault(self._name, reason, "GGUF")


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
_EMPTY = FileFormat("empty", "an empty file", _DOWNLOAD_AGAIN, "cut-short")
_BLANK = FileFormat(
    "blank", "a file of zeros, as an interrupted download leaves it", _DOWNLOAD_AGAIN, "cut-short"
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
