"""The strict reader of ONNX files, and what it writes for the runtime."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from gmi_registry.encoders import graph
from gmi_registry.encoders.external_data import graph_with_external_data, with_external_data
from gmi_registry.encoders.graph import WireError, check_graph, read_graph
from gmi_registry.errors import InputError
from tests.support.onnx_fuzz import Part, honest, joined, parsed, require_seen

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
Spoil = Callable[[Any], None]


def spoiled(spoil: Spoil) -> bytes:
    model = onnx.load_from_string(honest())
    spoil(model)
    data: bytes = model.SerializeToString()
    return data


def every_part(parts: list[Part]) -> list[tuple[list[Part], int]]:
    """Each field with the list that it is in, those within it too."""
    found = []
    for place, part in enumerate(parts):
        found.append((parts, place))
        found += every_part(part.parts or [])
    return found


def variants(change: Callable[[list[Part], int], None]) -> list[bytes]:
    """The honest graph with one field of it changed, once for each field."""
    found = []
    for place in range(len(every_part(parsed(honest())))):
        parts = parsed(honest())
        change(*every_part(parts)[place])
        found.append(joined(parts))
    return found


# --- one spelling


def longer_tag(siblings: list[Part], at: int) -> None:
    siblings[at].long = True


def idle_byte_in_tag(siblings: list[Part], at: int) -> None:
    siblings[at].idle = 1


def idle_byte_in_number(siblings: list[Part], at: int) -> None:
    siblings[at].idle = 4


def as_group(siblings: list[Part], at: int) -> None:
    siblings[at].kind = 3


def unknown_beside(siblings: list[Part], at: int) -> None:
    siblings.insert(at, Part(99, 2, b""))


def of_another_type(siblings: list[Part], at: int) -> None:
    siblings[at].kind, siblings[at].parts, siblings[at].content = 1, None, bytes(8)


@pytest.mark.parametrize(
    "change",
    [longer_tag, idle_byte_in_tag, as_group, unknown_beside, of_another_type],
)
def test_every_field_has_one_spelling(change: Callable[[list[Part], int], None]) -> None:
    for data in variants(change):
        with pytest.raises(WireError):
            read_graph(data)


def test_every_number_and_length_has_one_spelling() -> None:
    fixed = sum(part.kind == 5 for part in map(field_at, every_part(parsed(honest()))))
    passed = 0
    for data in variants(idle_byte_in_number):
        try:
            read_graph(data)
            passed += 1
        except WireError:
            continue
    assert passed == fixed > 0  # four bytes, and no number of bytes before them


def field_at(place: tuple[list[Part], int]) -> Part:
    siblings, at = place
    return siblings[at]


def test_a_field_that_counts_is_there_once() -> None:
    """Twice the same is refused, or is one more of a list and read as such, or not kept at all."""
    kept = 0
    for data in variants(lambda siblings, at: siblings.insert(at, copy.copy(siblings[at]))):
        try:
            graph = read_graph(data)
        except WireError:
            continue
        run = graph_with_external_data(graph, "image.onnx")
        require_seen(graph, data, run)
        kept += 1
    assert kept > 5


# --- what is refused


def edit(**changes: Any) -> Spoil:
    """Change the last weight."""

    def spoil(model: Any) -> None:
        tensor = model.graph.initializer[-1]
        for name, value in changes.items():
            tensor.ClearField(name)
            if value is None:
                continue
            if isinstance(value, list):
                getattr(tensor, name).extend(value)
            else:
                setattr(tensor, name, value)

    return spoil


def put(model: Any, operator: str, **attributes: Any) -> None:
    node = next(node for node in model.graph.node if node.op_type == operator)
    for name, value in attributes.items():
        for old in [it for it in node.attribute if it.name == name]:
            node.attribute.remove(old)
        node.attribute.append(helper.make_attribute(name, value))


def add(model: Any, *arguments: Any, **attributes: Any) -> None:
    model.graph.node.append(helper.make_node(*arguments, **attributes))


def value(name: str) -> Any:
    return helper.make_tensor_value_info(name, FLOAT, [1])


SPOILT: dict[str, tuple[Spoil, str]] = {
    "two weights of a name": (
        lambda it: it.graph.initializer.append(it.graph.initializer[0]),
        "'w0' twice",
    ),
    "a weight under the name of the input": (edit(name="batch"), "'batch' twice"),
    "a weight without a name": (edit(name=""), "'' twice"),
    "two operators that give the same": (
        lambda it: add(it, "Identity", ["batch"], ["embeddings"]),
        "'embeddings' twice",
    ),
    "an operator that takes what comes later": (
        lambda it: it.graph.node.insert(0, helper.make_node("Neg", ["c"], ["z"])),
        "'c' before it exists",
    ),
    "an output that nothing gives": (
        lambda it: it.graph.output[0].__setattr__("name", "nothing"),
        "'nothing'",
    ),
    "two inputs": (lambda it: it.graph.input.append(value("more")), "2 parts input"),
    "two outputs": (lambda it: it.graph.output.append(value("c")), "2 parts output"),
    "an input that is a sequence": (
        lambda it: it.graph.input[0].type.sequence_type.elem_type.tensor_type.__setattr__(
            "elem_type", FLOAT
        ),
        "not one tensor",
    ),
    "operators of two versions": (
        lambda it: it.opset_import.append(helper.make_opsetid("ai.onnx", 1)),
        "2 versions",
    ),
    "an operator's other body": (
        lambda it: it.graph.node[0].__setattr__("overload", "mine"),
        "more than one graph",
    ),
    "a device for an operator": (
        lambda it: it.graph.node[0].device_configurations.add(),
        "field 10 in a node",
    ),
    "a training graph": (lambda it: it.training_info.add(), "more than one graph"),
    "quantisation notes": (
        lambda it: it.graph.quantization_annotation.add(),
        "field 14 in a graph",
    ),
    "an attribute of a function": (
        lambda it: it.graph.node[0].attribute[0].__setattr__("ref_attr_name", "x"),
        "field 21 in an attribute",
    ),
    "an attribute twice": (
        lambda it: it.graph.node[0].attribute.append(it.graph.node[0].attribute[0]),
        "something twice about an operator Conv",
    ),
    "an attribute with two values": (
        lambda it: it.graph.node[0].attribute[0].__setattr__("i", 3),
        "of an unusual type",
    ),
    "an attribute with a value of another type": (
        lambda it: it.graph.node[0].attribute[0].__setattr__("type", 2),
        "of an unusual type",
    ),
    "tensors in an attribute": (
        lambda it: put(it, "Conv", more=[numpy_helper.from_array(np.zeros(1))]),
        "field 10 in an attribute",
    ),
    "a sparse constant": (
        lambda it: (
            it.graph.node[3].attribute[0].__setattr__("type", 11)
            or it.graph.node[3].attribute[0].sparse_tensor.dims.append(1)
        ),
        "sparse weights",
    ),
    "text for weights": (
        edit(raw_data=None, data_type=TensorProto.STRING, string_data=[b"a"]),
        "field 6 in a tensor",
    ),
    "a type that no encoder has": (edit(data_type=TensorProto.BFLOAT16), "type 16"),
    "a negative side": (edit(dims=[-4]), "impossible shape"),
    "no weights of an endless shape": (
        edit(dims=[0, 2**62], raw_data=None),
        "impossible shape",
    ),
    "sides whose product overflows": (edit(dims=[2**31 - 1] * 4), "another length"),
    "a side more than the file says": (edit(dims=[4, 2]), "another length"),
    "a side beyond all bounds": (edit(dims=[2**40]), "impossible shape"),
    "a type of another width": (edit(data_type=TensorProto.INT32), "another length"),
    "a type that there is not": (edit(data_type=99), "type 99"),
    "weights that are cut short": (edit(raw_data=bytes(24)), "another length"),
    "weights with more behind them": (edit(raw_data=bytes(40)), "another length"),
    "more sides than any reader has": (edit(dims=[1] * 99), "impossible shape"),
    "weights said twice": (edit(int64_data=[0] * 4), "unusual place"),
    "weights in the place of another type": (
        edit(raw_data=None, float_data=[0.0] * 4),
        "unusual place",
    ),
    "a truth that is neither": (
        edit(data_type=TensorProto.BOOL, raw_data=b"\x01\x00\x02\x01"),
        "neither true nor false",
    ),
    "a number beyond its type": (
        edit(data_type=TensorProto.INT8, raw_data=None, int32_data=[1, 2, 3, 300]),
        "outside the range of their type",
    ),
    "a name that moves the cursor": (edit(name="\x1b[2Jw"), "no text"),
    "a name that turns the line round": (edit(name="a\u202eb"), "no text"),
    "a name without an end": (edit(name="w" * 5000), "too long"),
    "a wide window": (lambda it: put(it, "AveragePool", kernel_shape=[1, 2**30]), "a window of"),
    "a large window": (lambda it: put(it, "AveragePool", kernel_shape=[999, 999]), "a window of"),
    "a window far outside": (
        lambda it: put(it, "AveragePool", pads=[0, 0, 2**40, 0]),
        "a window of",
    ),
    "a negative step": (lambda it: put(it, "Conv", strides=[-4, 4]), "a window of"),
    "numbers without end": (
        lambda it: it.graph.node[0].attribute.add(name="n", type=7, ints=[1] * 10_000),
        "more than",
    ),
    "floats without end": (
        lambda it: it.graph.node[0].attribute.add(name="f", type=6, floats=[0.5] * 10_000),
        "more than",
    ),
    "a long text": (lambda it: put(it, "Einsum", equation="a," * 900 + "->a"), "a long text"),
}


@pytest.mark.parametrize("case", sorted(SPOILT))
def test_a_graph_that_is_ambiguous_or_beyond_bounds(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, reason = SPOILT[case]
    if "without end" in case:  # fewer, which are read in less time
        monkeypatch.setattr(graph, "MOST_PARTS", 10_000)
    with pytest.raises(InputError) as caught:
        check_graph(spoiled(spoil), "image.onnx")
    assert re.fullmatch(f"image.onnx is not loaded: it .*({reason}).*", caught.value.message)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("data", [b"\x08\x08\x09\x00ORTM" + bytes(3), b"\x10\0\0\0ORTM" * 9])
def test_the_runtimes_own_format_is_refused(data: bytes) -> None:
    for content in (data, data + honest(), honest()[:4] + b"ORTM" + honest()[8:]):
        with pytest.raises(WireError):
            read_graph(content)


@pytest.mark.parametrize("data", [b"", b"\x08", b"\x3a\x05", b"garbage", b"\x3a\x00\x3a\x00"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        read_graph(data)


# --- what is kept


def answer(data: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    pixels = np.random.default_rng(1).standard_normal((2, 3, 32, 32), np.float32)
    return session.run(None, {session.get_inputs()[0].name: pixels})[0]


def other_spellings() -> dict[str, bytes]:
    """The honest graph as other writers have it."""

    def described(model: Any) -> None:
        model.producer_name, model.domain, model.model_version = "another", "com.example", -1
        model.metadata_props.add(key="ort_config", value="{}")
        model.graph.value_info.append(value("c"))
        for part in (*model.graph.node, *model.graph.initializer, *model.graph.input):
            part.doc_string = "said"
            part.metadata_props.add(key="a", value="b")
        model.opset_import[0].domain = "ai.onnx"

    def typed(model: Any) -> None:
        for tensor in model.graph.initializer:
            if tensor.data_type == FLOAT:
                tensor.float_data.extend(numpy_helper.to_array(tensor).ravel())
                tensor.ClearField("raw_data")

    packed = parsed(honest())
    for siblings, at in every_part(packed):
        part = siblings[at]
        if part.number == 8 and part.kind == 0 and any(it.number == 20 for it in siblings):
            siblings[at] = Part(8, 2, bytes([part.content]))
    return {
        "described": spoiled(described),
        "numbers by their type": spoiled(typed),
        "lists packed": joined(packed),
    }


@pytest.mark.parametrize("case", ["described", "numbers by their type", "lists packed"])
def test_other_spellings_of_the_same_are_run_as_the_same(case: str, tmp_path: Path) -> None:
    data = other_spellings()[case]
    assert data != honest()
    run = with_external_data(data, "x")
    whole = onnx.load_from_string(run).graph.initializer
    assert any(tensor.data_location == TensorProto.EXTERNAL for tensor in whole)
    (tmp_path / "x").write_bytes(data)
    model = onnx.load_from_string(run)
    onnx.load_external_data_for_model(model, str(tmp_path))
    np.testing.assert_array_equal(answer(model.SerializeToString()), answer(honest()))
    assert b"said" not in run
    assert b"ort_config" not in run


def test_a_reader_of_another_make_reads_the_same() -> None:
    for data in (honest(), *other_spellings().values()):
        require_seen(read_graph(data), data, with_external_data(data, "image.onnx"))
