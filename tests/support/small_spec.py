"""A small specification, built by hand, that the tests of this folder change one thing in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    Preprocess,
    PromptSet,
    Sampler,
    Spec,
    WeightFile,
)

MakeSpec = Callable[..., Spec]


def parts() -> dict[str, Any]:
    """Arguments of build_spec: 2 prompts, 2 seeds, D = 4, E = 3."""
    rng = np.random.default_rng(0)
    return {
        "model": DescribedModel(
            hub="hf",
            id="someone/model",
            revision="0123abc",
            title="A model",
            kind="lora",
            weights=(WeightFile(path="lora.safetensors", size=3, sha256="1" * 64),),
        ),
        "encoder": EncoderRef(
            name="ViT-X",
            pretrained="none",
            weights_sha256="2" * 64,
            preprocess=Preprocess(
                size=32,
                mean=(0.5, 0.5, 0.5),
                std=(0.25, 0.25, 0.25),
                interpolation="bicubic",
                resize_mode="shortest",
            ),
            image_dim=4,
            text_dim=3,
        ),
        "prompt_sets": [PromptSet("default", 1, ("a cat", "a dog"))],
        "recipe": GenerationRecipe(
            sampler=Sampler(name="DDIMScheduler", config={"beta_start": 0.00085}),
            steps=5,
            guidance_scale=2,
            width=64,
            height=64,
            seeds=(0, 1),
            libraries={"diffusers": "1"},
        ),
        "image_embeddings": rng.normal(size=(4, 4)),
        "prompt_embeddings": rng.normal(size=(2, 3)),
        "image_prompt": [0, 0, 1, 1],
    }
