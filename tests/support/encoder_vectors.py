"""Writes the vectors of encoders: ``python -m tests.support.encoder_vectors``."""

from __future__ import annotations

import hashlib
import io
import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load

from gmi_registry.encoders.onnx import Preprocessing
from gmi_registry.encoders.onnx_files import (
    REFERENCE_TEXTS,
    TOLERANCE,
    OnnxFolder,
    reference_images,
)
from gmi_registry.encoders.tokenizer import ClipTokens, split_merges
from gmi_registry.spec import Preprocess

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "spec_format" / "vectors" / "encoders"
ENCODER = "gmi-zoo-clip/icons-v1"
EXPORT = ROOT / "zoo" / "hub" / "encoders" / ENCODER / "onnx"

SIDES = (32, 75)
MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")
FILL = 200


def vector_files() -> dict[str, bytes]:
    """Path below :data:`VECTORS` to content, the README left out."""
    files = {"pixels.json": _json(_pixel_table())}
    folder = OnnxFolder(EXPORT)
    about = folder.description
    pixels = Preprocessing(about.encoder.preprocess, about.fill_color)
    tokens = ClipTokens(
        split_merges(folder.read("merges.txt")), about.text.length, about.text.cleaning
    )
    golden = load(folder.read("golden.safetensors"))
    pictures = []
    for place, image in enumerate(reference_images()):
        square = pixels.square(image)
        files[f"{ENCODER}/picture-{place}.png"] = _png(image)
        files[f"{ENCODER}/picture-{place}.input.png"] = _png(Image.fromarray(square))
        pictures.append(
            {
                "file": f"picture-{place}.png",
                "input": f"picture-{place}.input.png",
                "embedding": _numbers(golden["image_embeddings"][place]),
            }
        )
    texts = [
        {
            "text": text,
            "tokens": tokens([text])[0].tolist(),
            "embedding": _numbers(golden["text_embeddings"][place]),
        }
        for place, text in enumerate(REFERENCE_TEXTS)
    ]
    document = {
        "encoder": about.encoder.model_dump(mode="json"),
        "encoder_id": about.encoder.id,
        "fill_color": about.fill_color,
        "logit_scale": about.logit_scale,
        "tolerance": TOLERANCE,
        "pictures": pictures,
        "texts": texts,
    }
    files[f"{ENCODER}/vectors.json"] = _json(document)
    return files


def _pixel_table() -> list[dict[str, Any]]:
    table = []
    for mode, interpolation, side in product(MODES, INTERPOLATIONS, SIDES):
        preprocess = Preprocess(
            size=side,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation=interpolation,
            resize_mode=mode,
        )
        pixels = Preprocessing(preprocess, FILL)
        for image in reference_images():
            square = np.ascontiguousarray(pixels.square(image))
            table.append(
                {
                    "width": image.width,
                    "height": image.height,
                    "size": side,
                    "resize_mode": mode,
                    "interpolation": interpolation,
                    "fill_color": FILL,
                    "sha256": hashlib.sha256(square.tobytes()).hexdigest(),
                }
            )
    return table


def _png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _numbers(row: np.ndarray[Any, Any]) -> list[float]:
    return [float(f"{value:.6g}") for value in row.tolist()]


def _json(document: Any) -> bytes:
    """A line for each case and each of its lists, so that a change can be read."""
    text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    for mark in ('{"width"', '{"file"', '{"text"', '"pictures"', '"texts"'):
        text = text.replace(f" {mark}", f"\n{mark}")
    return text.encode("ascii") + b"\n"


if __name__ == "__main__":
    for name, content in vector_files().items():
        path = VECTORS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
