"""The vectors of encoders: that they are what the generator writes, and that torch agrees."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from gmi_registry.encoders import Encoder
from gmi_registry.encoders.onnx import OnnxEncoder
from gmi_registry.encoders.onnx_files import OnnxFolder, deviation, reference_images
from gmi_registry.encoders.open_clip import OpenClipEncoder
from tests.support.encoder_vectors import ENCODER, EXPORT, VECTORS, vector_files


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads((VECTORS / ENCODER / "vectors.json").read_bytes())


def test_committed_vectors_are_what_the_generator_writes() -> None:
    made = vector_files()
    there = {
        path.relative_to(VECTORS).as_posix()
        for path in VECTORS.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    assert there == set(made)
    for name, content in made.items():
        committed = (VECTORS / name).read_bytes()
        if name.endswith(".png"):  # of which another Pillow may pack the same pixels otherwise
            pair = [np.asarray(Image.open(io.BytesIO(data))) for data in (committed, content)]
            np.testing.assert_array_equal(*pair)
        else:
            assert committed == content, name
    assert sum(map(len, made.values())) < 500_000


@pytest.fixture(scope="module", params=["torch", "onnx"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    if request.param == "onnx":
        return OnnxEncoder.from_folder(EXPORT)
    return OpenClipEncoder.from_folder(EXPORT.parent, *ENCODER.split("/"))


def test_both_ways_to_run_the_zoos_encoder_give_the_vectors(
    document: Any, encoder: Encoder
) -> None:
    images = [Image.open(VECTORS / ENCODER / row["file"]) for row in document["pictures"]]
    texts = [row["text"] for row in document["texts"]]
    for found, rows in (
        (encoder.encode_images(images), document["pictures"]),
        (encoder.encode_texts(texts), document["texts"]),
    ):
        stated = np.array([row["embedding"] for row in rows], dtype=np.float32)
        assert deviation(found, stated) < document["tolerance"] / 10
    assert encoder.ref.model_dump(mode="json") == document["encoder"]
    assert encoder.ref.id == document["encoder_id"]


def test_the_export_of_the_zoo_is_of_the_weights_beside_it() -> None:
    weights = (EXPORT.parent / "open_clip_model.safetensors").read_bytes()
    stated = OnnxFolder(EXPORT).description.encoder
    assert stated.weights_sha256 == hashlib.sha256(weights).hexdigest()
    assert sum(path.stat().st_size for path in EXPORT.iterdir()) < 12_000_000


def test_open_clip_makes_the_same_pixels() -> None:
    pictures = {image.size: image for image in reference_images()}
    table = json.loads((VECTORS / "pixels.json").read_bytes())
    assert len(table) == 60
    for row in table:
        transform = image_transform_v2(
            PreprocessCfg(
                size=row["size"],
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
                resize_mode=row["resize_mode"],
                interpolation=row["interpolation"],
                fill_color=row["fill_color"],
            ),
            is_train=False,
        )
        values = transform(pictures[row["width"], row["height"]]).numpy() * 255
        square = np.ascontiguousarray(np.round(values).astype(np.uint8).transpose(1, 2, 0))
        assert hashlib.sha256(square.tobytes()).hexdigest() == row["sha256"], row


def test_no_path_stands_in_the_exported_files() -> None:
    for path in EXPORT.glob("*.onnx"):
        data = path.read_bytes()
        assert b"site-packages" not in data
        assert str(Path.home()).encode() + b"/" not in data
