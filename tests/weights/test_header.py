"""Headers from strangers: read with bounds, or refused in one line; never anything else."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from gmi_registry.errors import HubError
from gmi_registry.weights import (
    HEADER_LIMIT,
    Header,
    Tensor,
    WeightsFormatError,
    header_from_bytes,
    header_length,
    identify_file,
    read_header,
)

# ---- builders


def safetensors(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F16", shape: Sequence[Any] = (2,), start: Any = 0, stop: Any = 4) -> Any:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def text(value: str | bytes) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(content)) + content


def value(kind: int, layout: str, number: Any) -> bytes:
    return struct.pack("<I", kind) + struct.pack(layout, number)


def array(kind: int, items: Sequence[bytes]) -> bytes:
    return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)


STRING = struct.pack("<I", 8)


def gguf(
    tensors: Mapping[str, tuple[Sequence[int], int, int]],
    metadata: Sequence[tuple[str, bytes]] = (),
    data: bytes | None = None,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """Tensors by name: sides in ggml's order, the number of the dtype, and the offset."""
    content = b"GGUF" + struct.pack("<I", version)
    content += struct.pack("<QQ", *(counts or (len(tensors), len(metadata))))
    for key, packed in metadata:
        content += text(key) + packed
    for name, (sides, dtype, offset) in tensors.items():
        content += text(name) + struct.pack(f"<I{len(sides)}Q", len(sides), *sides)
        content += struct.pack("<IQ", dtype, offset)
    content += bytes(-len(content) % 32)
    return content + (b"\0" * 4096 if data is None else data)


SMALL = safetensors({"a": entry()}, bytes(4))
FLUX = gguf(
    {
        "img_in.weight": ((64, 32), 1, 0),
        "double_blocks.0.img_attn.qkv.weight": ((256, 2), 12, 4096),
    },
    [
        ("general.architecture", STRING + text("flux")),
        ("general.file_type", value(4, "<I", 15)),
        ("tokenizer.ggml.tokens", array(8, [text("a" * 9)] * 40)),
        ("tokenizer.ggml.scores", array(6, [bytes(4)] * 40)),
        (
            "comfy.gguf.orig_shape.img_in.weight",
            array(5, [struct.pack("<i", n) for n in (32, 16, 2, 2)]),
        ),
        ("x.flag", value(7, "<?", True)),
        ("x.third", value(6, "<f", 0.5)),
    ],
    bytes(4096 + 288),
)


# ---- what is read


def test_a_file_of_the_library_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save({"w": np.zeros((2, 3), "f4"), "v_pred": np.zeros(0, "f2")}, {"a": "b"}))
    found = read_header(path)
    assert found.tensors == {"w": Tensor("F32", (2, 3)), "v_pred": Tensor("F16", (0,))}
    assert (found.format, found.metadata, found.parameters) == ("safetensors", {"a": "b"}, 6)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("BF16", 16),
        ("F8_E4M3", 8),
        ("F8_E5M2", 8),
        ("F8_E8M0", 8),
        ("F4", 4),
        ("C64", 64),
        ("U16", 16),
    ],
)
def test_dtypes_that_numpy_lacks_are_read(dtype: str, bits: int) -> None:
    data = bytes(8 * bits // 8)
    content = safetensors({"a": entry(dtype, (8,), 0, len(data))}, data)
    assert header_from_bytes(content, size=len(content)).tensors["a"] == Tensor(dtype, (8,))


def test_a_dtype_of_the_future_is_read() -> None:
    content = safetensors({"a": entry("F2_NEW", (8,), 0, 2)}, bytes(2))
    assert header_from_bytes(content, size=len(content)).tensors["a"].dtype == "F2_NEW"


def test_a_header_is_read_from_its_beginning_alone() -> None:
    length = header_length(SMALL[:8])
    assert length == len(SMALL) - 4
    assert header_from_bytes(SMALL[:length], size=len(SMALL)).tensors == {"a": Tensor("F16", (2,))}
    assert header_from_bytes(SMALL[:length]).tensors.keys() == {"a"}
    assert header_length(FLUX[:8]) is None
    assert header_length(b"\xff" * 8) is None


def test_a_gguf_file_is_read_in_the_order_of_torch() -> None:
    found = header_from_bytes(FLUX, size=len(FLUX))
    assert found == Header(
        "gguf",
        {
            "img_in.weight": Tensor("F16", (32, 16, 2, 2)),
            "double_blocks.0.img_attn.qkv.weight": Tensor("Q4_K", (2, 256)),
        },
        {
            "general.architecture": "flux",
            "general.file_type": "15",
            "comfy.gguf.orig_shape.img_in.weight": "32,16,2,2",
            "x.flag": "True",
            "x.third": "0.5",
        },
    )


def test_a_flattened_shape_of_another_size_is_not_believed() -> None:
    wrong = array(5, [struct.pack("<i", 7)])
    content = gguf({"a": ((32,), 0, 0)}, [("comfy.gguf.orig_shape.a", wrong)])
    assert header_from_bytes(content).tensors["a"].shape == (32,)


# ---- what is refused

BAD_SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "cut in its data": (SMALL[:-1], "cut short: it has 72 of 73 bytes"),
    "cut in its header": (SMALL[:30], "cut short: its header has 61 bytes, of which 22 are there"),
    "cut in its length": (b"\x10\0\0", "cut short"),
    "a byte too many": (SMALL + b"x", "1 bytes follow"),
    "no JSON": (safetensors(b'{"a": nul}'), "header cannot be read"),
    "no UTF-8": (safetensors(b'{"\xff": 1}'), "header cannot be read"),
    "a list": (safetensors([1]), "does not begin with a header"),
    "a huge length": (safetensors(b"{}", length=2**63), "declares a header of 9,223,372"),
    "deep": (safetensors(b'{"a":' + b"[" * 50_000), "header cannot be read"),
    "many brackets": (safetensors(b'{"a":[' + b"[]," * 500_000 + b"[]]}"), "too many parts"),
    "twice": (safetensors(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)), "twice"),
    "a field twice": (
        safetensors(b'{"a":{"dtype":"F16","dtype":"F32","shape":[1],"data_offsets":[0,4]}}'), "twice"),
    "holes": (safetensors({"a": entry(), "b": entry(start=6, stop=10)}, bytes(10)), "holes"),
    "overlap": (safetensors({"a": entry(), "b": entry(start=2, stop=6)}, bytes(6)), "overlap"),
    "backwards": (safetensors({"a": entry("X", (2,), 4, 0)}, bytes(4)), "overlap"),
    "wrong size": (safetensors({"a": entry(shape=(3,))}, bytes(4)), "do not make up its shape"),
    "negative": (safetensors({"a": entry(shape=(-2,))}, bytes(4)), "impossible shape"),
    "a fraction": (safetensors({"a": entry(shape=(2.0,))}, bytes(4)), "impossible shape"),
    "a truth": (safetensors({"a": entry(shape=(True,))}, bytes(4)), "impossible shape"),
    "an offset of 2^62": (safetensors({"a": entry(stop=2**62)}, bytes(4)), "impossible offsets"),
    "a number of 5,000 digits": (safetensors(b'{"a": 1%b}' % (b"0" * 5000)), "cannot be read"),
    "an odd dtype": (safetensors({"a": entry("f\x1b16")}, bytes(4)), "impossible dtype"),
    "a number for a tensor": (safetensors({"a": 1}), "'a' describes no tensor"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}}), "not all texts"),
    "a long name": (safetensors({"n" * 1001: entry()}, bytes(4)), "1,001 characters"),
}  # fmt: skip
BAD_GGUF: dict[str, tuple[bytes, str]] = {
    "cut in its data": (FLUX[:-1], r"GGUF file that is cut short: it has [\d,]+ of [\d,]+ bytes"),
    "cut in its header": (FLUX[:200], "cut short: its header ends after 200 bytes"),
    "cut at once": (FLUX[:6], "cut short"),
    "an old version": (gguf({}, version=1), "version 1 of GGUF"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + bytes(64), "big-endian"),
    "2^60 tensors": (gguf({}, counts=(2**60, 0)), "tensors"),
    "2^60 metadata": (gguf({}, counts=(0, 2**60)), "metadata"),
    "a name of 2^40 bytes": (gguf({}, [("a", b"")], counts=(0, 1))[:24] + struct.pack("<Q", 2**40), "name of"),
    "a text of 2^40 bytes": (gguf({}, [("a", STRING + struct.pack("<Q", 2**40))]), "more than"),
    "a list of 2^40 texts": (gguf({}, [("a", struct.pack("<IIQ", 9, 8, 2**40))]), "more than"),
    "a list of 2^22 numbers that is not there": (
        gguf({}, [("a", struct.pack("<IIQ", 9, 6, 2**22))]), "cut short"),
    "lists in lists": (gguf({}, [("a", struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 9)]), "unknown kind"),
    "an unknown kind": (gguf({}, [("a", struct.pack("<I", 77))]), "unknown kind, 77"),
    "metadata twice": (gguf({}, [("a", value(0, "<B", 1))] * 2), "twice"),
    "nine sides": (gguf({"a": ((1,) * 9, 0, 0)}), "impossible shape"),
    "a huge side": (gguf({"a": ((2**63,), 0, 0)}), "impossible shape"),
    "a huge offset": (gguf({"a": ((1,), 0, 2**60)}), "offset"),
    "no whole blocks": (gguf({"a": ((33,), 12, 0)}), "no whole blocks"),
    "no alignment": (gguf({"a": ((1,), 0, 0)}, [("general.alignment", value(4, "<I", 0))]), "alignment"),
    "a name that is no UTF-8": (gguf({}, [("a", b"")], counts=(1, 0))[:24] + text(b"\xff"), "no UTF-8"),
}  # fmt: skip
BAD = {f"safetensors: {name}": case for name, case in BAD_SAFETENSORS.items()}
BAD |= {f"GGUF: {name}": case for name, case in BAD_GGUF.items()}


@pytest.mark.parametrize("name", BAD)
def test_a_broken_header_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsFormatError, match=message) as caught:
        read_header(path)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert caught.value.damage == ("cut-short" if "cut short" in message else "malformed")
    file = identify_file(path)
    assert (file.kind, file.is_described) == (caught.value.damage, False)
    assert file.hint == caught.value.hint


FOREIGN: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "empty", "an empty file"),
    "zeros": (bytes(4096), "cut-short", "a file of zeros"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "lfs-pointer", "a Git LFS pointer, not the file"),
    "page": (b"<!DOCTYPE html><html><head><title>Sign in</title>", "web-page", "a web page"),
    "page with a break": (b"\n  <html lang=en><body>Sign in", "web-page", "a web page"),
    "JSON": (b'{"error": "Unauthorized"}', "json", "a JSON text"),
    "pickle": (b"\x80\x02}q\x00X\x05\x00\x00\x00state", "pickle", "a pickle"),
    "pickle 4": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00", "pickle", "a pickle"),
    "old torch": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle", "a pickle"),
    "torch": (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(60), "pickle", "a pickle"),
    "zip": (b"PK\x03\x04" + bytes(26) + b"lora.safetensors" + bytes(60), "archive", "a packed archive (zip)"),
    "7z": (b"7z\xbc\xaf\x27\x1c\x00\x04", "archive", "a packed archive (7z)"),
    "rar": (b"Rar!\x1a\x07\x01\x00", "archive", "a packed archive (rar)"),
    "gzip": (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "archive", "a packed archive (gzip)"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x051.9:", "onnx", "an ONNX model"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(8), "foreign", "an HDF5 file"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(8), "foreign", "a picture"),
    "MP4": (b"\0\0\0\x20ftypisom" + bytes(8), "foreign", "a video"),
    "NumPy": (b"\x93NUMPY\x01\x00v\x00", "foreign", "a NumPy array"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_another_format_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    content, kind, title = FOREIGN[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    file = identify_file(path)
    assert (file.kind, file.is_described) == (kind, False)
    assert file.title.startswith(title)
    with pytest.raises(WeightsFormatError, match=r"model\.safetensors is ") as caught:
        read_header(path)
    assert caught.value.message.endswith(file.title)
    assert caught.value.hint == file.hint


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "evil.safetensors"
    path.write_bytes(b"\x80\x04c__builtin__\nexec\n(V1/0\ntR.")
    assert identify_file(path).kind == "pickle"


def test_a_file_that_cannot_be_read_is_the_disks_fault(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.safetensors"):
        with pytest.raises(HubError, match="cannot be read"):
            identify_file(path)


# ---- fuzz

CONTENTS = [SMALL, FLUX, *(content for content, _ in BAD.values() if len(content) < 10_000)]


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_noise_gives_a_header_or_its_refusal(content: bytes) -> None:
    _read(content)


@given(
    st.sampled_from(CONTENTS),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=4),
    st.integers(0, 10_000),
)
@settings(max_examples=600, deadline=None)
def test_a_damaged_header_gives_a_header_or_its_refusal(
    content: bytes, changes: list[tuple[int, int]], stop: int
) -> None:
    damaged = bytearray(content)
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    _read(bytes(damaged[: max(1, stop % (len(damaged) + 1))]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: (
        st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4)
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.text(max_size=12) | st.just("__metadata__"),
        JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F16", "BF16", "F8_E4M3", "I64", "?"]) | JSON,
                "shape": st.lists(st.integers(-1, 9), max_size=4) | JSON,
                "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | JSON,
            }
        ),
        max_size=5,
    ),
    st.integers(0, 64),
)
@settings(max_examples=100, deadline=None)
def test_any_json_gives_a_header_or_its_refusal(header: dict[str, Any], size: int) -> None:
    _read(safetensors(header, bytes(size)))


def _read(content: bytes) -> None:
    refusal, tensors = None, []
    try:
        tensors = list(header_from_bytes(content, size=len(content)).tensors.values())
    except WeightsFormatError as error:
        refusal = error
    assert refusal is None or (refusal.hint and "\n" not in refusal.message)
    assert all(side >= 0 for tensor in tensors for side in tensor.shape)


@pytest.mark.parametrize(
    "content",
    [
        safetensors(b'{"a":[' + b'"bc",' * 1_000_000 + b"1]}"),
        safetensors(b'{"a":' + b" " * 10_000_000 + b"1}"),
        safetensors(b'{"a":[' + b"[]," * 120_000 + b"1]}"),
        gguf({}, [("a", struct.pack("<IIQ", 9, 8, 2**24))], bytes(1_000_000)),
        gguf({}, [("a", struct.pack("<IIQ", 9, 6, 2**22))], bytes(2**24)),
    ],
    ids=["texts", "blanks", "brackets", "empty texts", "numbers"],
)
def test_a_hostile_header_takes_little_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        _read(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * HEADER_LIMIT
