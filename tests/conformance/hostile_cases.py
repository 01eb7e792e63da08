"""Vectors that a hostile writer could serve: each must be refused quickly and in little memory."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import numpy as np

from gmi_registry.spec.canonical import canonical_digest, canonical_json
from tests.conformance.vector_base import (
    JSON,
    TENSORS,
    Case,
    Document,
    Files,
    base_files,
    edit,
    header_edit,
    join_tensors,
    put,
    split_tensors,
    text,
    values_edit,
    with_tensors,
)

FORMAT = "SpecFormatError"
DIGEST = "DigestMismatchError"
BASE = base_files()
_HEAD, _TAIL = (
    half + mark
    for half, mark in zip(
        BASE[JSON].decode().split('"weights":['), ('"weights":[', ""), strict=True
    )
)

_BEFORE_MODEL, _FROM_MODEL = (
    half + mark
    for half, mark in zip(BASE[JSON].decode().split('"model":{'), ('"model":{', ""), strict=True)
)
_WEIGHT: Document = {"size": 1, "sha256": "0" * 64}
_SMALL = canonical_json({**_WEIGHT, "path": "a"}).decode()


def _case(
    name: str,
    why: str,
    files: Files,
    clue: str,
    verdict: str = FORMAT,
    steps: list[dict[str, Any]] | None = None,
) -> Case:
    return Case("hostile", name, verdict, why, files, clue, None, steps or [])


def _repeat(path: str, *pieces: tuple[str, int]) -> dict[str, Any]:
    return {"do": "write", "path": path, "pieces": [list(piece) for piece in pieces]}


def _sparse(path: str, size: int, start: bytes = b"") -> dict[str, Any]:
    return {"do": "sparse", "path": path, "size": size, "start_hex": start.hex()}


def _without(path: str) -> Files:
    return {name: data for name, data in BASE.items() if name != path}


def _declared(length: int) -> Files:
    return with_tensors(struct.pack("<Q", length) + BASE[TENSORS][8:])


def _offsets(name: str, start: int, stop: int) -> Files:
    return header_edit(lambda h: h[name].update(data_offsets=[start, stop]))


def _tensor_twice() -> Files:
    header, body = split_tensors()
    raw = json.dumps(header, separators=(",", ":"))
    again = json.dumps(header["image_prompt"], separators=(",", ":"))
    return with_tensors(join_tensors(f'{raw[:-1]},"image_prompt":{again}}}'.encode(), body))


def _hole() -> Files:
    header, body = split_tensors()
    last = header["prompt_embeddings"]
    last["data_offsets"] = [offset + 8 for offset in last["data_offsets"]]
    start = header["image_embeddings"]["data_offsets"][1]
    return with_tensors(join_tensors(header, body[:start] + b"secret.." + body[start:]))


def _many_tensors() -> Files:
    header, body = split_tensors()
    empty = {"dtype": "F16", "shape": [0], "data_offsets": [0, 0]}
    header.update({f"t{number}": empty for number in range(20)})
    return with_tensors(join_tensors(header, body))


def _large_nan() -> Case:
    """16 MB of ones, with NaN as the last image value."""
    images, width, seeds = 2000, 4096, 1000
    body = (
        ("\0\0\0\0", seeds),
        ("\1\0\0\0", seeds),
        ("\0<", images * width - 1),
        ("\0~", 1),
        ("\0<", 12),
    )
    offsets = (0, 4 * images, 4 * images + 2 * images * width)
    header = split_tensors()[0]
    shapes = ([images], [images, width], [2, 6])
    for entry, shape, start, stop in zip(
        header.values(), shapes, offsets, (*offsets[1:], offsets[2] + 24), strict=True
    ):
        entry.update(shape=shape, data_offsets=[start, stop])
    pieces = ((join_tensors(header, b"").decode("latin-1"), 1), *body)
    data = "".join(piece * times for piece, times in pieces).encode("latin-1")

    def grow(document: Document) -> None:
        document["encoder"]["image_dim"] = width
        document["prompt_sets"][0]["rows"] = [0, images]
        generation = document["generation"]
        generation["recipe"]["seeds"] = list(range(seeds))
        hashed = {k: v for k, v in generation["recipe"].items() if k != "libraries"}
        generation["id"] = canonical_digest(hashed)
        tensors = document["tensors"]
        tensors.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
        tensors["entries"]["image_prompt"]["shape"] = [images]
        tensors["entries"]["image_embeddings"]["shape"] = [images, width]

    return _case(
        "large-nan",
        "16 MB of sane values but for one NaN near the end, with the right size and digest",
        {JSON: edit(grow)[JSON]},
        "norm nan",
        steps=[_repeat(TENSORS, *pieces)],
    )


CASES = [
    # numbers
    _case("nan", "NaN in an image embedding: every distance to it would be NaN",
          values_edit("image_embeddings", lambda a: a.__setitem__((1, 3), np.nan)), "norm nan"),
    _case("infinity", "infinity in a prompt embedding",
          values_edit("prompt_embeddings", lambda a: a.__setitem__((0, 0), np.inf)), "norm inf"),
    _case("negative-infinity", "minus infinity in an image embedding",
          values_edit("image_embeddings", lambda a: a.__setitem__((0, 7), -np.inf)), "norm inf"),
    _large_nan(),
    _case("json-nan", "gamma is the token NaN", text(b'"gamma":0.02', b'"gamma":NaN'), "NaN"),
    _case("json-overflow", "gamma is 1e999, which parses as infinity",
          text(b'"gamma":0.02', b'"gamma":1e999'), "gamma"),
    _case("long-integer", "an integer of 200,000 digits", _without(JSON), "2^53",
          steps=[_repeat(JSON, ('{"format":', 1), ("9", 200_000), ("}\n", 1))]),
    # the header of the tensors
    _case("header-2-63", "a declared header of 2^63 bytes", _declared(2**63), "header"),
    _case("header-99-mb", "a header of 99 MB of blanks in a file as large", _without(TENSORS),
          "more than", steps=[_sparse(TENSORS, 99_000_008, struct.pack("<Q", 99_000_000))]),
    _case("header-99-mb-declared", "a declared header of 99 MB in a file that has "
          "the size and digest that the manifest names", _declared(99_000_000), "header"),
    _case("header-of-blanks", "a header of blanks alone",
          with_tensors(join_tensors(b" " * 64, split_tensors()[1])), "header"),
    _case("header-cut", "a declared header longer than the file", _declared(5000), "cut short"),
    _case("no-header", "a tensor file of 3 bytes", with_tensors(b"\x00\x00\x00"), "too few"),
    _case("deep-header", "a header of 100,000 nested arrays", _without(TENSORS), "bytes", DIGEST,
          steps=[_repeat(TENSORS, ("\u0000\u0000\u0001\u0000\u0000\u0000\u0000\u0000", 1),
                         ("[", 65_536))]),
    _case("deep-header-pinned", "a header of 3,000 nested arrays, with the right size and digest",
          with_tensors(join_tensors(b"[" * 3000, b"")), "nested"),
    _case("header-not-utf-8", "bytes in the header that are not UTF-8",
          with_tensors(join_tensors(b'{"\xff":0}', b"")), "UTF-8"),
    _case("tensor-twice", "one tensor twice in the header", _tensor_twice(), "twice"),
    _case("tensor-dotdot", "a tensor named ../../outside",
          header_edit(lambda h: h.update({"../../outside": h.pop("image_prompt")})), "../.."),
    _case("many-tensors", "20 tensors beyond the three", _many_tensors(), "no tensor"),
    _case("metadata", "metadata, where a writer could hide what no digest of values shows",
          header_edit(lambda h: h.update(__metadata__={"a": "b"})), "__metadata__"),
    # offsets
    _case("offset-2-62", "a tensor that ends at byte 2^62",
          _offsets("prompt_embeddings", 40, 2**62), "spec.tensors"),
    _case("offset-negative", "a tensor that begins at byte -8",
          _offsets("image_prompt", -8, 0), "spec.tensors"),
    _case("offset-fraction", "a tensor that begins at byte 0.5",
          header_edit(lambda h: h["image_prompt"].update(data_offsets=[0.5, 8])), "spec.tensors"),
    _case("overlap", "two tensors over the same bytes", _offsets("image_embeddings", 0, 32),
          "spec.tensors"),
    _case("hole", "bytes between two tensors that belong to none", _hole(), "spec.tensors"),
    _case("trailing-bytes", "bytes after the last tensor",
          with_tensors(BASE[TENSORS] + b"PK\x03\x04"), "spec.tensors"),
    _case("truncated", "the tensor file is cut in the middle of its data",
          {**BASE, TENSORS: BASE[TENSORS][:-20]}, "bytes", DIGEST),
    _case("truncated-pinned", "cut in the middle, with the right size and digest for what is left",
          with_tensors(BASE[TENSORS][:-20]), "spec.tensors"),
    _case("shape-product", "a shape whose product overflows 64 bits",
          put("tensors.entries.image_embeddings.shape", [2**33, 2**33]), "shape"),
    _case("shape-negative", "a shape of [-2, -8]",
          header_edit(lambda h: h["image_embeddings"].update(shape=[-2, -8])), "shape"),
    _case("shape-bool", "a shape of [true, ...] where the manifest says 2",
          header_edit(lambda h: h["image_embeddings"].update(shape=[True, 8])), "shape"),
    # the manifest as text
    _case("key-twice", "the key kernel twice: two readers could see two values",
          text(b'"kernel":', b'"kernel":{"gamma":9,"name":"rbf"},"kernel":'), "twice"),
    _case("not-utf-8", "a title in Latin-1", text(b"An example", b"Caf\xe9 house"), "UTF-8"),
    _case("utf-16", "the manifest in UTF-16",
          {**BASE, JSON: BASE[JSON].decode().encode("utf-16")}, "UTF-8"),
    _case("surrogate", "half of a surrogate pair in the title", text(b"An example", b"\\ud83e"),
          "spec.json"),
    _case("escape-sequence", "a title that repaints the terminal",
          put("model.title", "\u001b[2J\u001b[1;1Hall checks passed"), "U+001B"),
    _case("bidi-override", "a title that displays in another order than it is read",
          put("model.title", "safe\u202egnp.exe"), "U+202E"),
    _case("nul-in-path", "a weight path with a NUL",
          put("model.weights.0.path", "a\u0000.safetensors"), "U+0000"),
    _case("dotdot-weight", "a weight path that leaves the model's folder",
          put("model.weights.0.path", "../../etc/passwd"), "path"),
    _case("absolute-weight", "a weight path from the root",
          put("model.weights.0.path", "/etc/passwd"), "path"),
    _case("drive-weight", "a weight path with a drive",
          put("model.weights.0.path", "C:/weights.bin"), "path"),
    _case("other-tensor-file", "the manifest names a tensor file elsewhere",
          put("tensors.file", "../../../etc/passwd"), "tensors.file"),
    _case("script-url", "a link that runs a script",
          put("model.url", "javascript:alert(1)"), "model.url"),
    _case("deep-json", "200,000 nested arrays", _without(JSON), "nested",
          steps=[_repeat(JSON, ("[", 200_000))]),
    _case("deep-json-unknown", "40 nested arrays in an unknown field of version 1.7",
          {**BASE, JSON: BASE[JSON].replace(b'"1.0"', b'"1.7"')[:-2]
           + b',"zzz":' + b"[" * 40 + b"]" * 40 + b"}\n"}, "nested"),
    _case("deep-json-minor", "900 nested arrays in an unknown field of version 1.7",
          _without(JSON), "spec.json", steps=[_repeat(JSON, ('{"format":{"version":"1.7"},"x":', 1),
                                                  ("[", 900), ("]", 900), ("}\n", 1))]),
    _case("many-values", "80,000 empty containers", _without(JSON), "10,000 values",
          steps=[_repeat(JSON, ('{"format":{"name":"gmi-spec","version":"1.0"},"x":[0', 1),
                         (",[],{}", 40_000), ("]}\n", 1))]),
    _case("many-weights", "80,000 empty objects where weight files should be", _without(JSON),
          "10,000 values", steps=[_repeat(JSON, (_HEAD, 1), ("{},", 80_000), (_TAIL, 1))]),
    _case("many-numbers", "125,000 numbers in an unknown field of version 1.7", _without(JSON),
          "10,000 values",
          steps=[_repeat(JSON, ('{"format":{"name":"gmi-spec","version":"1.7"},"x":[0', 1),
                         (",0", 125_000), ("]}\n", 1))]),
    _case("many-bad-values", "9,000 numbers where weight files should be", _without(JSON),
          "weights", steps=[_repeat(JSON, (_HEAD, 1), ("0,", 9_000), (_TAIL, 1))]),
    _case("nested-lists", "240,000 brackets, never deeper than eight", _without(JSON),
          "10,000 values",
          steps=[_repeat(JSON, ('{"x":[0', 1), (",[[[[[[]]]]]]", 20_000), ("]}\n", 1))]),
    _case("large-manifest", "a manifest of 10 MB", _without(JSON), "more than",
          steps=[_repeat(JSON, ("{", 1), (" " * 1000, 10_000), ("}\n", 1))]),
    # the file system
    _case("sparse-manifest", "a manifest of 1 TB that takes no room on the disk",
          _without(JSON), "more than", steps=[_sparse(JSON, 2**40)]),
    _case("sparse-tensors", "a tensor file of 1 TB that takes no room on the disk",
          _without(TENSORS), "more than", steps=[_sparse(TENSORS, 2**40)]),
    _case("manifest-link", "the manifest is a link to a file outside", _without(JSON), "link",
          steps=[{"do": "link", "path": JSON, "target": "/etc/hostname"}]),
    _case("tensors-link", "the tensors are a link", _without(TENSORS), "link",
          steps=[{"do": "link", "path": TENSORS, "target": "../elsewhere"}]),
    _case("folder-link", "the folder gmi is a link to a complete specification",
          {name.replace("gmi/", "real/"): data for name, data in BASE.items()}, "link",
          steps=[{"do": "link", "path": "gmi", "target": "real"}]),
    _case("pipe", "the tensors are a pipe that never ends", _without(TENSORS), "regular",
          steps=[{"do": "pipe", "path": TENSORS}]),
    _case("directory", "the manifest is a folder", _without(JSON), "cannot be read",
          steps=[{"do": "folder", "path": JSON}]),
    # the base model's weights
    _case("dotdot-base-weight", "a path of a base weight that leaves the base's folder",
          put("model.base_weights", [{**_WEIGHT, "path": "unet/../../../etc/passwd"}]),
          "model.base_weights.0.path"),
    _case("escape-in-base-weight", "a path of a base weight that repaints the terminal",
          put("model.base_weights", [{**_WEIGHT, "path": "\u001b[2Junet.safetensors"}]), "U+001B"),
    _case("many-base-weights", "2,000 weight files of the base, where 200 are allowed",
          _without(JSON), "model.base_weights",
          steps=[_repeat(JSON, (_BEFORE_MODEL + '"base_weights":[', 1), (f"{_SMALL},", 1_999),
                         (f"{_SMALL}],{_FROM_MODEL}", 1))]),
]  # fmt: skip
