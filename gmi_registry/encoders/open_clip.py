"""CLIP and its kin through open_clip: float32, no gradients, raw embeddings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from gmi_registry.encoders.weights import fetch_weights, read_layout, sha256_of
from gmi_registry.errors import InputError, OfflineError
from gmi_registry.spec import EncoderRef, Preprocess


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """No gradients, and no TF32, which convolutions on a GPU take by default."""
    with (
        torch.no_grad(),
        torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
    ):
        yield


class OpenClipEncoder:
    """An :class:`~gmi_registry.encoders.Encoder` made of one open_clip model.

    ``model``, ``transform`` (RGB image to float32 [3, S, S]) and ``tokenizer`` (texts to int64
    [B, L]) are open_clip's own, for libraries that build on them. The same batch gives the same
    bytes; the same picture in a batch of another size may differ in the last bits of float32.
    """

    def __init__(
        self,
        ref: EncoderRef,
        model: torch.nn.Module,
        tokenizer: Callable[[list[str]], torch.Tensor],
        *,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"a batch of {batch_size} holds nothing", hint="use 1 or more")
        self._ref = ref
        self.model: Any = model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.transform: Callable[[Image.Image], torch.Tensor] = image_transform_v2(
            PreprocessCfg(**_settings(model)), is_train=False
        )
        self.device = device
        self.batch_size = batch_size

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        name: str,
        pretrained: str,
        *,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> OpenClipEncoder:
        """Load open_clip's ``local-dir:`` layout: configuration as JSON, weights as safetensors.

        ``name`` and ``pretrained`` go into the reference; the digest is taken from the bytes.
        Raises InputError for a folder that is incomplete, malformed, or holds a pickle.
        """
        folder = Path(path)
        config, weights = read_layout(folder)
        location = f"local-dir:{folder}"
        try:
            model = open_clip.create_model(location, precision="fp32", require_pretrained=True)
            # A Hugging Face tokenizer is read from the folder; one that brings code is not run.
            fetched = "hf_tokenizer_name" in config["model_cfg"]["text_cfg"]
            options = {"trust_remote_code": False, "local_files_only": True} if fetched else {}
            tokenizer = open_clip.get_tokenizer(location, **options)
        except Exception as error:  # open_clip asserts, indexes and reshapes what the files say
            raise _cannot_load(str(folder), error) from error
        dim = config["model_cfg"]["embed_dim"]
        ref = _reference(name, pretrained, weights, model, dim)
        return cls(ref, model, tokenizer, device=device, batch_size=batch_size)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        pretrained: str,
        cache_dir: Path | None = None,
        *,
        offline: bool = False,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> OpenClipEncoder:
        """Load one of open_clip's own architectures with one of its weights tags.

        Raises as :func:`gmi_registry.encoders.load_encoder`.
        """
        entry, weights = fetch_weights(name, pretrained, cache_dir, offline=offline)
        config = open_clip.get_model_config(name)
        # SimpleTokenizer, which most use, comes with open_clip; the others are fetched by name.
        fetched = "hf_tokenizer_name" in config["text_cfg"]
        try:
            # A path instead of the tag: open_clip would take a pickle where it finds no
            # safetensors. It then no longer knows the tag's preprocessing, and it never applies
            # the tag's activation (it only warns), so both are handed over: weights trained with
            # QuickGELU give wrong embeddings under plain GELU.
            model = open_clip.create_model(
                name,
                pretrained=str(weights),
                precision="fp32",
                require_pretrained=True,
                force_quick_gelu=bool(entry.get("quick_gelu", False)),
                force_preprocess_cfg=entry,
            )
            tokenizer = open_clip.get_tokenizer(
                name, cache_dir=cache_dir, **({"local_files_only": offline} if fetched else {})
            )
        except OSError as error:
            raise OfflineError(
                f"a part of {name}/{pretrained} could not be fetched: {_one_line(error)}",
                hint="try again with a network, or use another encoder",
            ) from error
        except Exception as error:  # as above
            raise _cannot_load(str(weights), error) from error
        ref = _reference(name, pretrained, weights, model, config["embed_dim"])
        return cls(ref, model, tokenizer, device=device, batch_size=batch_size)

    @property
    def ref(self) -> EncoderRef:
        """Name, weights digest, preprocessing and dimensions."""
        return self._ref

    @property
    def logit_scale(self) -> float:
        """What the model multiplies cosines between images and texts with, from its weights."""
        return float(self.model.logit_scale.detach().float().exp().cpu().reshape(-1)[0])

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """G: B images (converted to RGB where they are not) to float32 [B, D], raw."""
        rows = np.empty((len(images), self._ref.image_dim), dtype=np.float32)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            rows[start : start + len(batch)] = self.encode_pixels(self.pixels(batch))
        return rows

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """What the image tower reads: B images, at least one, to float32 [B, 3, S, S]."""
        stacked = torch.stack([self.transform(image.convert("RGB")) for image in images])
        return np.asarray(stacked.numpy())

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The image tower alone: float32 [B, 3, S, S] to float32 [B, D], raw."""
        rows = np.empty((len(pixels), self._ref.image_dim), dtype=np.float32)
        with full_precision():
            for start in range(0, len(pixels), self.batch_size):
                batch = torch.from_numpy(pixels[start : start + self.batch_size])
                features = self.model.encode_image(batch.to(self.device))
                rows[start : start + len(batch)] = features.float().cpu().numpy()
        return rows

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """T: B texts to float32 [B, E], raw; a text beyond the tokenizer's limit is cut there."""
        rows = np.empty((len(texts), self._ref.text_dim), dtype=np.float32)
        with full_precision():
            for start in range(0, len(texts), self.batch_size):
                batch = list(texts[start : start + self.batch_size])
                features = self.model.encode_text(self.tokenizer(batch).to(self.device))
                rows[start : start + len(batch)] = features.float().cpu().numpy()
        return rows


def _reference(
    name: str, pretrained: str, weights: Path, model: torch.nn.Module, dim: int
) -> EncoderRef:
    try:
        return EncoderRef(
            name=name,
            pretrained=pretrained,
            weights_sha256=sha256_of(weights),
            preprocess=_preprocess(_settings(model)),
            image_dim=dim,
            text_dim=dim,
        )
    except ValueError as error:  # pydantic's ValidationError among them
        raise InputError(
            f"{name}/{pretrained}: no specification can name this encoder: {_one_line(error)}",
            hint="its input must be square, with mean and std for three channels",
        ) from error


def _settings(model: torch.nn.Module) -> dict[str, Any]:
    visual: Any = model.visual
    settings: dict[str, Any] = visual.preprocess_cfg
    return settings


def _preprocess(settings: dict[str, Any]) -> Preprocess:
    size = settings["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise ValueError(f"input of {' x '.join(str(side) for side in size)} pixels")
    return Preprocess(
        size=sides.pop(),
        mean=settings["mean"],
        std=settings["std"],
        interpolation=settings["interpolation"],
        resize_mode=settings["resize_mode"],
    )


def _cannot_load(where: str, error: Exception) -> InputError:
    return InputError(
        f"{where}: open_clip cannot load this encoder: {_one_line(error)}",
        hint="the weights must fit the configuration of the encoder",
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
