"""Two pretrained towers that know nothing of each other: one for pictures, one for texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from gmi_registry.encoders.open_clip import full_precision
from gmi_registry.errors import InputError
from gmi_registry.spec import Preprocess

__all__ = ["ImageTower", "TextTower"]

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
        rows = np.empty((len(images), self.dim), np.float32)
        side = (self.preprocess.size, self.preprocess.size)
        mean = np.array(self.preprocess.mean, np.float32)
        std = np.array(self.preprocess.std, np.float32)
        with full_precision():
            for start in range(0, len(images), _BATCH):
                part = [
                    np.asarray(image.convert("RGB").resize(side, Image.Resampling.BICUBIC))
                    for image in images[start : start + _BATCH]
                ]
                pixels = (np.stack(part).astype(np.float32) / 255 - mean) / std
                batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
                features = self._model(batch.to(self._device))
                rows[start : start + len(part)] = features.float().cpu().numpy()
        return rows


class TextTower:
    """A BERT whose token embeddings are averaged, as MiniLM's sentence embeddings are."""

    longest = 256
    """Tokens of the longest text that is read whole."""

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        """Read ``config.json``, ``model.safetensors`` and ``tokenizer.json`` of ``folder``.

        Raises InputError where one is missing or they do not fit each other.
        """
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
        rows = np.empty((len(texts), self.dim), np.float32)
        with full_precision():
            for start in range(0, len(texts), _BATCH):
                part = self._tokenizer.encode_batch(list(texts[start : start + _BATCH]))
                ids = torch.tensor([row.ids for row in part], device=self._device)
                real = torch.tensor([row.attention_mask for row in part], device=self._device)
                tokens = self._model(input_ids=ids, attention_mask=real).last_hidden_state
                kept = real[:, :, None].to(tokens.dtype)
                means = (tokens * kept).sum(1) / kept.sum(1).clamp(min=1)
                rows[start : start + len(part)] = means.float().cpu().numpy()
        return rows


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
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return InputError(
        f"{where}: no {what} can be loaded from here: {reason}",
        hint="pip install --force-reinstall 'gmi-registry[bench-encoder]'",
    )
