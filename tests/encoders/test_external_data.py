"""Weights that are mapped where they lie: references in a graph, and how exports are laid out."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from gmi_registry.encoders.external_data import ALIGNMENT, aligned, with_external_data
from gmi_registry.encoders.graph import MOST_PARTS, VARINT, fields, varint, written
from gmi_registry.encoders.onnx import OnnxEncoder
from gmi_registry.encoders.onnx_files import OnnxFolder
from tests.support.spoiled_export import put

TOWERS = ("image.onnx", "text.onnx")
PICTURES = [Image.new("RGB", (40, 30), (200, shade, 10)) for shade in (0, 90, 250)]


def references(model: Any) -> dict[str, tuple[int, int]]:
    """Offset and bytes of each weight that lies outside."""
    found = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            assert entries.pop("location") == "x.onnx"
            found[tensor.name] = (int(entries["offset"]), int(entries["length"]))
    return found


def weights(model: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


@pytest.mark.parametrize("name", TOWERS)
def test_a_graph_refers_to_the_weights_and_holds_the_rest(exported: Path, name: str) -> None:
    data = (exported / name).read_bytes()
    whole, made = (
        onnx.load_from_string(data),
        onnx.load_from_string(with_external_data(data, "x.onnx")),
    )
    outside = references(made)
    known = weights(whole)
    large = {name for name, tensor in known.items() if len(tensor.raw_data) >= 4096}
    assert large
    assert set(outside) == large
    for title, (offset, length) in outside.items():
        assert data[offset : offset + length] == known[title].raw_data
    assert made.graph.node == whole.graph.node
    for title, tensor in weights(made).items():
        assert (tensor.dims, tensor.data_type) == (known[title].dims, known[title].data_type)
        assert title in large or tensor == known[title]
    assert len(with_external_data(data, "x.onnx")) < len(data) / 4


@pytest.mark.parametrize("name", TOWERS)
def test_exports_put_weights_where_a_processor_likes_them(exported: Path, name: str) -> None:
    outside = references(
        onnx.load_from_string(with_external_data((exported / name).read_bytes(), "x.onnx"))
    )
    assert {offset % ALIGNMENT for offset, _ in outside.values()} == {0}


def shifted(data: bytes) -> bytes:
    """The model with its weights wherever they fall, at least one of them at an odd place."""
    model = onnx.load_from_string(data)
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
    for blanks in range(1, 9):
        model.producer_name = "x" * blanks
        made: bytes = model.SerializeToString()
        if len(references(onnx.load_from_string(with_external_data(made, "x.onnx")))) < len(
            references(onnx.load_from_string(with_external_data(data, "x.onnx")))
        ):
            return made
    raise AssertionError("every weight fell on a good place")


def test_weights_at_odd_places_are_read_and_give_the_same(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "odd"))
    for name in TOWERS:
        data = shifted((exported / name).read_bytes())
        put(folder, name, data)
        again = onnx.load_from_string(aligned(data))
        known = weights(onnx.load_from_string(data))
        assert {name: it.raw_data for name, it in weights(again).items()} == {
            name: it.raw_data for name, it in known.items()
        }
    odd, even = OnnxEncoder.from_folder(folder), OnnxEncoder.from_folder(exported)
    assert odd.encode_images(PICTURES).tobytes() == even.encode_images(PICTURES).tobytes()
    assert odd.encode_texts(["a cat"]).tobytes() == even.encode_texts(["a cat"]).tobytes()


@pytest.mark.parametrize("extra", range(0, 70, 9))
def test_alignment_whatever_comes_before(extra: int) -> None:
    rows = [
        numpy_helper.from_array(np.arange(size, dtype=kind), f"w{size}{kind}")
        for size, kind in ((1024, "f4"), (3, "f4"), (4099, "f2"), (777, "i8"), (40_000, "f4"))
    ]
    side = helper.make_tensor_value_info("x" * (1 + extra), TensorProto.FLOAT, [1])
    graph = helper.make_graph([], "g", [side], [side], initializer=rows)
    opset = [helper.make_opsetid("", 18)]
    data = aligned(helper.make_model(graph, opset_imports=opset).SerializeToString())
    outside = references(onnx.load_from_string(with_external_data(data, "x.onnx")))
    assert len(outside) == 4
    assert {offset % ALIGNMENT for offset, _ in outside.values()} == {0}
    assert aligned(data) == data
    for tensor, row in zip(onnx.load_from_string(data).graph.initializer, rows, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(row))


def test_a_folder_with_an_odd_name_behind_a_link(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "a b" / "süß, 100 %"))
    (tmp_path / "link").symlink_to(tmp_path / "a b", target_is_directory=True)
    found = OnnxEncoder.from_folder(tmp_path / "link" / folder.name)
    expected = OnnxEncoder.from_folder(exported).encode_images(PICTURES)
    assert found.encode_images(PICTURES).tobytes() == expected.tobytes()


def test_the_files_may_go_while_the_encoder_works(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))
    encoder = OnnxEncoder.from_folder(folder)
    before = encoder.encode_images(PICTURES)
    shutil.rmtree(folder)
    assert encoder.encode_images(PICTURES).tobytes() == before.tobytes()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what a process maps")
def test_the_weights_are_mapped(exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "mapped"))
    encoder = OnnxEncoder.from_folder(folder)
    encoder.encode_images(PICTURES)
    encoder.encode_texts(["a cat"])
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    for name in TOWERS:
        assert str(folder / name) in mapped


def test_a_view_is_the_file(exported: Path) -> None:
    folder = OnnxFolder(exported)
    assert folder.view("text.onnx") == (exported / "text.onnx").read_bytes()
    assert folder.view("text.onnx", trusted=True).readonly


@given(
    value=st.integers(0, 2**63), number=st.integers(1, 2**29 - 1), content=st.binary(max_size=99)
)
def test_fields_are_read_as_they_are_written(value: int, number: int, content: bytes) -> None:
    data = written(number, value, VARINT) + written(number, content)
    first, second = fields(memoryview(data), [MOST_PARTS])
    assert (first.number, first.value) == (number, value)
    assert (second.number, second.value) == (number, content)
    assert data[second.start : second.start + len(content)] == content
    assert varint(value) == data[first.start : first.start + len(varint(value))]
