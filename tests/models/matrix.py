"""What is tried of each architecture, and what is right: the tests and docs/models.md read this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["MATRIX", "Row"]

SingleFile = Literal["whole", "network"]


@dataclass(frozen=True)
class Row:
    """One architecture.

    ``guidance`` and ``true_cfg`` say whether such a scale has an effect, ``negative`` whether a
    negative prompt can have one, ``clip_skip`` whether layers of the text encoder can be left out.
    ``reads`` is how many tokens of a prompt are read, ``words_around`` what of them the pipeline's
    own words take with the tiny tokenizers. ``single_file`` is what such a file holds where people
    share one: the whole model, or the network alone. ``steps`` are the fewest that show something.
    """

    title: str
    reads: int
    guidance: bool = True
    true_cfg: bool = False
    negative: bool = True
    clip_skip: bool = False
    lora: bool = True
    single_file: SingleFile | None = None
    steps: int = 2
    more_steps: int | None = 3
    scheduler: bool = True
    note: str = ""


_FLOW = "sampled with flow matching"

MATRIX: dict[str, Row] = {
    "sd15": Row("Stable Diffusion 1.5", 77, clip_skip=True, single_file="whole"),
    "sd2": Row("Stable Diffusion 2 (epsilon)", 77, clip_skip=True, single_file="whole"),
    "sd2-v": Row("Stable Diffusion 2 (v-prediction)", 77, clip_skip=True, single_file="whole"),
    "lcm": Row("Latent Consistency Models", 77, negative=False, clip_skip=True),
    "sdxl": Row("Stable Diffusion XL", 77, clip_skip=True, single_file="whole"),
    "sd3": Row("Stable Diffusion 3", 256, clip_skip=True, single_file="whole"),
    "sd3.5": Row("Stable Diffusion 3.5", 256, clip_skip=True, single_file="whole"),
    "flux1-dev": Row("FLUX.1 dev, Krea", 512, true_cfg=True, single_file="network"),
    "flux1-schnell": Row(
        "FLUX.1 schnell", 512, guidance=False, true_cfg=True, single_file="network"
    ),
    "flux2-dev": Row("FLUX.2 dev", 512, negative=False, single_file="network"),
    "flux2-klein": Row(
        "FLUX.2 klein (distilled)", 512, guidance=False, negative=False, single_file="network"
    ),
    "flux2-klein-base": Row("FLUX.2 klein base", 512, negative=False, single_file="network"),
    "chroma": Row("Chroma", 512, single_file="network"),
    "pixart-alpha": Row("PixArt-alpha", 120, lora=False),
    "pixart-sigma": Row("PixArt-Sigma", 300, lora=False),
    "sana": Row("Sana", 300, single_file="network"),
    "sana-sprint": Row("Sana Sprint", 300, negative=False, more_steps=None),
    "auraflow": Row("AuraFlow", 256, single_file="network"),
    "lumina2": Row("Lumina Image 2.0", 256, single_file="network"),
    "hidream": Row("HiDream-I1", 128, single_file="network"),
    "hunyuandit": Row("Hunyuan-DiT", 256, lora=False),
    "kolors": Row("Kolors", 256),
    "cogview4": Row("CogView4", 1024),
    "cogview3plus": Row("CogView3-Plus", 224, lora=False),
    "qwen-image": Row("Qwen-Image", 512, guidance=False, true_cfg=True, single_file="network"),
    "z-image": Row("Z-Image, Z-Image-Turbo", 512, single_file="network"),
    "kandinsky3": Row("Kandinsky 3", 128, lora=False),
    "kandinsky2.2": Row("Kandinsky 2.2 (prior and decoder)", 77, lora=False),
    "deepfloyd-if": Row("DeepFloyd IF (first stage)", 77),
}
