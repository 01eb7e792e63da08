"""What an ONNX file is made of: read strictly, checked, and written anew for the runtime.

A runtime would open further files that a model names, and knows operators by the hundred, some of
which run loops or other models; and it may read the same bytes in another way than a check does.
So the runtime never sees the bytes of a file. A file becomes a :class:`Graph`, which has no place
for anything but plain operators, their attributes and weights, and what is run is written from
that alone (:mod:`gmi_registry.encoders.external_data`). It needs no library, and trusts none.

ONNX files are protocol buffers. Readers of these differ in what they forgive: some keep 32 bits of
a tag and some all of them, some take numbers with idle bytes, some the last of two values. So there
is one spelling of everything here, the shortest, and all else is refused.

Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gmi_registry.errors import InputError

# --- The wire format -----------------------------------------------------------------------------

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


# --- Graphs --------------------------------------------------------------------------------------

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

_WINDOWS = frozenset({"AveragePool", "Conv", "MaxPool"})
_WIDEST, _MOST_IN_WINDOW = 1024, 2**16

_LONGEST_NAME, _LONGEST_TEXT, _MOST_SIDES = 1000, 1000, 16
_LONGEST_SIDE = 2**31 - 1

BYTES_OF_KIND = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}
"""The types of numbers that an encoder has: float32, uint8, int8, int32, int64, bool, float16 and
float64, by their number in onnx.proto."""
_BOOL = 9


class Tensor(NamedTuple):
    """Numbers of type ``kind`` (of onnx.proto) as little-endian ``data``.

    They begin at byte ``place`` of the file; None where the file spells them in another way.
    """

    name: str
    kind: int
    dims: tuple[int, ...]
    data: memoryview
    place: int | None


class Attribute(NamedTuple):
    """``kind`` is its type in onnx.proto, which tells one value from a list of one.

    Numbers are as the file has them: integers in two's complement of 64 bits, floats as the 32 bits
    of each.
    """

    name: str
    kind: int
    values: tuple[int | bytes | Tensor, ...]


class Node(NamedTuple):
    """One operator of the standard domain. An input or output that it goes without is ""."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[Attribute, ...]


class Value(NamedTuple):
    """An input or output; a side is a number, the name of one, or "". None is any shape."""

    name: str
    kind: int
    dims: tuple[int | str, ...] | None


class Graph(NamedTuple):
    """All that is run. Nodes are in an order in which each finds what it takes."""

    ir_version: int
    opset: int
    taken: Value
    given: Value
    weights: tuple[Tensor, ...]
    nodes: tuple[Node, ...]


def check_graph(data: bytes | memoryview, name: str) -> Graph:
    """What the ONNX file ``data``, called ``name``, holds: :func:`read_graph`, for people.

    Raises InputError with the reason why it is refused.
    """
    try:
        return read_graph(data)
    except WireError as reason:
        raise InputError(
            f"{name} is not loaded: {reason}",
            hint="export the encoder again: gmi encoder export NAME/PRETRAINED --output DIR",
        ) from None


def read_graph(data: bytes | memoryview) -> Graph:
    """What the ONNX file ``data`` holds; weights are not copied.

    It must be a protocol buffer whose weights all lie in it, as many as their shapes say, with one
    input and one output, with nothing but :data:`OPERATORS` of the standard domain, each of which
    takes what was there before, and without subgraphs or functions. Names and descriptions of
    parts that nothing refers to are left out. Whether it makes sense otherwise is for the runtime
    to say.

    Raises WireError for anything else, for a field that onnx.proto has not, for one that counts and
    is there twice, and for any spelling but the shortest.
    """
    left = [MOST_PARTS]
    parts = _parts(memoryview(data), "model", left)
    graphs = parts.get("graph", [])
    if len(graphs) != 1:
        raise WireError(f"it holds {len(graphs)} graphs")
    opsets = [_parts(message(it), "opset", left) for it in parts.get("opset", [])]
    for opset in opsets:
        _require_standard(opset)
    if len(opsets) != 1:
        raise WireError(f"it names {len(opsets)} versions of the operators")
    graph = _parts(message(graphs[0]), "graph", left)
    base = graphs[0].start
    found = Graph(
        ir_version=_small(parts, "ir_version"),
        opset=_small(opsets[0], "version"),
        taken=_value(_sole(graph, "input"), left),
        given=_value(_sole(graph, "output"), left),
        weights=tuple(
            _tensor(message(it), left, base + it.start) for it in graph.get("weights", [])
        ),
        nodes=tuple(_node(message(it), left, base + it.start) for it in graph.get("nodes", [])),
    )
    _require_order(found)
    return found


def _require_order(graph: Graph) -> None:
    """Each name stands for one thing, which is there before it is used."""
    known = {graph.taken.name}

    def add(name: str) -> None:
        if name in known or not name:
            raise WireError(f"it has the name {name[:80]!r} twice")
        known.add(name)

    for tensor in graph.weights:
        add(tensor.name)
    for node in graph.nodes:
        for name in node.inputs:
            if name and name not in known:
                raise WireError(f"it uses {name[:80]!r} before it exists")
        for name in filter(None, node.outputs):
            add(name)
    if graph.given.name not in known:
        raise WireError(f"it does not compute its output {graph.given.name[:80]!r}")


# --- reading

# What is in a message of onnx.proto, by the numbers of its fields: a name, and how it is written.
# Fields with the name "" are known and not kept: descriptions, and the names of what nothing refers
# to. A text in place of the form is why a field is refused.
_ONE, _FLOAT, _MESSAGE = (VARINT,), (FIXED32,), (BYTES,)
_SEVERAL, _FLOATS, _DOUBLES = (VARINT, BYTES), (FIXED32, BYTES), (FIXED64, BYTES)
_SUBGRAPH, _SPARSE = "it holds a graph within a graph", "it holds sparse weights"
_ELSEWHERE, _SECOND = "it names another file for its weights", "it holds more than one graph"
_NO_TENSOR = "it takes or gives something that is not one tensor"
_MANY = frozenset(
    {
        *("graph", "opset", "nodes", "weights", "input", "output", "attributes"),
        *("inputs", "outputs", "floats", "ints", "strings", "sides", "dims"),
        *("float_data", "int32_data", "int64_data", "double_data"),
    }
)
_UNUSED = ("", _MESSAGE)
_Rules = dict[int, tuple[str, tuple[int, ...] | str]]
_RULES: dict[str, _Rules] = {
    "model": {
        1: ("ir_version", _ONE),
        **dict.fromkeys((2, 3, 4, 6, 14), _UNUSED),
        5: ("", _ONE),
        7: ("graph", _MESSAGE),
        8: ("opset", _MESSAGE),
        **dict.fromkeys((20, 25), ("functions", _SECOND)),
    },
    "opset": {1: ("domain", _MESSAGE), 2: ("version", _ONE)},
    "graph": {
        1: ("nodes", _MESSAGE),
        5: ("weights", _MESSAGE),
        11: ("input", _MESSAGE),
        12: ("output", _MESSAGE),
        15: ("sparse", _SPARSE),
        **dict.fromkeys((2, 10, 13, 16), _UNUSED),
    },
    "node": {
        1: ("inputs", _MESSAGE),
        2: ("outputs", _MESSAGE),
        4: ("operator", _MESSAGE),
        5: ("attributes", _MESSAGE),
        7: ("domain", _MESSAGE),
        8: ("overload", _MESSAGE),
        **dict.fromkeys((3, 6, 9), _UNUSED),
    },
    "attribute": {
        1: ("name", _MESSAGE),
        2: ("f", _FLOAT),
        3: ("i", _ONE),
        4: ("s", _MESSAGE),
        5: ("t", _MESSAGE),
        7: ("floats", _FLOATS),
        8: ("ints", _SEVERAL),
        9: ("strings", _MESSAGE),
        13: _UNUSED,
        20: ("type", _ONE),
        **dict.fromkeys((6, 11), ("graphs", _SUBGRAPH)),
        **dict.fromkeys((22, 23), ("sparse", _SPARSE)),
    },
    "tensor": {
        1: ("dims", _SEVERAL),
        2: ("kind", _ONE),
        4: ("float_data", _FLOATS),
        5: ("int32_data", _SEVERAL),
        7: ("int64_data", _SEVERAL),
        8: ("name", _MESSAGE),
        9: ("raw_data", _MESSAGE),
        10: ("double_data", _DOUBLES),
        13: ("external", _ELSEWHERE),
        14: ("location", _ONE),
        **dict.fromkeys((12, 16), _UNUSED),
    },
    "value": {1: ("name", _MESSAGE), 2: ("type", _MESSAGE), **dict.fromkeys((3, 4), _UNUSED)},
    "type": {
        1: ("tensor", _MESSAGE),
        6: _UNUSED,
        **dict.fromkeys((4, 5, 7, 8, 9), ("other", _NO_TENSOR)),
    },
    "tensor type": {1: ("kind", _ONE), 2: ("shape", _MESSAGE)},
    "shape": {1: ("sides", _MESSAGE)},
    "side": {1: ("length", _ONE), 2: ("symbol", _MESSAGE), 3: _UNUSED},
}

_Parts = dict[str, list[Field]]


def _parts(data: memoryview, what: str, left: list[int]) -> _Parts:
    """The fields of one message that are kept, by their names."""
    rules, found = _RULES[what], _Parts()
    for field in fields(data, left):
        rule = rules.get(field.number)
        if rule is None:
            raise WireError(f"it has a field {field.number} in {_a(what)}, which no encoder needs")
        name, form = rule
        if isinstance(form, str):
            raise WireError(form)
        if field.kind not in form:
            raise WireError(f"it has a field {field.number} of another type in {_a(what)}")
        if not name:
            continue
        if name not in found:
            found[name] = [field]
        elif name in _MANY:
            found[name].append(field)
        else:
            raise WireError(f"it has the field {name} twice in {_a(what)}")
    return found


def _a(what: str) -> str:
    return f"an {what}" if what[0] in "ao" else f"a {what}"


def _node(data: memoryview, left: list[int], base: int) -> Node:
    parts = _parts(data, "node", left)
    operator = _text(parts, "operator")
    if operator not in OPERATORS:
        raise WireError(f"no encoder needs the operator {operator[:80]!r}")
    _require_standard(parts)
    if _text(parts, "overload"):
        raise WireError(_SECOND)
    attributes = tuple(
        _attribute(message(it), left, base + it.start) for it in parts.get("attributes", [])
    )
    if len({it.name for it in attributes}) != len(attributes):
        raise WireError(f"it says something twice about an operator {operator}")
    if operator in _WINDOWS:
        _require_small_window(operator, attributes)
    inputs, outputs = (
        tuple(_decoded(message(it)) for it in parts.get(name, [])) for name in ("inputs", "outputs")
    )
    return Node(operator, inputs, outputs, attributes)


def _require_small_window(operator: str, attributes: Iterable[Attribute]) -> None:
    """A window is gone through for every number that comes out, whether it lies inside or not."""
    for attribute in attributes:
        if attribute.kind != _INTS:
            continue
        sides = [side for side in attribute.values if isinstance(side, int)]
        large = any(side > _WIDEST for side in sides)
        if large or (attribute.name == "kernel_shape" and math.prod(sides) > _MOST_IN_WINDOW):
            raise WireError(f"it has an operator {operator} with a window of {sides[:4]}")


_INTS = 7
_ATTRIBUTE_KINDS = {1: "f", 2: "i", 3: "s", 4: "t", 6: "floats", 7: "ints", 8: "strings"}
_SINGLE = range(1, 5)


def _attribute(data: memoryview, left: list[int], base: int) -> Attribute:
    parts = _parts(data, "attribute", left)
    name, kind = _text(parts, "name"), _small(parts, "type")
    holder = _ATTRIBUTE_KINDS.get(kind)
    # What holds a value holds that of its type: a reader may go by either.
    if holder is None or not parts.keys() <= {"name", "type", holder}:
        raise WireError(f"it has an attribute {name[:80]!r} of an unusual type")
    held = parts.get(holder, [])
    values: Iterable[int | bytes | Tensor]
    if holder == "t":
        tensor = _sole(parts, "t")
        values = [_tensor(message(tensor), left, base + tensor.start)]
    elif holder in ("i", "ints"):
        values = _list(held, left)
    elif holder in ("f", "floats"):
        values = _floats(held, left)
    else:
        values = map(_string, held)
    found = tuple(values)
    if len(found) != 1 and kind in _SINGLE:
        raise WireError(f"it has an attribute {name[:80]!r} without a value")
    return Attribute(name, kind, found)


def _tensor(data: memoryview, left: list[int], base: int) -> Tensor:
    parts = _parts(data, "tensor", left)
    name, kind = _text(parts, "name"), _small(parts, "kind")
    if "location" in parts and _number(parts["location"][0]):
        raise WireError(_ELSEWHERE)
    width = BYTES_OF_KIND.get(kind)
    if width is None:
        raise WireError(f"it has weights of type {kind}, which no encoder needs")
    dims = tuple(_list(parts.get("dims", []), left))
    if len(dims) > _MOST_SIDES or any(side > _LONGEST_SIDE for side in dims):
        raise WireError(f"it has weights {name[:80]!r} of an impossible shape")
    content, place = _content(parts, kind, left)
    if len(content) != width * math.prod(dims):
        raise WireError(f"it has weights {name[:80]!r} of another length than their shape")
    if kind == _BOOL and not _are_truths(content):
        raise WireError(f"it has weights {name[:80]!r} that are neither true nor false")
    return Tensor(name, kind, dims, content, None if place is None else base + place)


def _are_truths(content: memoryview) -> bool:
    size = 2**20
    chunks = (bytes(content[at : at + size]) for at in range(0, len(content), size))
    return not any(chunk.translate(None, b"\0\1") for chunk in chunks)


_DATA_OF_KIND = {1: "float_data", 7: "int64_data", 11: "double_data"}  # others: int32_data


def _content(parts: _Parts, kind: int, left: list[int]) -> tuple[memoryview, int | None]:
    """The bytes of a tensor, and where they begin in its message."""
    spelled = _DATA_OF_KIND.get(kind, "int32_data")
    named = [name for name in parts if name.endswith("_data")]
    if not named:
        return memoryview(b""), None
    if len(named) > 1 or named[0] not in ("raw_data", spelled):
        raise WireError("it has weights in an unusual place")
    held = parts[named[0]]
    if named[0] == "raw_data":
        return message(held[0]), held[0].start
    if spelled in ("float_data", "double_data"):
        return memoryview(b"".join(_chunk(it) for it in held)), None
    width = BYTES_OF_KIND[kind]
    values = (value - 2**64 if value >= 2**63 else value for value in _list(held, left))
    # Two bytes hold the bits of a float16, all others a number with its sign, if the type has one.
    signed = kind in (3, 6, 7)
    try:
        return memoryview(b"".join(it.to_bytes(width, "little", signed=signed) for it in values)), (
            None
        )
    except OverflowError:
        raise WireError("it has weights outside the range of their type") from None


def _value(field: Field, left: list[int]) -> Value:
    parts = _parts(message(field), "value", left)
    name = _text(parts, "name")
    kinds = _parts(message(_sole(parts, "type")), "type", left)
    tensor = _parts(message(_sole(kinds, "tensor")), "tensor type", left)
    kind = _small(tensor, "kind")
    if kind not in BYTES_OF_KIND or not name:
        raise WireError(_NO_TENSOR)
    if "shape" not in tensor:
        return Value(name, kind, None)
    sides = _parts(message(tensor["shape"][0]), "shape", left).get("sides", [])
    if len(sides) > _MOST_SIDES:
        raise WireError(_NO_TENSOR)
    return Value(name, kind, tuple(_side(message(it), left) for it in sides))


def _side(data: memoryview, left: list[int]) -> int | str:
    parts = _parts(data, "side", left)
    if "length" not in parts:
        return _text(parts, "symbol")
    length = _number(parts["length"][0])
    if "symbol" in parts or length > _LONGEST_SIDE:
        raise WireError(_NO_TENSOR)
    return length


def _require_standard(parts: _Parts) -> None:
    domain = _text(parts, "domain")
    if domain not in ("", "ai.onnx"):
        raise WireError(f"it uses operators that are not ONNX's own ({domain[:80]!r})")


def _sole(parts: _Parts, name: str) -> Field:
    held = parts.get(name, [])
    if len(held) != 1:
        raise WireError(f"it has {len(held)} parts {name}, not one")
    return held[0]


def _number(field: Field) -> int:
    if not isinstance(field.value, int):
        raise WireError("it has bytes instead of a number")
    return field.value


def _small(parts: _Parts, name: str) -> int:
    """A number of which a reader keeps 32 bits or all 64."""
    value = _number(_sole(parts, name))
    if value > _LONGEST_SIDE:
        raise WireError(f"it has a number {name} beyond all bounds")
    return value


def _text(parts: _Parts, name: str) -> str:
    return _decoded(message(parts[name][0])) if name in parts else ""


def _decoded(data: memoryview) -> str:
    """A name. It comes back in errors of the runtime, and so on somebody's terminal."""
    try:
        text = str(data, "utf-8") if len(data) <= _LONGEST_NAME else "\n"
    except UnicodeDecodeError:
        text = "\n"
    if not text.isprintable():
        raise WireError("it has a name that is too long, or no text")
    return text


def _string(field: Field) -> bytes:
    if len(message(field)) > _LONGEST_TEXT:
        raise WireError("it has an attribute with a long text")
    return bytes(message(field))


def _list(held: Iterable[Field], left: list[int]) -> Iterable[int]:
    """Written one by one, or packed into one field, or both."""
    for field in held:
        if isinstance(field.value, int):
            yield field.value
        else:
            yield from numbers(field.value, left)


def _chunk(field: Field) -> memoryview:
    if isinstance(field.value, int):
        raise WireError("it has a number instead of bytes")
    return field.value


def _floats(held: Iterable[Field], left: list[int]) -> list[int]:
    """The 32 bits of each."""
    data = b"".join(_chunk(it) for it in held)
    left[0] -= len(data) // 4
    if left[0] < 0:
        raise WireError(f"it has more than {MOST_PARTS:,} parts")
    if len(data) % 4:
        raise WireError("it has a list of floats that is cut short")
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
