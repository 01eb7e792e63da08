"""An ONNX file without its weights, which the runtime then maps where they lie, and does not copy.

Given the whole file as bytes, onnxruntime copies it, reads the weights into messages and copies
those. Given this outline it opens the file itself, and a tower takes the memory that the system
lends it: https://onnx.ai/onnx/repo-docs/ExternalData.html. The file stays one and complete in
itself, and what its graph does is told by bytes that were checked.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from gmi_registry.encoders.wire import (
    BYTES,
    MOST_PARTS,
    VARINT,
    Field,
    WireError,
    fields,
    message,
    varint,
    written,
)

__all__ = ["ALIGNMENT", "aligned", "outline"]

ALIGNMENT = 64
"""Bytes: a line of the processor's cache, and the longest register."""

_LEAST = 4096
"""Bytes of weights that are worth a reference."""

# Field numbers of onnx.proto, and its types of numbers with their bytes.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _TYPE, _RAW, _DOC, _EXTERNAL, _LOCATION = 1, 2, 9, 12, 13, 14
_KEY, _VALUE = 1, 2
_BYTES_OF_TYPE = {1: 4, 6: 4, 7: 8, 10: 2, 11: 8}

Rewrite = Callable[[memoryview, int, int], bytes | None]
"""Of an initializer, the place of its content in the file and that in the new one: its new content,
or None where it stays."""


def outline(data: bytes | memoryview, location: str) -> bytes:
    """The ONNX file ``data`` with references to itself, under the name ``location``, for weights.

    Weights stay in it that are small, or lie where a processor would not read them as numbers.
    Raises WireError for bytes that are no ONNX file.
    """

    def referring(tensor: memoryview, place: int, _: int) -> bytes | None:
        raw = _large(tensor)
        if raw is None or (place + raw.start) % _width(tensor):
            return None
        entries = {
            "location": location,
            "offset": str(place + raw.start),
            "length": str(len(message(raw))),
        }
        content = [_copied(field) for field in fields(tensor, [MOST_PARTS]) if field.number != _RAW]
        for key, value in entries.items():
            pair = written(_KEY, key.encode()) + written(_VALUE, value.encode())
            content.append(written(_EXTERNAL, pair))
        return b"".join([*content, written(_LOCATION, 1, VARINT)])

    return _rewritten(data, referring)


def aligned(data: bytes | memoryview) -> bytes:
    """The same model, its large weights at multiples of :data:`ALIGNMENT` bytes in the file.

    Raises WireError for bytes that are no ONNX file.
    """

    def shifted(tensor: memoryview, _: int, target: int) -> bytes | None:
        raw = _large(tensor)
        if raw is None:
            return None
        kept = (field for field in fields(tensor, [MOST_PARTS]) if field.number not in (_RAW, _DOC))
        head, weights = b"".join(map(_copied, kept)), written(_RAW, message(raw))
        ahead = len(weights) - len(message(raw))
        for blanks in range(2 * ALIGNMENT):
            # The format has no filling, and ignores what a weight is described as.
            filled = head + written(_DOC, b" " * blanks)
            size = len(varint(len(filled) + len(weights)))
            if (target + size + len(filled) + ahead) % ALIGNMENT == 0:
                return filled + weights
        return None

    return _rewritten(data, shifted)


def _rewritten(data: bytes | memoryview, change: Rewrite) -> bytes:
    view, left = memoryview(data), [MOST_PARTS]
    whole = list(fields(view, left))
    if sum(field.number == _GRAPH for field in whole) != 1:
        raise WireError("it holds no graph, or several")
    found = bytearray()
    for field in whole:
        if field.number != _GRAPH:
            found += _copied(field)
            continue
        # Where the graph's parts come to lie depends on how many bytes its length takes.
        for size in range(1, 6):
            graph = _rewritten_graph(field, left, len(found) + 1 + size, change)
            if len(varint(len(graph))) == size:
                break
        found += written(_GRAPH, graph)
    return bytes(found)


def _rewritten_graph(graph: Field, left: list[int], target: int, change: Rewrite) -> bytes:
    found = bytearray()
    for part in fields(message(graph), list(left)):
        fresh = None
        if part.number == _INITIALIZER:
            place = graph.start + part.start
            fresh = change(message(part), place, target + len(found) + 1)
        found += _copied(part) if fresh is None else written(_INITIALIZER, fresh)
    return bytes(found)


def _large(tensor: memoryview) -> Field | None:
    """The weights of an initializer, where it is large and as all exporters write them."""
    raw = [field for field in fields(tensor, [MOST_PARTS]) if field.number == _RAW]
    if len(raw) != 1 or len(message(raw[0])) < _LEAST:
        return None
    return raw[0] if len(message(raw[0])) == _width(tensor) * _count(tensor) else None


def _width(tensor: memoryview) -> int:
    """Bytes of one number; 0 for a type that no encoder has."""
    types = [field.value for field in fields(tensor, [MOST_PARTS]) if field.number == _TYPE]
    kind = types[-1] if types else 0
    return _BYTES_OF_TYPE.get(kind, 0) if isinstance(kind, int) else 0


def _count(tensor: memoryview) -> int:
    sides: list[int] = []
    for field in fields(tensor, [MOST_PARTS]):
        if field.number == _DIMS:
            # Written one by one, or packed into one field.
            sides += [field.value] if isinstance(field.value, int) else _numbers(field.value)
    return math.prod(sides)


def _numbers(packed: memoryview) -> list[int]:
    found, value, shift = [], 0, 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value)
            value, shift = 0, 0
    return found


def _copied(field: Field) -> bytes:
    if field.kind == BYTES:
        return written(field.number, message(field))
    return written(field.number, field.value, field.kind)
