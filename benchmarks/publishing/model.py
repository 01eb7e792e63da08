"""A model with random weights whose steps take real time, on a hub, and a CLIP to go with it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.hubs.local import LocalHub
from gmi_registry.spec import EncoderRef, ModelRef, Preprocess

REF = ModelRef("local", "plain")
_CONTEXT = 77
_WIDTHS = (64, 128, 256)
_FACTOR = 8
"""Pixels a latent, as in Stable Diffusion."""


def make_hub(folder: Path, side: int) -> LocalHub:
    """A hub with one model of ``side`` x ``side`` pixels, whose U-Net has 13 million parameters."""
    hub = LocalHub.create(folder / "hub", cache_dir=folder / "cache")
    place = hub.root / "models" / REF.id
    if not place.exists():
        _pipeline(side, folder / "vocabulary").save_pretrained(place)
        (place / "README.md").write_text("---\ntags: [plain]\nlicense: cc0-1.0\n---\n# Plain\n")
    return hub


def make_encoder(name: str) -> OpenClipEncoder:
    """One of open_clip's architectures, with random weights and no file of them."""
    torch.manual_seed(1)
    model = open_clip.create_model(name, pretrained=None, precision="fp32")
    settings = model.visual.preprocess_cfg
    side, *_ = settings["size"]
    dim = open_clip.get_model_config(name)["embed_dim"]
    ref = EncoderRef(
        name=name,
        pretrained="random",
        weights_sha256="0" * 64,
        preprocess=Preprocess(
            size=side,
            mean=settings["mean"],
            std=settings["std"],
            interpolation=settings["interpolation"],
            resize_mode=settings["resize_mode"],
        ),
        image_dim=dim,
        text_dim=dim,
    )
    return OpenClipEncoder(ref, model, open_clip.get_tokenizer(name))


def _pipeline(side: int, vocabulary: Path) -> Any:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=side // _FACTOR,
        layers_per_block=1,
        block_out_channels=_WIDTHS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=256,
        attention_head_dim=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        sample_size=side,
    )
    tokenizer = _tokenizer(vocabulary)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=256,
            intermediate_size=1024,
            num_hidden_layers=4,
            num_attention_heads=8,
            max_position_embeddings=_CONTEXT,
            projection_dim=256,
            bos_token_id=len(tokenizer) - 2,
            eos_token_id=len(tokenizer) - 1,
            pad_token_id=len(tokenizer) - 1,
        )
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's own, of the vocabulary that open_clip ships."""
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    words = open_clip.SimpleTokenizer().encoder
    merges = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")[1:48895]
    known = {
        word: row
        for row, word in enumerate([*list(words)[:-2], "<|startoftext|>", "<|endoftext|>"])
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(known), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=_CONTEXT,
        pad_token="<|endoftext|>",
    )
