"""What an encoder is, the encoders known by name, and the files of an exported one.

An encoder has two towers, one for images (G) and one for texts (T).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.errors import InputError

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


def in_batches(
    items: Sequence[Any] | NDArray[Any],
    dim: int,
    size: int,
    encode: Callable[[Any], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """float32 [B, dim]: what ``encode`` makes of B ``items``, at most ``size`` at a time."""
    rows = np.empty((len(items), dim), dtype=np.float32)
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        rows[start : start + len(batch)] = encode(batch)
    return rows


@runtime_checkable
class Matched(Protocol):
    """An encoder whose towers were trained to match images and texts."""

    @property
    def logit_scale(self) -> float:
        """What cosines were multiplied with before the softmax, above 0; for CLIP about 100."""
        ...


_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


class EncoderName(NamedTuple):
    """What people call an encoder: architecture and weights tag, ``ViT-L-14/openai`` as text.

    ``parse`` and ``str()`` are inverse. An :class:`~gmi_registry.spec.EncoderRef` says which bytes.
    """

    name: str
    pretrained: str

    @classmethod
    def parse(cls, text: str) -> EncoderName:
        """Read ``NAME/PRETRAINED``. Raises InputError for anything else."""
        name, slash, pretrained = text.partition("/")
        if not slash or not _PART.fullmatch(name) or not _PART.fullmatch(pretrained):
            raise InputError(
                f"{text[:120]!r} does not name an encoder",
                hint=f"write NAME/PRETRAINED, such as {DEFAULT_ENCODER}",
            )
        return cls(name, pretrained)

    def __str__(self) -> str:
        return f"{self.name}/{self.pretrained}"


@dataclass(frozen=True)
class KnownEncoder:
    """One row: ``dim`` is D = E; ``parameters`` are in millions, each 4 bytes in memory."""

    name: EncoderName
    dim: int
    parameters: int
    note: str


DEFAULT_ENCODER = EncoderName("ViT-L-14", "openai")
"""The encoder of a model whose card names no other."""

KNOWN_ENCODERS: tuple[KnownEncoder, ...] = (
    KnownEncoder(DEFAULT_ENCODER, 768, 428, "the default; what clip-interrogator uses too"),
    KnownEncoder(EncoderName("ViT-B-32", "laion2b_s34b_b79k"), 512, 151, "small and quick"),
    KnownEncoder(EncoderName("ViT-B-16", "laion2b_s34b_b88k"), 512, 150, "small, finer patches"),
    KnownEncoder(EncoderName("ViT-L-14", "datacomp_xl_s13b_b90k"), 768, 428, "newer data"),
    KnownEncoder(EncoderName("ViT-H-14", "laion2b_s32b_b79k"), 1024, 986, "large"),
)
"""Encoders worth naming. Any other that open_clip lists with safetensors weights loads as well."""
