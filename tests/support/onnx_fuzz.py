"""Mutated ONNX graphs: none may run what the check did not see.

    python -m tests.support.onnx_fuzz [COUNT] [SEED]      5,000 unless said; some minutes

Honest and hostile graphs are cut into their fields, and some of these changed, doubled, left out,
swapped, spelled in another way or put into another graph; or bytes are changed wherever they are.
Of each that passes the check, the bytes that onnxruntime is given must be what was written from the
checked graph, the package onnx must read from them exactly that graph, and onnxruntime must run or
refuse them in a process of its own, in bounded time, and open no file but the one of the weights.
"""

from __future__ import annotations

import collections
import copy
import ctypes
import dataclasses
import json
import os
import random
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from gmi_registry.encoders.description import FileEntry
from gmi_registry.encoders.external_data import (
    aligned,
    graph_with_external_data,
    with_external_data,
)
from gmi_registry.encoders.graph import OPERATORS, Graph, Tensor, WireError, read_graph, varint
from gmi_registry.encoders.onnx import OnnxEncoder
from gmi_registry.encoders.onnx_files import OnnxFolder
from gmi_registry.errors import GmiError

NAME, BAIT = "image.onnx", "secret"
_ZOO = Path(__file__).parents[2] / "zoo" / "hub" / "encoders" / "gmi-zoo-clip" / "icons-v1"
_DESCRIPTION = _ZOO / "onnx" / "encoder.json"
SECONDS = 60.0
MEMORY = 2**30

# --- graphs to begin with


def _info(name: str, *dims: Any, kind: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, dims)


def honest() -> bytes:
    """A small image tower of most kinds of parts, with weights small and large."""
    draw = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(draw.standard_normal(shape, np.float32), name)

    node = helper.make_node
    nodes = [
        node("Conv", ["batch", "w0", "b0"], ["c"], kernel_shape=[4, 4], strides=[4, 4]),
        node("AveragePool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", ["p"], ["s"], start=0, end=1),
        node("Constant", [], ["rest"], value=numpy_helper.from_array(np.array([-1]))),
        node("Concat", ["s", "rest"], ["shape"], axis=0),
        node("Reshape", ["p", "shape"], ["f"]),
        node("Gemm", ["f", "w1", "b1"], ["g"], alpha=1.0, transB=1),
        node("Constant", [], ["half"], value_float=0.5),
        node("Mul", ["g", "half"], ["m"]),
        node("Cast", ["m"], ["n"], to=TensorProto.FLOAT),
        node("Softmax", ["n"], ["q"], axis=-1),
        node("Einsum", ["q", "w2"], ["e"], equation="bi,io->bo"),
        node("Pad", ["e", "pads"], ["d"], mode="constant"),
        node("Cast", ["w3"], ["k"], to=TensorProto.FLOAT),
        node("ReduceMean", ["k", "axes"], ["r"], keepdims=0),
        node("Add", ["d", "r"], ["embeddings"]),
    ]
    weights = [
        weight("w0", 8, 3, 4, 4),
        weight("b0", 8),
        weight("w1", 32, 128),
        weight("b1", 32),
        weight("w2", 32, 24),
        # Of one byte each: wherever they come to lie, they are referred to.
        numpy_helper.from_array(np.arange(24 * 256).astype(np.int8).reshape(24, 256), "w3"),
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("pads", TensorProto.INT64, [4], [0, 0, 0, 0]),
    ]
    graph = helper.make_graph(
        nodes, "g", [_info("batch", "b", 3, 32, 32)], [_info("embeddings", "b", 24)], weights
    )
    return aligned(_model(graph))


def _model(graph: Any, **options: Any) -> bytes:
    opset = options.pop("opset_imports", [helper.make_opsetid("", 18)])
    made = helper.make_model(graph, opset_imports=opset, ir_version=10, **options)
    data: bytes = made.SerializeToString()
    return data


def hostile() -> Iterator[bytes]:
    """Graphs that hold what none may have: where mutations find parts to put elsewhere."""
    taken, given = [_info("batch", "b", 3, 32, 32)], [_info("embeddings", "b", 24)]
    node = helper.make_node

    def graph(*nodes: Any, weights: Any = ()) -> Any:
        return helper.make_graph(list(nodes), "g", taken, given, list(weights))

    body = helper.make_graph(
        [node("Identity", ["c"], ["d"])],
        "body",
        [_info("i", kind=TensorProto.INT64), _info("c", kind=TensorProto.BOOL)],
        [_info("d", kind=TensorProto.BOOL)],
    )
    yield _model(graph(node("Loop", ["", ""], ["embeddings"], body=body)))
    for place in (BAIT, f"../{BAIT}", "link", "/etc/hostname"):
        tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", place), ("offset", "0"), ("length", "4")):
            tensor.external_data.add(key=key, value=value)
        yield _model(graph(node("Add", ["batch", "w"], ["embeddings"]), weights=[tensor]))
        yield _model(graph(node("Constant", [], ["embeddings"], value=tensor)))
    function = helper.make_function(
        "com.example", "F", ["a"], ["b"], [node("Identity", ["a"], ["b"])], [], []
    )
    yield _model(
        graph(node("F", ["batch"], ["embeddings"], domain="com.example")),
        functions=[function],
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)],
    )
    text = helper.make_tensor("t", TensorProto.STRING, [1], [b"text"])
    large = helper.make_tensor("s", TensorProto.INT64, [2], [2**40, 2**40])
    yield _model(graph(node("Expand", ["batch", "s"], ["embeddings"]), weights=[text, large]))
    made = onnx.load_from_string(_model(graph(node("Range", ["a", "b", "c"], ["embeddings"]))))
    made.graph.sparse_initializer.add().dims.extend([2, 2])
    made.training_info.add()
    made.metadata_props.add(key="ort_config", value='{"session_options": {}}')
    yield made.SerializeToString()


# --- fields, read and written with no strictness at all


@dataclasses.dataclass
class Part:
    """A field; ``parts`` are those of a message in it, and else ``content`` is what it holds."""

    number: int
    kind: int
    content: Any = b""
    parts: list[Part] | None = None
    idle: int = 0
    long: bool = False


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, place


# Messages within each message of onnx.proto, by field.
_WITHIN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "pair", 14: "pair", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 15: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph"},
    "tensor": {13: "pair"},
    "value": {2: "type"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "pair"},
    "pair": {},
}


def parsed(data: bytes, what: str = "model") -> list[Part]:
    found, place = [], 0
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(data, place)
            found.append(Part(number, kind, value))
            continue
        size, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
        content = data[place : place + size]
        inner = _WITHIN[what].get(number) if kind == 2 else None
        parts = None if inner is None else parsed(content, inner)
        found.append(Part(number, kind, content, parts))
        place += size
    return found


def _spelled(value: int, idle: int = 0) -> bytes:
    shortest = varint(value % 2**64)
    if not idle:
        return shortest
    return shortest[:-1] + bytes([shortest[-1] | 0x80]) + b"\x80" * (idle - 1) + b"\x00"


def joined(parts: list[Part]) -> bytes:
    found = []
    for part in parts:
        tag = _spelled((part.long << 32) + (part.number << 3 | part.kind), part.idle & 3)
        content = part.content if part.parts is None else joined(part.parts)
        if part.kind == 0 and isinstance(content, int):
            found += [tag, _spelled(content, part.idle >> 2)]
        elif part.kind == 2 and not isinstance(content, int):
            found += [tag, _spelled(len(content), part.idle >> 2), content]
        else:
            found += [tag, content if isinstance(content, bytes) else bytes(8)]
    return b"".join(found)


# --- mutations


def _all(parts: list[Part]) -> Iterator[tuple[list[Part], int]]:
    """Each field with the list that it is in."""
    for place, part in enumerate(parts):
        yield parts, place
        if part.parts is not None:
            yield from _all(part.parts)


_NUMBERS = (0, 1, 2, 3, 5, 7, 8, 16, 17, 18, 127, 128, 1000, 2**31 - 1, 2**31, 2**32, 2**40, 2**63)
_TEXTS = (b"", b"batch", b"w", b"w1", b"embeddings", b"Loop", b"If", b"Expand", b"Range", b"Tile",
          b"ai.onnx", b"com.microsoft", b"\xff", b"a\x00b", b"location", b"secret")  # fmt: skip


# Of what follows; what the check always refuses is tried less often.
_WEIGHTS = (2, 2, 1, 1, 1, 2, 1, 3, 2, 4, 3, 6, 6)


def _mutate(draw: random.Random, parts: list[Part], donors: list[list[Part]]) -> None:
    places = list(_all(parts))
    siblings, at = draw.choice(places)
    part = siblings[at]
    kind = draw.choices(range(13), _WEIGHTS)[0]
    if kind == 0:
        del siblings[at]
    elif kind == 1:
        siblings.insert(draw.randrange(len(siblings) + 1), part)
    elif kind == 2:
        part.idle = draw.choice((1, 2, 3, 4, 8, 12, 16, 5))
    elif kind == 3:
        part.long = True
    elif kind == 4:
        siblings.insert(at, Part(draw.choice((9, 19, 26, 30, 99, 2**29 - 1)), 2, b"more"))
    elif kind == 5:
        part.number = draw.randrange(1, 27)
    elif kind == 6:
        part.kind = draw.choice((0, 1, 2, 3, 5))
    elif kind in (7, 8):
        others, there = draw.choice(list(_all(draw.choice(donors))))
        like = [it for it in others if it.number == part.number] or others[there : there + 1]
        siblings[at if kind == 7 else slice(at, at)] = draw.choice(like) if kind == 7 else like
    elif kind == 9:
        others, there = draw.choice(places)
        siblings[at], others[there] = others[there], siblings[at]
    elif kind == 10:
        draw.shuffle(siblings)
    elif part.parts is None and isinstance(part.content, int):
        part.content = draw.choice(_NUMBERS)
    elif part.parts is None and len(part.content) < 64:
        part.content = draw.choice(_TEXTS)


def _garbled(draw: random.Random, data: bytes) -> bytes:
    """Bytes changed, left out or put in, mostly where the graph is and not its weights."""
    found = bytearray(data)
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(found))
        kind = draw.randrange(5)
        if kind == 0:
            found[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            found[place] = draw.randrange(256)
        elif kind == 2:
            del found[place : place + draw.randrange(1, 9)]
        elif kind == 3:
            found[place:place] = draw.randbytes(draw.randrange(1, 9))
        else:
            found[4:8] = b"ORTM"
        if not found:
            break
    return bytes(found)


def mutants(count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    base, donors = honest(), list(hostile())
    trees = [parsed(data) for data in donors]
    for case in range(count):
        draw = random.Random(seed * 1_000_003 + case)
        if draw.random() < 0.25:
            yield case, _garbled(draw, draw.choice([base, base, *donors]))
            continue
        parts = parsed(base)
        donors_now = copy.deepcopy(trees)
        for _ in range(draw.choice((1, 1, 1, 1, 2, 4))):
            try:
                _mutate(draw, parts, donors_now)
            except (IndexError, RecursionError):
                break
        try:
            yield case, joined(parts)
        except RecursionError:  # put into itself
            yield case, base[: draw.randrange(len(base))]


# --- what must hold


def _tensor_seen(tensor: Any) -> tuple[Any, ...]:
    outside = tuple((entry.key, entry.value) for entry in tensor.external_data)
    content = outside or bytes(tensor.raw_data)
    return tensor.name, tensor.data_type, tuple(tensor.dims), tensor.data_location, content


def _attribute_seen(attribute: Any) -> tuple[Any, ...]:
    kinds = onnx.AttributeProto
    lists = {
        kinds.FLOAT: [attribute.f],
        kinds.INT: [attribute.i],
        kinds.STRING: [attribute.s],
        kinds.FLOATS: attribute.floats,
        kinds.INTS: attribute.ints,
        kinds.STRINGS: attribute.strings,
    }
    if attribute.type == kinds.TENSOR:
        values: tuple[Any, ...] = (_tensor_seen(attribute.t),)
    elif attribute.type in (kinds.FLOAT, kinds.FLOATS):
        # By their bits, which a number that is none keeps.
        values = tuple(
            int.from_bytes(np.float32(it).tobytes(), "little") for it in lists[attribute.type]
        )
    else:
        values = tuple(lists[attribute.type])
    return attribute.name, attribute.type, values


def seen_by_onnx(model: Any) -> Any:
    """What the package onnx reads."""
    graph = model.graph
    ends = []
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        sides = [it.dim_param or (it.dim_value if it.HasField("dim_value") else "")
                 for it in kind.shape.dim]  # fmt: skip
        ends.append((value.name, kind.elem_type, tuple(sides) if kind.HasField("shape") else None))
    return (
        model.ir_version,
        [(it.domain, it.version) for it in model.opset_import],
        ends,
        [_tensor_seen(it) for it in graph.initializer],
        [
            (
                node.domain,
                node.op_type,
                tuple(node.input),
                tuple(node.output),
                tuple(map(_attribute_seen, node.attribute)),
            )
            for node in graph.node
        ],
    )


def seen_by_check(graph: Graph, data: bytes) -> Any:
    """The same of what was checked."""

    def tensor(it: Tensor, refer: bool) -> tuple[Any, ...]:
        outside = refer and it.place is not None and len(it.data) >= 4096
        if outside and it.place % {9: 1, 2: 1, 3: 1, 10: 2, 1: 4, 6: 4}.get(it.kind, 8) == 0:
            assert data[it.place : it.place + len(it.data)] == it.data
            entries = (("location", NAME), ("offset", str(it.place)), ("length", str(len(it.data))))
            return it.name, it.kind, it.dims, 1, entries
        return it.name, it.kind, it.dims, 0, bytes(it.data)

    def value(it: Any, kind: int) -> Any:
        if isinstance(it, Tensor):
            return tensor(it, refer=False)
        if isinstance(it, int) and kind in (2, 7):
            return it - 2**64 if it >= 2**63 else it
        return it

    return (
        graph.ir_version,
        [("", graph.opset)],
        [(it.name, it.kind, it.dims) for it in (graph.taken, graph.given)],
        [tensor(it, refer=True) for it in graph.weights],
        [
            (
                "",
                node.operator,
                node.inputs,
                node.outputs,
                tuple(
                    (it.name, it.kind, tuple(value(one, it.kind) for one in it.values))
                    for it in node.attributes
                ),
            )
            for node in graph.nodes
        ],
    )


_HELD = {
    "ModelProto": "ir_version graph opset_import",
    "OperatorSetIdProto": "domain version",
    "GraphProto": "node name initializer input output",
    "NodeProto": "input output op_type attribute",
    "AttributeProto": "name f i s t floats ints strings type",
    "TensorProto": "dims data_type name raw_data external_data data_location",
    "StringStringEntryProto": "key value",
    "ValueInfoProto": "name type",
    "TypeProto": "tensor_type",
    "Tensor": "elem_type shape",
    "TensorShapeProto": "dim",
    "Dimension": "dim_value dim_param",
}


def _require_held(part: Any) -> None:
    """No field but those that are compared."""
    for field, held in part.ListFields():
        assert field.name in _HELD[part.DESCRIPTOR.name].split(), field.full_name
        if field.message_type is not None:
            several = field.name not in {"graph", "t", "type", "tensor_type", "shape"}
            for inner in held if several else [held]:
                _require_held(inner)


def require_seen(graph: Graph, data: bytes, run: bytes) -> None:
    """The package onnx reads from ``run`` what was checked, and would write the same bytes."""
    model = onnx.load_from_string(run)
    assert seen_by_onnx(model) == seen_by_check(graph, data)
    assert model.SerializeToString(deterministic=True) == run
    _require_held(model)
    assert {node.op_type for node in model.graph.node} <= OPERATORS


class Opened:
    """The files that anybody opens in some folders, as Linux tells."""

    def __init__(self, *folders: Path) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self._handle = self._library.inotify_init1(os.O_NONBLOCK)
        opened = 0x20
        for folder in folders:
            if self._library.inotify_add_watch(self._handle, os.fsencode(folder), opened) < 0:
                raise OSError(ctypes.get_errno(), "inotify")

    def names(self) -> set[str]:
        """Since the last call."""
        found = set()
        try:
            while data := os.read(self._handle, 65536):
                place = 0
                while place < len(data):
                    _, mask, _, size = struct.unpack_from("iIII", data, place)
                    name = data[place + 16 : place + 16 + size].rstrip(b"\0").decode()
                    if not mask & 0x4000_0000:  # of a folder
                        found.add(name)
                    place += 16 + size
        except BlockingIOError:
            return found
        return found


def in_a_process(work: Callable[[], str], seconds: float = SECONDS) -> str:
    """What ``work`` returns in a copy of this process, or how that ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        try:
            os.write(writing, work().encode())
        finally:
            os._exit(0)
    os.close(writing)
    ends = time.monotonic() + seconds
    code = None
    while code is None and time.monotonic() < ends:
        found, status = os.waitpid(child, os.WNOHANG)
        code = status if found else None
        if code is None:
            time.sleep(0.002)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read().decode()
    if code is None:
        return "hangs"
    return said or f"ended by signal {os.WTERMSIG(code)}"


def put(folder: Path, data: bytes) -> None:
    """An export with ``data`` as its image tower, and nothing else."""
    (folder / NAME).write_bytes(data)
    about = json.loads(_DESCRIPTION.read_bytes())
    about["encoder"]["image_dim"] = 24
    about["encoder"]["preprocess"]["size"] = 32
    about["files"][NAME] = FileEntry.of(data).model_dump()
    (folder / "encoder.json").write_text(json.dumps(about), encoding="utf-8")


def run(folder: Path, graph: bytes) -> str:
    """The encoder itself, which may give onnxruntime nothing but ``graph``."""
    given = []
    real = onnxruntime.InferenceSession

    def session(content: bytes, options: Any, **more: Any) -> Any:
        given.append((content, options.get_session_config_entry("session.load_model_format")))
        return real(content, options, **more)

    onnxruntime.InferenceSession = session
    how = "ran it"
    try:
        encoder = OnnxEncoder(OnnxFolder(folder), trusted=False, threads=1)
        encoder.encode_pixels(np.ones((2, 3, 32, 32), np.float32))
    except GmiError:
        how = "refused it"
    return how if given == [(graph, "ONNX")] else "was given something else"


def fuzz(count: int, seed: int) -> dict[str, int]:
    """How many mutants were refused, ran, and so on; raises AssertionError for any that ran more
    than was checked, with its number."""
    found: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="gmi-fuzz-") as scratch:
        folder = Path(scratch, "encoder")
        folder.mkdir()
        for place in (Path(scratch, BAIT), folder / BAIT):
            place.write_bytes(struct.pack("<f", 7))
        (folder / "link").symlink_to(f"../{BAIT}")
        opened = Opened(folder, Path(scratch))
        for case, data in mutants(count, seed):
            try:
                graph = read_graph(data)
            except WireError:
                found["refused by the check"] += 1
                continue
            made = graph_with_external_data(graph, NAME)
            assert made == with_external_data(data, NAME), case
            require_seen(graph, data, made)
            put(folder, data)
            opened.names()

            def work(made: bytes = made) -> str:
                return run(folder, made)

            how = in_a_process(work)
            read = opened.names()
            assert read <= {NAME, "encoder.json"}, (case, read)
            assert how not in ("hangs", "was given something else"), (case, how)
            found[f"passed the check, and onnxruntime {how}"] += 1
    return dict(found)


def main() -> None:
    count, seed = (int(text) for text in (sys.argv[1:] + ["5000", "0"][len(sys.argv) - 1 :]))
    began = time.monotonic()
    found = fuzz(count, seed)
    took = f"all, in {time.monotonic() - began:.0f} s, seed {seed}"
    for what, times in [*sorted(found.items()), (took, count)]:
        print(f"{times:6}  {what}")


if __name__ == "__main__":
    main()
