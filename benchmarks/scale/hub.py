"""A hub of as many models as are wanted, made of numbers, of which any can be made alone.

Models come in families, as fine-tunings of one base do; half of a style's variance is the
family's. One of a hundred models is an exact copy of the one before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache

import numpy as np

from benchmarks.scale.spectrum import Spectrum
from gmi_registry.index import ComparabilityKey, IndexedSpec, IndexEntry, SpecStatus
from gmi_registry.index.stored import NewSpec
from gmi_registry.scoring import gram
from gmi_registry.spec import EncoderRef, ModelRef, Preprocess, PromptSet

N, D, GAMMA = 55, 768, 0.02
BLOCK = 1000
FAMILIES = 1000
SHARES = {"one-in-1000": 1000, "one-in-100": 100, "one-in-10": 10}
"""Tags, and of how many models one has each."""

PROMPTS = PromptSet("general", 1, tuple(f"prompt number {number}" for number in range(N)))
ENCODER = EncoderRef(
    name="ViT-L-14",
    pretrained="openai",
    weights_sha256="0" * 64,
    preprocess=Preprocess(
        size=224,
        mean=(0.48, 0.46, 0.41),
        std=(0.27, 0.26, 0.28),
        interpolation="bicubic",
        resize_mode="shortest",
    ),
    image_dim=D,
    text_dim=D,
)
KEY = ComparabilityKey(ENCODER.id, PROMPTS.id, "rbf", GAMMA, 1)
OWNER = SpecStatus(False, "owner")


class MadeHub:
    """Models 0..M-1. The same number gives the same model, whatever M is."""

    def __init__(self, spectrum: Spectrum) -> None:
        self._spectrum = spectrum
        rng = np.random.default_rng(5)
        variance, slope = spectrum.style
        self._content = self._drawn(rng, N, spectrum.content)
        self._families = self._drawn(rng, FAMILIES, (variance / 2, slope))
        self._centre = rng.standard_normal(D, np.float32) * np.float32(0.4)
        self.prompts = rng.standard_normal((N, D)).astype(np.float16)

    @staticmethod
    def _drawn(rng: np.random.Generator, rows: int, power: tuple[float, float]) -> np.ndarray:
        variance, slope = power
        scale = np.arange(1, D + 1, dtype=np.float32) ** np.float32(slope / 2)
        scale *= np.sqrt(variance / np.square(scale).sum())
        return rng.standard_normal((rows, D), np.float32) * scale

    @cache  # noqa: B019
    def _styles(self, block: int) -> np.ndarray:
        rng = np.random.default_rng((7, block))
        variance, slope = self._spectrum.style
        family = (np.arange(BLOCK) + block * BLOCK) * 7919 % FAMILIES
        styles = self._families[family] + self._drawn(rng, BLOCK, (variance / 2, slope))
        styles[99::100] = styles[98::100]
        return styles

    def style(self, number: int) -> np.ndarray:
        """[D]"""
        return np.asarray(self._styles(number // BLOCK)[number % BLOCK])

    def images(self, number: int) -> np.ndarray:
        """[N, D] float16"""
        copied = number - (number % 100 == 99)
        own = self._drawn(np.random.default_rng((11, copied)), N, self._spectrum.own)
        found = own + self._content + (self.style(number) + self._centre)
        return np.asarray(found.astype(np.float16))

    def means(self, block: int) -> np.ndarray:
        """[1000, D] float32: as those of images, drawn without drawing these."""
        variance, slope = self._spectrum.own
        rng = np.random.default_rng((13, block))
        noise = self._drawn(rng, BLOCK, (variance / N, slope))
        noise[99::100] = noise[98::100]
        return self._styles(block) + noise + (self._content.mean(axis=0) + self._centre)

    def queries(self, models: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of ``count`` models, and an image by each of another prompt: [Q], [Q, D]."""
        rng = np.random.default_rng((17, models))
        asked = rng.integers(0, models, count)
        styles = np.stack([self.style(int(number)) for number in asked])
        shown = self._drawn(rng, count, self._spectrum.content)
        own = self._drawn(rng, count, self._spectrum.own)
        return asked, styles + shown + own + self._centre

    def rows(self, start: int, stop: int) -> Iterator[NewSpec]:
        """Whole specifications."""
        for number in range(start, stop):
            images = self.images(number)
            own = gram(images, GAMMA).astype(np.float32, copy=False)
            yield NewSpec(IndexedSpec(entry(number), images, self.prompts, own), OWNER, ENCODER)


def entry(number: int) -> IndexEntry:
    """The metadata of a model."""
    words = [f"tag-{number * step % 1999}" for step in range(1, 8)]
    # Not number % share: copies would be outside of it, or all there is.
    mixed = int.from_bytes(hashlib.sha256(b"tag %d" % number).digest()[:4], "little")
    words += [tag for tag, share in SHARES.items() if mixed % share == 0]
    return IndexEntry(
        ref=ModelRef("hf", f"owner-{number % 997}/model-{number:07}", f"{number:040x}"),
        digest=hashlib.sha256(b"%d" % number).hexdigest(),
        title=f"Model {number}, a title of some words",
        kind=("checkpoint", "lora")[number % 3 > 0],
        tags=tuple(dict.fromkeys(words)),
        base_model=("SDXL 1.0", "SD 1.5", "Flux.1 D")[number % 3],
        url=f"https://example.org/model-{number:07}",
        licence="creativeml-openrail-m",
        nsfw=number % 7 == 0,
        downloads=number * 31 % 100_000,
        encoder=f"{ENCODER.name}/{ENCODER.pretrained}",
        prompt_set=PROMPTS.name,
        prompts=PROMPTS.prompts,
        key=KEY,
    )
