"""Exported encoders that lie, are cut, or want more than a search gives; and what is remembered."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import load, save

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.encoders import onnx as onnx_module
from gmi_registry.encoders import onnx_files
from gmi_registry.encoders.external_data import with_external_data
from gmi_registry.encoders.graph import check_graph
from gmi_registry.encoders.onnx import OnnxEncoder
from gmi_registry.encoders.onnx_files import CHECKER, OnnxFolder
from gmi_registry.errors import (
    DigestMismatchError,
    GmiError,
    InputError,
    UnsupportedVersionError,
)
from tests.support.spoiled_export import Change, describe, put

GOLDEN = ("image_embeddings", "text_embeddings")


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def refuse(folder: Path, match: str, kind: type[GmiError] = InputError) -> None:
    with pytest.raises(kind, match=match) as caught:
        OnnxEncoder.from_folder(folder)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 600
    assert caught.value.hint


# --- files that are not what encoder.json says


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "merges.txt", "golden.safetensors"])
def test_a_changed_a_cut_and_a_missing_file(copy: Path, name: str) -> None:
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    refuse(copy, f"{name} is not the file that encoder.json names", DigestMismatchError)
    (copy / name).write_bytes(data[:-9])
    refuse(copy, f"{name} is not the file that encoder.json names", DigestMismatchError)
    (copy / name).unlink()
    refuse(copy, f"{name}: No such file")


def test_no_file_at_all(tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "No such file")


def test_a_huge_file_is_not_read(copy: Path) -> None:
    with (copy / "image.onnx").open("r+b") as stream:
        stream.truncate(2**42)
    began = time.perf_counter()
    refuse(copy, "more than")
    assert time.perf_counter() - began < 5


def test_links_pipes_and_folders(copy: Path, exported: Path) -> None:
    path = copy / "image.onnx"
    path.unlink()
    path.symlink_to(exported / "image.onnx")
    refuse(copy, "is a symbolic link")
    path.unlink()
    os.mkfifo(path)
    refuse(copy, "is not a regular file")
    path.unlink()
    path.mkdir()
    refuse(copy, "image.onnx")


# --- encoder.json


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"[" * 60_000,
        b'{"format": {"version": 1}, "format": {"version": 1}}',
        b"\xff\xfe",
        b" " * 65_537,
    ],
)
def test_a_malformed_description(copy: Path, content: bytes) -> None:
    (copy / "encoder.json").write_bytes(content)
    refuse(copy, "encoder.json")


def _set(*path: str, value: Any) -> Change:
    def change(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("logit_scale", value=-1.0),
        _set("logit_scale", value="100"),
        _set("encoder", "image_dim", value=10**9),
        _set("encoder", "preprocess", "size", value=10**6),
        _set("encoder", "weights_sha256", value="0" * 63),
        _set("text", "length", value=2**31),
        _set("text", "tokenizer", value="code"),
        _set("fill_color", value=256),
        _set("files", "image.onnx", "size", value=2**40),
        _set("files", "merges.txt", "size", value=2**30),
        _set("files", "../../outside", value={"sha256": "0" * 64, "size": 1}),
        _set("files", value={}),
        _set("format", "name", value="another"),
    ],
)
def test_a_description_that_breaks_a_limit(copy: Path, change: Change) -> None:
    describe(copy, change)
    refuse(copy, "encoder.json: ")


def test_a_newer_layout(copy: Path) -> None:
    describe(copy, _set("format", "version", value=2))
    refuse(copy, "has version 2", UnsupportedVersionError)


def test_an_unknown_field_is_no_reason_to_refuse(copy: Path) -> None:
    describe(copy, _set("note", value="later"))
    assert OnnxEncoder.from_folder(copy).ref.name == "tiny"


# --- what the encoder gives


def test_other_weights_than_those_that_gave_the_golden_results(copy: Path) -> None:
    other = onnx.load(copy / "image.onnx")
    tensor = max(other.graph.initializer, key=lambda it: len(it.raw_data))
    tensor.raw_data = np.frombuffer(tensor.raw_data, np.float32)[::-1].tobytes()
    put(copy, "image.onnx", other.SerializeToString())
    refuse(copy, "gives other image embeddings here than where it was exported")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 0.0])
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_results_that_are_none(copy: Path, name: str, value: float) -> None:
    tensors = load((copy / "golden.safetensors").read_bytes())
    tensors[name] = np.full_like(tensors[name], value)
    put(copy, "golden.safetensors", save(tensors))
    if value == 1e30:
        refuse(copy, f"gives other {name.replace('_', ' ')}")
    else:
        refuse(copy, r"golden\.safetensors: embeddings that are not finite, or of no length")


@pytest.mark.parametrize(
    "data",
    [
        b"garbage",
        save({"image_embeddings": np.zeros((5, 24), np.float32)}),
        save(
            {
                name: np.zeros((5, 24), np.float64)
                for name in ("image_embeddings", "text_embeddings")
            }
        ),
        save({name: np.zeros(5, np.float32) for name in ("image_embeddings", "text_embeddings")}),
    ],
)
def test_golden_files_that_are_none(copy: Path, data: bytes) -> None:
    put(copy, "golden.safetensors", data)
    refuse(copy, "golden.safetensors")


def test_fewer_golden_results_prove_less(copy: Path) -> None:
    tensors = load((copy / "golden.safetensors").read_bytes())
    put(copy, "golden.safetensors", save({name: rows[:1] for name, rows in tensors.items()}))
    refuse(copy, "gives other image embeddings")


def test_another_vocabulary(copy: Path) -> None:
    lines = (copy / "merges.txt").read_bytes().splitlines(keepends=True)
    put(copy, "merges.txt", b"".join(reversed(lines)))
    refuse(copy, "gives other text embeddings")
    put(copy, "merges.txt", b"".join(lines) * 2)
    refuse(copy, "text.onnx cannot be run")
    put(copy, "merges.txt", b"no pairs\n\n")
    refuse(copy, "not a byte-pair vocabulary")


def test_the_towers_changed_round(copy: Path) -> None:
    image, text = ((copy / f"{name}.onnx").read_bytes() for name in ("image", "text"))
    put(copy, "image.onnx", text)
    put(copy, "text.onnx", image)
    refuse(copy, "image.onnx cannot be run")


# --- ONNX files that want more


def graph(*nodes: Any, initializers: tuple[Any, ...] = ()) -> Any:
    batch = helper.make_tensor_value_info("batch", TensorProto.FLOAT, ["b", 3, 32, 32])
    out = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["b", 24])
    return helper.make_graph(list(nodes), "tower", [batch], [out], initializer=list(initializers))


def model(*nodes: Any, initializers: tuple[Any, ...] = (), **options: Any) -> bytes:
    made = helper.make_model(graph(*nodes, initializers=initializers), **options)
    data: bytes = made.SerializeToString()
    return data


def outside(path: str) -> Any:
    tensor = numpy_helper.from_array(np.zeros((2, 2), np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", path), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    return tensor


IDENTITY = helper.make_node("Identity", ["batch"], ["embeddings"])
BRANCH = helper.make_graph([IDENTITY], "branch", [], [])
HALF_OUTSIDE = outside("secret")
HALF_OUTSIDE.data_location = TensorProto.DEFAULT
WANTING: dict[str, tuple[bytes, str]] = {
    "a file beside it": (model(IDENTITY, initializers=(outside("secret"),)), "another file"),
    "a file far away": (model(IDENTITY, initializers=(outside("/etc/passwd"),)), "another file"),
    "a file by half": (model(IDENTITY, initializers=(HALF_OUTSIDE,)), "another file"),
    "a file in a constant": (
        model(helper.make_node("Constant", [], ["c"], value=outside("secret"))),
        "another file",
    ),
    "operators of its own": (
        model(
            helper.make_node("Anything", ["batch"], ["embeddings"], domain="com.example"),
            opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)],
        ),
        "no encoder needs the operator 'Anything'|not ONNX's own",
    ),
    "a known name of another domain": (
        model(helper.make_node("Add", ["batch", "batch"], ["embeddings"], domain="com.microsoft")),
        "not ONNX's own",
    ),
    "a foreign domain alone": (
        model(IDENTITY, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)]),
        "not ONNX's own",
    ),
    "a loop": (
        model(helper.make_node("Loop", ["", ""], ["embeddings"], body=BRANCH)),
        "operator 'Loop'",
    ),
    "a graph in a harmless operator": (
        model(helper.make_node("Identity", ["batch"], ["embeddings"], body=BRANCH)),
        "a graph within a graph",
    ),
    "graphs in a harmless operator": (
        model(helper.make_node("Identity", ["batch"], ["embeddings"], bodies=[BRANCH])),
        "a graph within a graph",
    ),
    "chance": (
        model(helper.make_node("RandomNormal", [], ["embeddings"], shape=[1, 24])),
        "Random",
    ),
    "functions": (
        model(
            IDENTITY,
            functions=[
                helper.make_function("f", "Add", ["a"], ["b"], [], [helper.make_opsetid("", 18)])
            ],
        ),
        "more than one graph",
    ),
    "no graph": (helper.make_model(graph()).SerializeToString()[:4], "0 graphs|cut short"),
    "two graphs": (model(IDENTITY) + model(IDENTITY)[2:], "2 graphs"),
    "text": (b"this is not a model, but long enough to look like one", "not an ONNX file|cut"),
    "an endless number": (b"\x3a" + b"\xff" * 30, "more than 64 bits"),
    "a length beyond the end": (b"\x3a\xff\xff\xff\xff\x07", "cut short"),
    "a million parts": (b"\x42\x00" * 500_000, "more than"),
}


@pytest.mark.parametrize("case", sorted(WANTING))
def test_a_model_that_wants_more(copy: Path, case: str) -> None:
    data, reason = WANTING[case]
    (copy / "secret").write_bytes(b"\0" * 16)
    put(copy, "image.onnx", data)
    began = time.process_time()
    refuse(copy, f"image.onnx is not loaded: .*({reason})")
    assert time.process_time() - began < 5


def test_a_sparse_weight(copy: Path) -> None:
    made = onnx.load_from_string(model(IDENTITY))
    made.graph.sparse_initializer.add().dims.extend([2, 2])
    put(copy, "image.onnx", made.SerializeToString())
    refuse(copy, "sparse weights")


def test_a_model_that_is_no_encoder(copy: Path) -> None:
    put(copy, "image.onnx", model(IDENTITY))
    refuse(copy, "image.onnx cannot be run")


def test_a_cut_or_garbled_model_ends_in_words(exported: Path) -> None:
    """Whatever the bytes are: left for the runtime to judge, or refused by one kind of error."""
    data = (exported / "image.onnx").read_bytes()
    check_graph(data, "whole")
    draw = random.Random(0)
    refused = 0
    for _ in range(400):
        garbled = bytearray(data[: draw.randrange(len(data))])
        for _ in range(draw.randrange(4)):
            if garbled:
                garbled[draw.randrange(min(len(garbled), 4000))] = draw.randrange(256)
        try:
            check_graph(bytes(garbled), "garbled")
        except InputError:
            refused += 1
    assert refused > 390


# --- models that ask for more than there is


def asking(*nodes: Any, **sizes: Any) -> bytes:
    """A model whose output is that of an encoder, after work that nothing limits.

    ``nodes`` work out "z"; each of ``sizes`` is a constant.
    """
    node = helper.make_node
    after = [
        node("ReduceMax", ["z"], ["m"], keepdims=0),
        node("ReduceMean", ["batch", "axes"], ["r"], keepdims=0),
        node("Unsqueeze", ["r", "one"], ["u"]),
        node("Expand", ["u", "shape"], ["e"]),
        node("Add", ["e", "m"], ["embeddings"]),
    ]
    sizes |= {"axes": [1, 2, 3], "one": [1], "shape": [1, 24]}
    constants = [numpy_helper.from_array(np.array(value), name) for name, value in sizes.items()]
    first = node("ReduceMax", ["batch"], ["x"], keepdims=0)
    return model(
        first,
        *nodes,
        *after,
        initializers=tuple(constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def slow(times: int) -> bytes:
    """Products of large matrices, one after the other."""
    node = helper.make_node
    products = [node("MatMul", [f"y{it}"] * 2, [f"y{it + 1}"]) for it in range(times)]
    expanded = node("Expand", ["x", "s"], ["y0"])
    return asking(expanded, *products, node("Identity", [f"y{times}"], ["z"]), s=[1500, 1500])


DOUBLED = [helper.make_node("Concat", [f"c{it}"] * 2, [f"c{it + 1}"], axis=0) for it in range(50)]
HUGE: dict[str, bytes] = {
    "of data": asking(helper.make_node("Expand", ["x", "s"], ["z"]), s=[2**21, 2**21]),
    "of constants, when it is loaded": asking(
        helper.make_node("Expand", ["o", "s"], ["z"]), o=np.ones(1, np.float32), s=[2**41]
    ),
    "by doubling": asking(
        helper.make_node("Unsqueeze", ["x", "zero"], ["c0"]),
        *DOUBLED,
        helper.make_node("Identity", ["c50"], ["z"]),
        zero=[0],
    ),
}


@pytest.mark.parametrize("case", sorted(HUGE))
def test_a_model_that_asks_for_more_memory_than_there_is(
    copy: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_files, "_MEMORY", 2**30)
    put(copy, "image.onnx", HUGE[case])
    refuse(copy, r"image\.onnx cannot be run: it needs more memory besides its weights than")


def test_a_trial_that_does_not_end(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "_SECONDS", 2.0)
    put(copy, "image.onnx", slow(2000))
    began = time.perf_counter()
    refuse(copy, "the trial of this encoder did not come to an end in 2 seconds")
    assert time.perf_counter() - began < 10


def test_a_trial_whose_process_dies(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_files, "_MAIN", "import os; os.abort()")
    refuse(copy, "the trial of this encoder ended with signal 6")
    monkeypatch.setattr(onnx_files, "_MAIN", "print('no embeddings')")
    refuse(copy, "gave no embeddings")


def test_a_run_has_an_end_whatever_it_is_given(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a trial that passed, with a picture that asks for more than the golden ones did."""
    put(copy, "image.onnx", slow(40))
    encoder = OnnxEncoder(OnnxFolder(copy), trusted=True)
    pixels = np.ones((1, 3, 32, 32), np.float32)
    monkeypatch.setattr(onnx_module, "_SECONDS", 0.05)
    with pytest.raises(InputError, match="it takes more than 0 seconds"):
        encoder.encode_pixels(pixels)
    size = helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64)
    side = helper.make_node("Unsqueeze", ["i", "zero"], ["s"])
    by_picture = asking(size, side, helper.make_node("Expand", ["x", "s"], ["z"]), zero=[0])
    put(copy, "image.onnx", by_picture)
    monkeypatch.setattr(onnx_module, "_SECONDS", 60.0)
    encoder = OnnxEncoder(OnnxFolder(copy), trusted=True)
    assert encoder.encode_pixels(pixels).shape == (1, 24)
    with pytest.raises(InputError, match="it needs more memory besides its weights"):
        encoder.encode_pixels(pixels * 2**40)


def test_files_that_are_swapped_are_not_run(copy: Path, tmp_path: Path) -> None:
    """Between the look at a file and the moment that the runtime opens it, and later."""
    age(copy)
    OnnxEncoder.from_folder(copy, memory=tmp_path / "memory")
    encoder = OnnxEncoder.from_folder(copy, memory=tmp_path / "memory")
    encoder._graph("image.onnx")
    data = (copy / "image.onnx").read_bytes()
    (copy / "image.onnx").rename(tmp_path / "before")
    (copy / "image.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DigestMismatchError, match=r"image\.onnx is not the file"):
        encoder.encode_images([Image.new("RGB", (9, 9))])
    (copy / "text.onnx").write_bytes((copy / "text.onnx").read_bytes())
    with pytest.raises(DigestMismatchError, match=r"text\.onnx is not the file"):
        encoder.encode_texts(["a"])


# --- what is remembered


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were checked."""
    seen: list[Path] = []
    real = OnnxEncoder._check

    def check(encoder: OnnxEncoder) -> Any:
        seen.append(encoder._folder.path)
        return real(encoder)

    monkeypatch.setattr(onnx_module.OnnxEncoder, "_check", check)
    return seen


def note_in(memory: Path) -> Path:
    (note,) = (path for path in memory.iterdir() if not path.name.startswith("graph-"))
    return note


def age(folder: Path) -> None:
    for path in folder.iterdir():
        os.utime(path, (1_600_000_000, 1_600_000_000))


def test_an_encoder_is_checked_once(copy: Path, tmp_path: Path, checks: list[Path]) -> None:
    age(copy)
    memory = tmp_path / "memory"
    first = OnnxEncoder.from_folder(copy, memory=memory)
    again = OnnxEncoder.from_folder(copy, memory=memory)
    assert checks == [copy]
    assert again.encode_texts(["a"]).tobytes() == first.encode_texts(["a"]).tobytes()
    remembered = json.loads(read_sealed(note_in(memory)) or b"")
    assert remembered["checker"] == CHECKER
    assert remembered["encoder_id"] == again.encoder_id == first.ref.id
    assert again.ref == first.ref
    for name, digest in remembered["graphs"].items():
        run = with_external_data((copy / name).read_bytes(), name)
        assert hashlib.sha256(run).hexdigest() == digest
        assert read_sealed(memory / f"graph-{digest}") == run
    shutil.rmtree(memory)
    OnnxEncoder.from_folder(copy, memory=memory)
    assert checks == [copy, copy]


@pytest.mark.parametrize(
    "spoil", [lambda it: it[:-6] + bytes([it[-6] ^ 1]) + it[-5:], lambda it: b"[" * len(it) * 999]
)
def test_a_damaged_note_of_a_check_is_none(
    copy: Path, tmp_path: Path, checks: list[Path], spoil: Callable[[bytes], bytes]
) -> None:
    """A bit of a digest in it had the encoder refused at every start."""
    age(copy)
    memory = tmp_path / "memory"
    OnnxEncoder.from_folder(copy, memory=memory)
    note = note_in(memory)
    note.write_bytes(spoil(note.read_bytes()))
    OnnxEncoder.from_folder(copy, memory=memory).encode_texts(["a"])
    OnnxEncoder.from_folder(copy, memory=memory)
    assert checks == [copy, copy]


@pytest.mark.parametrize("spoil", [lambda it: it[:-1], lambda it: b"", None])
def test_a_graph_that_was_not_kept_well_is_made_anew(
    copy: Path, tmp_path: Path, checks: list[Path], spoil: Callable[[bytes], bytes] | None
) -> None:
    age(copy)
    memory = tmp_path / "memory"
    first = OnnxEncoder.from_folder(copy, memory=memory)
    right = {kept: kept.read_bytes() for kept in memory.glob("graph-*")}
    for kept in right:
        if spoil is None:  # sealed, and another's
            write_sealed(kept, b"another graph")
        else:
            kept.write_bytes(spoil(kept.read_bytes()))
    again = OnnxEncoder.from_folder(copy, memory=memory)
    assert again.encode_texts(["a"]).tobytes() == first.encode_texts(["a"]).tobytes()
    assert checks == [copy]
    assert any(kept.read_bytes() == content for kept, content in right.items())  # and kept again


def test_a_file_that_changed_is_checked_again(
    copy: Path, tmp_path: Path, checks: list[Path]
) -> None:
    age(copy)
    memory = tmp_path / "memory"
    OnnxEncoder.from_folder(copy, memory=memory)
    data = (copy / "text.onnx").read_bytes()
    (copy / "text.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    age(copy)  # as programs do that copy times as well
    with pytest.raises(DigestMismatchError, match=r"text\.onnx"):
        OnnxEncoder.from_folder(copy, memory=memory)
    assert checks == [copy, copy]


def test_files_of_this_moment_are_not_remembered(
    copy: Path, tmp_path: Path, checks: list[Path]
) -> None:
    for path in copy.iterdir():
        path.touch()
    OnnxEncoder.from_folder(copy, memory=tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_files_that_change_while_they_are_tried_are_not_remembered(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(copy)
    real = OnnxEncoder._check

    def check(encoder: OnnxEncoder) -> Any:
        found = real(encoder)
        (copy / "text.onnx").write_bytes((copy / "text.onnx").read_bytes()[::-1])
        age(copy)
        return found

    monkeypatch.setattr(OnnxEncoder, "_check", check)
    OnnxEncoder.from_folder(copy, memory=tmp_path / "memory")
    assert not (tmp_path / "memory").exists()


def test_another_runtime_is_another_trial(
    copy: Path, tmp_path: Path, checks: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    age(copy)
    OnnxEncoder.from_folder(copy, memory=tmp_path / "memory")
    monkeypatch.setattr(onnx_files, "_installed", lambda name: [name])
    OnnxEncoder.from_folder(copy, memory=tmp_path / "memory")
    assert checks == [copy, copy]


def test_a_memory_that_cannot_be_written(copy: Path, tmp_path: Path, checks: list[Path]) -> None:
    age(copy)
    (tmp_path / "memory").write_text("a file is in the way", encoding="utf-8")
    for _ in range(2):
        assert OnnxEncoder.from_folder(copy, memory=tmp_path / "memory").ref.name == "tiny"
    assert checks == [copy, copy]
