"""The three works that are compared: two bare loops, and publishing as ``gmi-publish`` does it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from PIL import Image

from benchmarks.publishing.model import REF, make_encoder, make_hub
from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.generation import (
    RecipeOverrides,
    default_prompt_set,
    default_recipe,
    load_pipeline,
    noise_seed,
)
from gmi_registry.hubs.local import LocalHub
from gmi_registry.model import ModelFiles
from gmi_registry.publish import PublishRequest, publish
from gmi_registry.spec import GenerationRecipe, PromptSet

PLACES = ("a harbour", "a forest", "a kitchen", "a market", "a desert", "a station", "a library")
THINGS = ("red", "old", "tiny", "wooden", "broken", "golden", "quiet", "striped", "round", "wet")
KINDS = ("cat", "bicycle", "lamp", "boat", "teapot", "violin", "chair", "clock", "ladder")


class Cost(NamedTuple):
    """Of drawing and what follows, not of loading: seconds by the clock and of all processors."""

    seconds: float
    processor: float


@dataclass(frozen=True)
class Setting:
    """What is drawn and how: ``side`` in pixels, ``prompts`` at least the default ones."""

    folder: Path
    side: int
    steps: int
    batch: int
    prompts: int
    encoder: str


class Works:
    """All three on one model; each draws every prompt once, from the same noise."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._overrides = RecipeOverrides(steps=setting.steps, batch_size=setting.batch)
        self.hub: LocalHub = make_hub(setting.folder, setting.side)
        self.model: ModelFiles = self.hub.fetch_model(REF)
        self.encoder: OpenClipEncoder = make_encoder(setting.encoder)

    @cached_property
    def pipeline(self) -> Any:
        return load_pipeline(self.model)

    @cached_property
    def recipe(self) -> GenerationRecipe:
        return default_recipe(self.pipeline, self.model, self._overrides)

    @cached_property
    def own(self) -> PromptSet | None:
        """As many as are wanted beyond the default ones."""
        wanted = self._setting.prompts - len(default_prompt_set(self.model))
        every = itertools.product(THINGS, KINDS, PLACES)
        some = tuple(f"a {it} {kind} in {place}" for it, kind, place in every)[: max(0, wanted)]
        return PromptSet("more", 1, some) if some else None

    def bare(self) -> Cost:
        """A loop over the pipeline, as in its documentation; pictures are dropped."""
        began = _now()
        for _ in self._drawn():
            pass
        return _since(began)

    def encoded(self) -> Cost:
        """The same loop, then every picture encoded by itself, and the prompts."""
        began = _now()
        images = list(itertools.chain.from_iterable(self._drawn()))
        for image in images:
            self.encoder.encode_images([image])
        self.encoder.encode_texts(self._prompts())
        return _since(began)

    def published(self) -> Cost:
        """Everything that follows the checks: pictures, batch cache, embeddings, preview, files."""
        began: list[Cost] = []

        def told(stage: str, done: int, total: int) -> None:
            if stage == "check" and done == total:
                began.append(_now())

        with TemporaryDirectory(dir=self._setting.folder) as scratch:
            request = PublishRequest(
                REF,
                encoder=self.encoder,
                prompts=self.own,
                overrides=self._overrides,
                work=Path(scratch) / "work",
                output=Path(scratch) / "out",
            )
            publish(request, self.hub, progress=told)
            return _since(began[0])

    def _prompts(self) -> list[str]:
        default = default_prompt_set(self.model).prompts
        return [*default, *(() if self.own is None else self.own.prompts)]

    def _drawn(self) -> Iterator[list[Image.Image]]:
        blocks: list[Sequence[str]] = [default_prompt_set(self.model).prompts]
        if self.own is not None:
            blocks.append(self.own.prompts)
        size = self._setting.batch
        for block in blocks:
            for start in range(0, len(block), size):
                prompts = list(block[start : start + size])
                seeds = [torch.Generator().manual_seed(noise_seed(text, 0)) for text in prompts]
                yield self.pipeline(
                    prompts,
                    generator=seeds,
                    num_inference_steps=self.recipe.steps,
                    guidance_scale=self.recipe.guidance_scale,
                    width=self.recipe.width,
                    height=self.recipe.height,
                ).images


def _now() -> Cost:
    return Cost(time.perf_counter(), time.process_time())


def _since(began: Cost) -> Cost:
    now = _now()
    return Cost(now.seconds - began.seconds, now.processor - began.processor)
