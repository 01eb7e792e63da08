"""Sixteen LoRAs, one a style, in the diffusers and peft layout."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from zoo.autoencoder import encode
from zoo.base import denoising_loss, tokens
from zoo.captions import EMPTY, NAME_ONLY, caption, draw_kinds
from zoo.names import trained
from zoo.pictures import Pictures
from zoo.styles import STYLES
from zoo.training import Plan, Training, device

PLAN = Plan(steps=160, rate=3e-3, warmup=10, weight_decay=0.0)
BATCH = 48
RANK = 4
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "time_emb_proj", "conv1", "conv2"]
CAPTION_SHARES = (0.0, 0.9, 0.0, 0.1)
"""Name alone or nothing: a LoRA answers in its style without being asked for it."""


def train(pictures: Pictures, style: int, base: Path, work: Path | None, folder: Path) -> None:
    """Train the LoRA of ``STYLES[style]`` on the names it may see; write it to ``folder``."""
    pipeline = StableDiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    unet = pipeline.unet.to(device(), memory_format=torch.channels_last).requires_grad_(False)
    torch.manual_seed(100 + style)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))
    unet.train()
    latents = encode(pipeline.vae.to(device()), pictures.pixels[style, pictures.rows(trained())])
    contexts = contexts_of(pipeline)

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(latents), (BATCH,), generator=generator)
        named = torch.tensor(draw_kinds(CAPTION_SHARES, BATCH, generator)) == NAME_ONLY
        context = contexts[torch.where(named, chosen, len(contexts) - 1)].to(device())
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
def contexts_of(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    """Text states of every trained name, then of the empty caption: [K + 1, 32, 64]."""
    texts = [caption(NAME_ONLY, name, 0) for name in trained()] + [caption(EMPTY, "", 0)]
    states = pipeline.text_encoder(tokens(pipeline.tokenizer, texts)).last_hidden_state
    return torch.as_tensor(states)
