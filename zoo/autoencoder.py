"""The zoo's AutoencoderKL: 64x64 pixels to 16x16x4 latents and back."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch.nn.functional import avg_pool2d

from zoo.pictures import Pictures
from zoo.styles import Pixels
from zoo.training import Plan, Training, device

PLAN = Plan(steps=1600, rate=2e-3, average=0.99)
BATCH = 32
KL_WEIGHT = 5e-7
THUMBNAIL_WEIGHT = 0.1
CELL = 4
"""Pixels a side that one latent stands for."""


def build() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
    )


def pixels_to_input(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 64, 64, 3] to float32 [B, 3, 64, 64] in -1 to 1."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(decoded: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + MSE/2 on pixels, and L1 on their differences, which keeps thin lines sharp."""
    error = decoded - target
    slopes = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() / 2 + slopes / 2


class Thumbnail:
    """Draws the first three latents towards the mean colour of their cell, in principal axes.

    Without it they hold light and dark, blue and orange, and green and purple end as grey: that
    axis is the weakest of the three, so each is given unit variance.
    """

    def __init__(self, data: torch.Tensor) -> None:
        colours = avg_pool2d(pixels_to_input(data), CELL).permute(0, 2, 3, 1).reshape(-1, 3)
        self.mean = colours.mean(dim=0)
        variances, axes = torch.linalg.eigh(torch.cov(colours.T))
        self.axes = axes / variances.sqrt()

    def loss(self, latents: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """MSE between [B, 4, 16, 16] latents' first three and those of [B, 3, 64, 64] pixels."""
        colours = avg_pool2d(target, CELL).permute(0, 2, 3, 1) - self.mean.to(target)
        wanted = (colours @ self.axes.to(target)).permute(0, 3, 1, 2)
        error: torch.Tensor = (latents[:, :3] - wanted).square().mean()
        return error


def train(pictures: Pictures, work: Path) -> AutoencoderKL:
    """The trained autoencoder, its ``scaling_factor`` set so that latents have unit variance."""
    model = build().to(device(), memory_format=torch.channels_last)
    data = torch.from_numpy(pictures.pixels[pictures.present])
    thumbnail = Thumbnail(data[::10])

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randint(len(data), (BATCH,), generator=generator)
        target = pixels_to_input(data[chosen]).to(device(), memory_format=torch.channels_last)
        if torch.rand((), generator=generator) < 0.5:
            target = target.flip(-1)
        with torch.autocast(device().type, dtype=torch.bfloat16):
            posterior = model.encode(target).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device())
            decoded = model.decode(posterior.mean + posterior.std * noise).sample
        divergence: torch.Tensor = posterior.kl().mean()
        return (
            reconstruction_loss(decoded.float(), target)
            + THUMBNAIL_WEIGHT * thumbnail.loss(posterior.mean.float(), target)
            + KL_WEIGHT * divergence
        )

    Training("autoencoder", model, loss, PLAN, seed=1, work=work).run()
    sample = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(2))[:512]]
    spread = encode(model, sample.numpy(), scale=False).std().item()
    model.register_to_config(scaling_factor=1 / spread)
    return model


@torch.no_grad()
def encode(model: AutoencoderKL, pixels: Pixels, *, scale: bool = True) -> torch.Tensor:
    """Posterior means: uint8 [B, 64, 64, 3] to float32 [B, 4, 16, 16]."""
    factor = model.config.scaling_factor if scale else 1.0
    parts = [
        model.encode(pixels_to_input(part).to(device())).latent_dist.mean.cpu() * factor
        for part in torch.split(torch.from_numpy(pixels), 128)
    ]
    return torch.cat(parts)


@torch.no_grad()
def psnr(model: AutoencoderKL, pixels: Pixels) -> float:
    """Peak signal-to-noise ratio in dB over ``pixels``, uint8 [B, 64, 64, 3]."""
    latents = encode(model, pixels, scale=False)
    decoded = torch.cat(
        [model.decode(part.to(device())).sample.cpu() for part in torch.split(latents, 128)]
    )
    error = (decoded.clamp(-1, 1) - pixels_to_input(torch.from_numpy(pixels))).square().mean() / 4
    return float(-10 * torch.log10(error))
