"""What an ONNX file is made of, looked at before any runtime sees it.

A runtime would open further files that a model names, and knows operators by the hundred, some of
which run loops or other models. Only the wire format of the file is read here, in one pass that
steps over the weights: no library is needed for it, and none is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator

from gmi_registry.errors import InputError

__all__ = ["LARGEST_FILE", "OPERATORS", "check_graph"]

LARGEST_FILE = 2**31 - 1
"""Bytes that one protocol buffer may have."""

_NAMES = (
    "Add And ArgMax AveragePool BatchNormalization Cast Clip Concat Constant Conv Cos CumSum Div "
    "Einsum Equal Erf Exp Expand Flatten Gather GatherElements GatherND Gelu Gemm "
    "GlobalAveragePool Greater GroupNormalization HardSigmoid HardSwish Identity "
    "InstanceNormalization LayerNormalization Less MatMul Max MaxPool Min Mul Neg Not Or Pad Pow "
    "Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceSum ReduceSumSquare Relu Reshape "
    "RMSNormalization Shape Sigmoid Sin Slice Softmax Split Sqrt Squeeze Sub Tanh Transpose "
    "Unsqueeze Where"
)
OPERATORS = frozenset(_NAMES.split())
"""What the towers of CLIP and its kin need: no loops, no branches, no chance, no files."""

_MOST_PARTS = 400_000
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEFAULT_DOMAINS = (b"", b"ai.onnx")

# Field numbers of onnx.proto, by message.
_MODEL = {"graph": 7, "opset": 8, "training": 20, "functions": 25}
_GRAPH = {"node": 1, "initializer": 5, "sparse_initializer": 15}
_NODE = {"op_type": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE = {"t": 5, "g": 6, "tensors": 10, "graphs": 11, "sparse": 22, "sparses": 23}
_TENSOR = {"external_data": 13, "data_location": 14}
_OPSET = {"domain": 1}


def check_graph(data: bytes, name: str) -> None:
    """Raise InputError unless the ONNX file ``data``, called ``name``, is complete in itself.

    It must be a protocol buffer whose weights all lie in it, with nothing but :data:`OPERATORS` of
    the standard domain, and without subgraphs or functions. Whether it makes sense otherwise is for
    the runtime to say.
    """
    try:
        _check_model(memoryview(data))
    except _RefusedError as reason:
        raise InputError(
            f"{name} is not loaded: {reason}",
            hint="export the encoder again: gmi encoder export NAME/PRETRAINED --output DIR",
        ) from None


class _RefusedError(Exception):
    """The reason, in words."""


def _check_model(data: memoryview) -> None:
    graphs = 0
    left = [_MOST_PARTS]
    for number, kind, value in _fields(data, left):
        if number == _MODEL["graph"]:
            graphs += 1
            _check_graph(_message(kind, value), left)
        elif number == _MODEL["opset"]:
            for inner, _, domain in _fields(_message(kind, value), left):
                if inner == _OPSET["domain"]:
                    _require_standard(domain)
        elif number in (_MODEL["training"], _MODEL["functions"]):
            raise _RefusedError("it holds more than one graph")
    if graphs != 1:
        raise _RefusedError(f"it holds {graphs} graphs")


def _check_graph(data: memoryview, left: list[int]) -> None:
    for number, kind, value in _fields(data, left):
        if number == _GRAPH["node"]:
            _check_node(_message(kind, value), left)
        elif number == _GRAPH["initializer"]:
            _check_tensor(_message(kind, value), left)
        elif number == _GRAPH["sparse_initializer"]:
            raise _RefusedError("it holds sparse weights")


def _check_node(data: memoryview, left: list[int]) -> None:
    for number, kind, value in _fields(data, left):
        if number == _NODE["op_type"]:
            operator = bytes(_message(kind, value)[:80]).decode("ascii", "replace")
            if operator not in OPERATORS:
                raise _RefusedError(f"an encoder has no use for the operator {operator!r}")
        elif number == _NODE["domain"]:
            _require_standard(value)
        elif number == _NODE["attribute"]:
            _check_attribute(_message(kind, value), left)


def _check_attribute(data: memoryview, left: list[int]) -> None:
    for number, kind, value in _fields(data, left):
        if number in (_ATTRIBUTE["g"], _ATTRIBUTE["graphs"]):
            raise _RefusedError("it holds a graph within a graph")
        if number in (_ATTRIBUTE["sparse"], _ATTRIBUTE["sparses"]):
            raise _RefusedError("it holds sparse weights")
        if number in (_ATTRIBUTE["t"], _ATTRIBUTE["tensors"]):
            _check_tensor(_message(kind, value), left)


def _check_tensor(data: memoryview, left: list[int]) -> None:
    for number, _, value in _fields(data, left):
        if number == _TENSOR["external_data"] or (number == _TENSOR["data_location"] and value):
            raise _RefusedError("it names another file for its weights")


def _require_standard(domain: memoryview | int) -> None:
    if isinstance(domain, int) or bytes(domain[:80]) not in _DEFAULT_DOMAINS:
        shown = domain if isinstance(domain, int) else bytes(domain[:80]).decode("ascii", "replace")
        raise _RefusedError(f"it uses operators that are not ONNX's own ({shown!r})")


def _message(kind: int, value: memoryview | int) -> memoryview:
    if kind != _BYTES or isinstance(value, int):
        raise _RefusedError("it is not an ONNX file")
    return value


def _fields(data: memoryview, left: list[int]) -> Iterator[tuple[int, int, memoryview | int]]:
    """Number, wire type and value of each field; ``left`` counts down what may still come."""
    place = 0
    while place < len(data):
        left[0] -= 1
        if left[0] < 0:
            raise _RefusedError(f"it has more than {_MOST_PARTS:,} parts")
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, place = _varint(data, place)
            yield number, kind, value
            continue
        if kind == _BYTES:
            length, place = _varint(data, place)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _RefusedError("it is not an ONNX file")
        if number == 0 or length > len(data) - place:
            raise _RefusedError("it is cut short, or not an ONNX file")
        yield number, kind, data[place : place + length]
        place += length


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise _RefusedError("it is cut short")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _RefusedError("it is not an ONNX file")
