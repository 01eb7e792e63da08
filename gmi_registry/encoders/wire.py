"""The wire format of protocol buffers, in which ONNX files are written, and nothing of ONNX.

Readers of this format differ in what they forgive: some keep 32 bits of a tag and some all of
them, some take numbers with idle bytes, some the last of two values. So there is one spelling of
everything here, the shortest, and all else is refused.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MOST_PARTS = 400_000
"""Fields that a file may have, and numbers in its lists."""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

_LONGEST_TAG, _LONGEST_LENGTH = 2**32, 2**31
_NOT_ONNX = "it is not an ONNX file"


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
    counted down. Raises WireError once there are more, for bytes that are no message, and for any
    spelling of one that is not the shortest.
    """
    place, end = 0, len(data)
    while place < end:
        left[0] -= 1
        if left[0] < 0:
            raise WireError(f"it has more than {MOST_PARTS:,} parts")
        tag = data[place]
        place += 1
        if tag > 0x7F:
            tag, place = _read_varint(data, place - 1)
            if tag >= _LONGEST_TAG:
                raise WireError("it has a field number of more than 32 bits")
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise WireError(_NOT_ONNX)
        if kind in (VARINT, BYTES):
            start = place
            length = data[place] if place < end else 0x80
            place += 1
            if length > 0x7F:
                length, place = _read_varint(data, start)
            if kind == VARINT:
                yield Field(number, kind, length, start)
                continue
            if length >= _LONGEST_LENGTH:
                raise WireError("it has a length of more than 31 bits")
        elif kind in (FIXED64, FIXED32):
            length = 8 if kind == FIXED64 else 4
        else:
            raise WireError(_NOT_ONNX)
        if length > end - place:
            raise WireError("it is cut short, or not an ONNX file")
        yield Field(number, kind, data[place : place + length], place)
        place += length


def message(field: Field) -> memoryview:
    """The content of a field that holds a message, a text or bytes. Raises WireError for others."""
    if field.kind != BYTES or isinstance(field.value, int):
        raise WireError(_NOT_ONNX)
    return field.value


def numbers(packed: memoryview, left: list[int]) -> Iterator[int]:
    """The numbers of a list that is packed into one field. ``left`` and errors: :func:`fields`."""
    place = 0
    while place < len(packed):
        left[0] -= 1
        if left[0] < 0:
            raise WireError(f"it has more than {MOST_PARTS:,} parts")
        value, place = _read_varint(packed, place)
        yield value


_SHORT = [bytes([value]) for value in range(0x80)]


def varint(value: int) -> bytes:
    """A number that is not negative, in as few bytes as there can be."""
    if value < 0x80:
        return _SHORT[value]
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
    """A number of at most 64 bits in as few bytes as there can be, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise WireError("it is cut short")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise WireError("it has a number with idle bytes")
            if value >= 2**64:
                break
            return value, place
    raise WireError("it has a number of more than 64 bits")
