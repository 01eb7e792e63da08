"""One of the zoo's models as a single file: base and LoRA merged, in the original key layout.

The layout is the one of the first Stable Diffusion releases, which model hubs still use for
files that hold a whole model. Diffusers reads it and does not write it; this module turns the
parts' keys back and lets diffusers prove the result by loading it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def merge(base: Path, lora: Path, target: Path) -> None:
    """Write the model of ``lora`` on ``base`` as one float16 file."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    pipeline.load_lora_weights(lora, weight_name="pytorch_lora_weights.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    parts = {
        "model.diffusion_model.": dict(unet_keys(pipeline.unet)),
        "first_stage_model.": dict(vae_keys(pipeline.vae)),
        "cond_stage_model.transformer.": dict(text_keys(pipeline.text_encoder)),
    }
    tensors = {
        prefix + key: value.detach().to(torch.float16).contiguous()
        for prefix, part in parts.items()
        for key, value in part.items()
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata={"format": "pt"})


def text_keys(text_encoder: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for key, value in text_encoder.state_dict().items():
        yield key if key.startswith("text_model.") else f"text_model.{key}", value


def unet_keys(unet: UNet2DConditionModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Diffusers' names of the blocks are by level; the original counts them in one row."""
    layers = int(unet.config.layers_per_block)
    for key, value in unet.state_dict().items():
        yield _unet_key(key, layers), value


def _unet_key(key: str, layers: int) -> str:
    for ours, theirs in _UNET_TOP.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    part, *rest = key.split(".")
    if part == "mid_block":
        kind, number, inner = rest[0], int(rest[1]), ".".join(rest[2:])
        place = 2 * number if kind == "resnets" else 2 * number + 1
        return f"middle_block.{place}.{_inner(kind, inner)}"
    level, kind, number, inner = int(rest[0]), rest[1], int(rest[2]), ".".join(rest[3:])
    if part == "down_blocks":
        first = level * (layers + 1) + 1
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{inner.split('.', 1)[1]}"
        return f"input_blocks.{first + number}.{int(kind == 'attentions')}.{_inner(kind, inner)}"
    first = level * (layers + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{_UPSAMPLER_PLACE[level]}.{inner}"
    return f"output_blocks.{first + number}.{int(kind == 'attentions')}.{_inner(kind, inner)}"


_UPSAMPLER_PLACE = {0: 2}
"""Behind a resnet and an attention; the zoo's UNet goes up once, in a block that has both."""


def _inner(kind: str, inner: str) -> str:
    if kind != "resnets":
        return inner
    name, rest = inner.split(".", 1)
    return f"{_RESNET[name]}.{rest}"


def vae_keys(vae: AutoencoderKL) -> Iterator[tuple[str, torch.Tensor]]:
    levels = len(vae.config.block_out_channels)
    for key, value in vae.state_dict().items():
        new = _vae_key(key, levels)
        attention = ".attn_1." in new and value.ndim == 2
        # The original attention is a 1x1 convolution, where diffusers has a linear layer.
        yield new, value[:, :, None, None] if attention else value


def _vae_key(key: str, levels: int) -> str:
    swaps = [
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
        ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
        ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
    ]
    for level in range(levels):
        swaps += [
            (f"down_blocks.{level}.downsamplers.0", f"down.{level}.downsample"),
            (f"down_blocks.{level}.resnets", f"down.{level}.block"),
            (f"up_blocks.{level}.upsamplers.0", f"up.{levels - 1 - level}.upsample"),
            (f"up_blocks.{level}.resnets", f"up.{levels - 1 - level}.block"),
        ]
    for ours, theirs in swaps:
        key = key.replace(ours, theirs)
    return key
