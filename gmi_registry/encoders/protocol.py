"""What an encoder is: two towers, one for images (G) and one for texts (T); and the files of an
exported one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from gmi_registry.spec import EncoderRef

LARGEST_FILE = 2**31 - 1
"""Bytes that one protocol buffer may have."""

ENCODER_NAME = "encoder.json"

FileName = Literal["image.onnx", "text.onnx", "merges.txt", "golden.safetensors"]

LIMITS: dict[str, int] = {
    ENCODER_NAME: 64 * 1024,
    "image.onnx": LARGEST_FILE,
    "text.onnx": LARGEST_FILE,
    "merges.txt": 8 * 1024 * 1024,
    "golden.safetensors": 4 * 1024 * 1024,
}
"""The files, and the most bytes that each may have."""

EXPORT_AGAIN = "export the encoder again: gmi encoder export NAME/PRETRAINED --output DIR"


class Encoder(Protocol):
    """G and T of Eq. 5 and Eq. 6 under one reference, which pins the weights and preprocessing.

    Embeddings are raw (not L2-normalised), unless ``ref.normalized`` says otherwise.
    """

    @property
    def ref(self) -> EncoderRef: ...

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """G: B RGB images to float32 [B, D]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """T: B texts to float32 [B, E]; a text beyond the tokenizer's limit is cut there."""
        ...


@runtime_checkable
class Matched(Protocol):
    """An encoder whose towers were trained to match images and texts."""

    @property
    def logit_scale(self) -> float:
        """What cosines were multiplied with before the softmax, above 0; for CLIP about 100."""
        ...
