"""What an ONNX file is made of, looked at before any runtime sees it.

A runtime would open further files that a model names, and knows operators by the hundred, some of
which run loops or other models. Only the wire format of the file is read here, in one pass that
steps over the weights: no library is needed for it, and none is trusted.
"""

from __future__ import annotations

from gmi_registry.encoders.wire import MOST_PARTS, VARINT, Field, WireError, fields, message
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

_DEFAULT_DOMAINS = (b"", b"ai.onnx")

# Field numbers of onnx.proto, by message.
_MODEL = {"graph": 7, "opset": 8, "training": 20, "functions": 25}
_GRAPH = {"node": 1, "initializer": 5, "sparse_initializer": 15}
_NODE = {"op_type": 4, "attribute": 5, "domain": 7}
_ATTRIBUTE = {"t": 5, "g": 6, "tensors": 10, "graphs": 11, "sparse": 22, "sparses": 23}
_TENSOR = {"external_data": 13, "data_location": 14}
_OPSET = {"domain": 1}


def check_graph(data: bytes | memoryview, name: str) -> None:
    """Raise InputError unless the ONNX file ``data``, called ``name``, is complete in itself.

    It must be a protocol buffer whose weights all lie in it, with nothing but :data:`OPERATORS` of
    the standard domain, and without subgraphs or functions. Whether it makes sense otherwise is for
    the runtime to say.
    """
    try:
        _check_model(memoryview(data))
    except WireError as reason:
        raise InputError(
            f"{name} is not loaded: {reason}",
            hint="export the encoder again: gmi encoder export NAME/PRETRAINED --output DIR",
        ) from None


def _check_model(data: memoryview) -> None:
    graphs = 0
    left = [MOST_PARTS]
    for field in fields(data, left):
        if field.number == _MODEL["graph"]:
            graphs += 1
            _check_graph(message(field), left)
        elif field.number == _MODEL["opset"]:
            for inner in fields(message(field), left):
                if inner.number == _OPSET["domain"]:
                    _require_standard(inner)
        elif field.number in (_MODEL["training"], _MODEL["functions"]):
            raise WireError("it holds more than one graph")
    if graphs != 1:
        raise WireError(f"it holds {graphs} graphs")


def _check_graph(data: memoryview, left: list[int]) -> None:
    for field in fields(data, left):
        if field.number == _GRAPH["node"]:
            _check_node(message(field), left)
        elif field.number == _GRAPH["initializer"]:
            _check_tensor(message(field), left)
        elif field.number == _GRAPH["sparse_initializer"]:
            raise WireError("it holds sparse weights")


def _check_node(data: memoryview, left: list[int]) -> None:
    for field in fields(data, left):
        if field.number == _NODE["op_type"]:
            operator = bytes(message(field)[:80]).decode("ascii", "replace")
            if operator not in OPERATORS:
                raise WireError(f"an encoder has no use for the operator {operator!r}")
        elif field.number == _NODE["domain"]:
            _require_standard(field)
        elif field.number == _NODE["attribute"]:
            _check_attribute(message(field), left)


def _check_attribute(data: memoryview, left: list[int]) -> None:
    for field in fields(data, left):
        if field.number in (_ATTRIBUTE["g"], _ATTRIBUTE["graphs"]):
            raise WireError("it holds a graph within a graph")
        if field.number in (_ATTRIBUTE["sparse"], _ATTRIBUTE["sparses"]):
            raise WireError("it holds sparse weights")
        if field.number in (_ATTRIBUTE["t"], _ATTRIBUTE["tensors"]):
            _check_tensor(message(field), left)


def _check_tensor(data: memoryview, left: list[int]) -> None:
    for number, _, value, _ in fields(data, left):
        if number == _TENSOR["external_data"] or (number == _TENSOR["data_location"] and value):
            raise WireError("it names another file for its weights")


def _require_standard(domain: Field) -> None:
    if domain.kind == VARINT or bytes(message(domain)[:80]) not in _DEFAULT_DOMAINS:
        given = domain.value
        shown = given if isinstance(given, int) else bytes(given[:80]).decode("ascii", "replace")
        raise WireError(f"it uses operators that are not ONNX's own ({shown!r})")
