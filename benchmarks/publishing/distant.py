"""What publishing costs where the drawing leaves the processor free, as on a GPU.

    python -m benchmarks.publishing.distant [--draw .25] [--tower .003] [--side 512]

No GPU is used: a call of the pipeline and one of the encoder's towers wait for so many seconds a
picture or text and give made-up numbers. All else is that of ``gmi-publish`` and takes the time
that it takes. The bare loop waits for the same calls, and makes pictures of the numbers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.publishing.work import Setting, Works
from gmi_registry import generation

_KINDS = 8
"""Pictures that differ; they come in turn."""


class DistantPipeline:
    """A pipeline in all but its calls, which wait ``seconds`` a picture."""

    def __init__(self, pipeline: Any, seconds: float, side: int) -> None:
        self._pipeline = pipeline
        self._seconds = seconds
        self._pixels = np.stack([_pixels(number, side) for number in range(_KINDS)])
        self._made = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __call__(
        self,
        prompt: list[str],
        generator: list[torch.Generator],
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        width: int | None = None,
        height: int | None = None,
        output_type: str = "pil",
    ) -> SimpleNamespace:
        # The device's part of the work: what is measured is all the rest, beside it.
        time.sleep(self._seconds * len(prompt))
        drawn = self._pixels[np.arange(len(prompt)) % _KINDS]
        for image in drawn:
            # No two are the same: those of a broken model are, and refused.
            self._made += 1
            image[0, :8] = (self._made >> np.arange(8)[:, None] & 1) * 0.5
        return SimpleNamespace(images=drawn if output_type == "np" else _pictures(drawn))


def _pixels(number: int, side: int) -> NDArray[np.float32]:
    """[side, side, 3] in 0..1: noise at five scales, which PNG packs as it packs a photograph."""
    source = np.random.default_rng(number)
    found = np.zeros((side, side, 3), np.float32)
    for scale in (2, 4, 8, 16, 32):
        few = (source.random((side // scale, side // scale, 3)) * 255).astype(np.uint8)
        wide = Image.fromarray(few).resize((side, side), Image.Resampling.BICUBIC)
        found += np.asarray(wide, np.float32) / 255 * scale / 62
    return found


def _pictures(pixels: NDArray[np.float32]) -> list[Image.Image]:
    return [Image.fromarray(one) for one in (pixels * 255).round().astype(np.uint8)]


def distant_towers(encoder: Any, seconds: float) -> None:
    """Let ``encoder`` wait for both of its towers ``seconds`` a picture or text."""

    def waited(batch: torch.Tensor) -> torch.Tensor:
        # The device's part of the work again, here a tower's.
        time.sleep(seconds * len(batch))
        return torch.ones(len(batch), encoder.ref.image_dim)

    encoder.model.encode_image = encoder.model.encode_text = waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", type=float, default=0.25, help="seconds a picture")
    parser.add_argument("--tower", type=float, default=0.003, help="seconds a picture or text")
    parser.add_argument("--side", type=int, default=512, help="of a picture, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        works = Works(Setting(Path(folder), arguments.side, 25, 4, 55, "ViT-B-32"))
        distant_towers(works.encoder, arguments.tower)
        works.pipeline = DistantPipeline(works.pipeline, arguments.draw, arguments.side)
        loaded = generation.LoadedModel(works.pipeline)
        generation.load_model = lambda *_, **__: loaded
        found = [(works.bare(), works.published()) for _ in range(arguments.rounds)]
    for name, costs in zip(("bare", "published"), zip(*found, strict=True), strict=True):
        seconds = statistics.median(cost.seconds for cost in costs)
        print(f"{name}: {55 / seconds:.2f} images a second, {seconds / 55 * 1e3:.0f} ms an image")
    shares = [bare.seconds / ours.seconds for bare, ours in found]
    print(f"ratio {statistics.median(shares):.3f}, from {min(shares):.3f} to {max(shares):.3f}")


if __name__ == "__main__":
    main()
