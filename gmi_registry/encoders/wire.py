"""The wire format of protocol buffers, in which ONNX files are written, and nothing of ONNX.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "BYTES",
    "MOST_PARTS",
    "VARINT",
    "Field",
    "WireError",
    "fields",
    "message",
    "varint",
    "written",
]

MOST_PARTS = 400_000
"""Fields that a file may have."""

VARINT, BYTES = 0, 2
_FIXED64, _FIXED32 = 1, 5


class WireError(Exception):
    """Why the bytes are refused, in words that go on after "it"."""


class Field(NamedTuple):
    """``start`` is where the content of a field begins, in bytes from the start of its message."""

    number: int
    kind: int
    value: memoryview | int
    start: int


def fields(data: memoryview, left: list[int]) -> Iterator[Field]:
    """Each field of a message, in order; contents are not copied.

    ``left`` holds one number, of fields that may still come, :data:`MOST_PARTS` at first; it is
    counted down. Raises WireError once there are more, and for bytes that are no message.
    """
    place = 0
    while place < len(data):
        left[0] -= 1
        if left[0] < 0:
            raise WireError(f"it has more than {MOST_PARTS:,} parts")
        tag, place = _read_varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            start = place
            value, place = _read_varint(data, place)
            yield Field(number, kind, value, start)
            continue
        if kind == BYTES:
            length, place = _read_varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise WireError("it is not an ONNX file")
        if number == 0 or length > len(data) - place:
            raise WireError("it is cut short, or not an ONNX file")
        yield Field(number, kind, data[place : place + length], place)
        place += length


def message(field: Field) -> memoryview:
    """The content of a field that holds a message, a text or bytes. Raises WireError for others."""
    if field.kind != BYTES or isinstance(field.value, int):
        raise WireError("it is not an ONNX file")
    return field.value


def varint(value: int) -> bytes:
    """A number that is not negative, in as few bytes as there can be."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def written(number: int, content: bytes | bytearray | memoryview | int, kind: int = BYTES) -> bytes:
    """One field as bytes: what ``fields`` reads."""
    tag = varint(number << 3 | kind)
    if isinstance(content, int):
        return tag + varint(content)
    return b"".join((tag, varint(len(content)) if kind == BYTES else b"", content))


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise WireError("it is cut short")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise WireError("it is not an ONNX file")
