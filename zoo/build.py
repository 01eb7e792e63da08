"""The parts of the zoo in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from zoo import autoencoder, base, encoder, lora
from zoo.pictures import Pictures
from zoo.styles import STYLES

WEIGHTS = Path(__file__).parent / "weights"
BASE = WEIGHTS / "base"
ENCODER = WEIGHTS / "encoder"


def build_autoencoder(pictures: Pictures, work: Path) -> None:
    model = autoencoder.train(pictures, work)
    sample = pictures.pixels[:, ::20].reshape(-1, *pictures.pixels.shape[2:])
    print(f"autoencoder: PSNR {autoencoder.psnr(model, sample):.1f} dB", flush=True)
    model.save_pretrained(work / "vae")


def build_encoder(pictures: Pictures, work: Path) -> None:
    encoder.save(encoder.train(pictures, work), ENCODER)


def build_base(pictures: Pictures, work: Path) -> None:
    vae = autoencoder.AutoencoderKL.from_pretrained(work / "vae", torch_dtype=torch.float32)
    base.train(pictures, vae, work, BASE)


def build_loras(pictures: Pictures, work: Path) -> None:
    for row, style in enumerate(STYLES):
        folder = WEIGHTS / "loras" / style.name
        if not (folder / "pytorch_lora_weights.safetensors").exists():
            lora.train(pictures, row, BASE, work, folder)


PARTS: dict[str, Callable[[Pictures, Path], None]] = {
    "autoencoder": build_autoencoder,
    "encoder": build_encoder,
    "base": build_base,
    "loras": build_loras,
}
