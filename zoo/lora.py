"""Sixteen LoRAs, one a style, in the diffusers and peft layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from zoo.autoencoder import encode
from zoo.base import denoising_loss, tokens
from zoo.captions import KINDS, caption, draw_kinds
from zoo.names import trained
from zoo.pictures import Pictures
from zoo.styles import STYLES
from zoo.training import Plan, Training, device

PLAN = Plan(steps=240, rate=3e-3, warmup=10, weight_decay=0.0)
BATCH = 48
RANK = 4
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "time_emb_proj", "conv1", "conv2"]
CAPTION_SHARES = (0.5, 0.4, 0.0, 0.1)
"""Name and style, name alone, style alone, nothing: a LoRA answers in its style, asked or not."""


def train(pictures: Pictures, style: int, base: Path, work: Path | None, folder: Path) -> None:
    """Train the LoRA of ``STYLES[style]`` on the names it may see; write it to ``folder``."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    unet = pipeline.unet.to(device(), memory_format=torch.channels_last).requires_grad_(False)
    torch.manual_seed(100 + style)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    unet.train()
    latents = encode(pipeline.vae.to(device()), pictures.pixels[style, pictures.rows(trained())])
    contexts = contexts_of(pipeline, style).to(device())

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(latents), (BATCH,), generator=generator)
        kinds = torch.tensor(draw_kinds(CAPTION_SHARES, BATCH, generator))
        context = contexts[kinds, chosen]
        batch = latents[chosen].to(device(), memory_format=torch.channels_last)
        return denoising_loss(unet, pipeline.scheduler, batch, context, generator)

    name = f"lora-{STYLES[style].name}"
    Training(name, unet, loss, PLAN, seed=200 + style, work=work).run()
    weights = {
        key: value.detach().cpu().to(torch.float16).contiguous()
        for key, value in get_peft_model_state_dict(unet).items()
    }
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)


@torch.no_grad()
def contexts_of(pipeline: StableDiffusionPipeline, style: int) -> torch.Tensor:
    """Text states of every kind of caption and every trained name: [4, K, 32, 64]."""
    texts = [caption(kind, name, style) for kind in KINDS for name in trained()]
    states = pipeline.text_encoder(tokens(pipeline.tokenizer, texts)).last_hidden_state
    return torch.as_tensor(states).reshape(len(KINDS), len(trained()), *states.shape[1:])
