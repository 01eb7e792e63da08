"""The bytes that are run, written from a graph that was read and checked, and from nothing else.

They are an ONNX file without its weights, which the runtime maps where they lie, and does not copy.
Given the whole file as bytes, onnxruntime copies it, reads the weights into messages and copies
those. Given this graph it opens the file itself, and a tower takes the memory that the system
lends it: https://onnx.ai/onnx/repo-docs/ExternalData.html. The file stays one and complete in
itself.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from gmi_registry.encoders.graph import (
    BYTES,
    BYTES_OF_KIND,
    FIXED32,
    VARINT,
    Attribute,
    Graph,
    Node,
    Tensor,
    Value,
    read_graph,
    varint,
    written,
)

ALIGNMENT = 64
"""Bytes: a line of the processor's cache, and the longest register."""

_LEAST = 4096
"""Bytes of weights that are worth a reference."""

_NODE, _NAME, _INITIALIZER, _INPUT, _OUTPUT = 1, 2, 5, 11, 12
_IR_VERSION, _GRAPH, _OPSET = 1, 7, 8
_DIMS, _TYPE, _TENSOR_NAME, _RAW, _DOC, _EXTERNAL, _LOCATION = 1, 2, 8, 9, 12, 13, 14

Pieces = list[bytes | memoryview]


def with_external_data(data: bytes | memoryview, location: str) -> bytes:
    """The ONNX file ``data`` as it is run: its graph with references for its weights.

    Raises WireError as :func:`~gmi_registry.encoders.graph.read_graph`.
    """
    return graph_with_external_data(read_graph(data), location)


def graph_with_external_data(graph: Graph, location: str) -> bytes:
    """A graph with references for its weights into the file of that name, from which it was read.

    Weights are in it that are small, or lie where a processor would not read them as numbers. The
    same graph gives the same bytes.
    """

    def referring(tensor: Tensor, _: int) -> Pieces:
        if (
            tensor.place is None
            or not _is_large(tensor)
            or tensor.place % BYTES_OF_KIND[tensor.kind]
        ):
            return [written(_INITIALIZER, _tensor(tensor))]
        parts = [_head(tensor)]
        entries = {
            "location": location,
            "offset": str(tensor.place),
            "length": str(len(tensor.data)),
        }
        for key, text in entries.items():
            pair = written(1, key.encode()) + written(2, text.encode())
            parts.append(written(_EXTERNAL, pair))
        return [written(_INITIALIZER, b"".join([*parts, written(_LOCATION, 1, VARINT)]))]

    return _model(graph, referring)


def aligned(data: bytes | memoryview) -> bytes:
    """The same model, its large weights at multiples of :data:`ALIGNMENT` bytes in the file.

    Raises WireError as :func:`~gmi_registry.encoders.graph.read_graph`.
    """

    def shifted(tensor: Tensor, start: int) -> Pieces:
        if not _is_large(tensor):
            return [written(_INITIALIZER, _tensor(tensor))]
        head, size = _head(tensor), len(tensor.data)
        before = varint(_RAW << 3 | BYTES) + varint(size)
        for blanks in range(2 * ALIGNMENT):
            # The format has no filling, and ignores what a weight is described as.
            filled = head + written(_DOC, b" " * blanks) + before
            opening = varint(_INITIALIZER << 3 | BYTES) + varint(len(filled) + size) + filled
            if (start + len(opening)) % ALIGNMENT == 0:
                break
        return [opening, tensor.data]

    return _model(read_graph(data), shifted)


def _model(graph: Graph, put: Callable[[Tensor, int], Pieces]) -> bytes:
    """``put`` writes a weight that begins at a place in the file."""
    head = written(_IR_VERSION, graph.ir_version, VARINT) + varint(_GRAPH << 3 | BYTES)
    nodes = b"".join(written(_NODE, _node(node)) for node in graph.nodes)
    ends = written(_INPUT, _value(graph.taken)) + written(_OUTPUT, _value(graph.given))
    opset = written(_OPSET, written(1, b"") + written(2, graph.opset, VARINT))
    pieces: Pieces = []
    length = 0
    # Where the graph's parts come to lie depends on how many bytes its length takes.
    for size in range(1, 6):
        pieces = [nodes, written(_NAME, b"tower")]
        length = sum(map(len, pieces))
        for tensor in graph.weights:
            fresh = put(tensor, len(head) + size + length)
            length += sum(map(len, fresh))
            pieces += fresh
        pieces.append(ends)
        length += len(ends)
        if len(varint(length)) == size:
            break
    return b"".join([head, varint(length), *pieces, opset])


def _node(node: Node) -> bytes:
    parts = [written(1, name.encode()) for name in node.inputs]
    parts += [written(2, name.encode()) for name in node.outputs]
    parts.append(written(4, node.operator.encode()))
    parts += [written(5, _attribute(attribute)) for attribute in node.attributes]
    return b"".join(parts)


# Where an attribute of each kind has its values.
_VALUES = {1: 2, 2: 3, 3: 4, 4: 5, 6: 7, 7: 8, 8: 9}


def _attribute(attribute: Attribute) -> bytes:
    number, parts = _VALUES[attribute.kind], [written(1, attribute.name.encode())]
    for element in attribute.values:
        if isinstance(element, Tensor):
            parts.append(written(number, _tensor(element)))
        elif isinstance(element, bytes):
            parts.append(written(number, element))
        elif attribute.kind in (1, 6):
            parts.append(written(number, struct.pack("<I", element), FIXED32))
        else:
            parts.append(written(number, element, VARINT))
    return b"".join([*parts, written(20, attribute.kind, VARINT)])


def _tensor(tensor: Tensor) -> bytes:
    return _head(tensor) + written(_RAW, tensor.data)


def _head(tensor: Tensor) -> bytes:
    parts = [written(_DIMS, side, VARINT) for side in tensor.dims]
    parts += [written(_TYPE, tensor.kind, VARINT), written(_TENSOR_NAME, tensor.name.encode())]
    return b"".join(parts)


def _is_large(tensor: Tensor) -> bool:
    return len(tensor.data) >= _LEAST


def _value(value: Value) -> bytes:
    kind = written(1, value.kind, VARINT)
    if value.dims is not None:
        kind += written(2, b"".join(written(1, _side(side)) for side in value.dims))
    return written(1, value.name.encode()) + written(2, written(1, kind))


def _side(side: int | str) -> bytes:
    if isinstance(side, int):
        return written(1, side, VARINT)
    return written(2, side.encode()) if side else b""
