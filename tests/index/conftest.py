"""Small specifications made of numbers, without any model."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from gmi_registry.scoring import Query
from gmi_registry.spec import ModelRef
from tests.support.index_specs import (
    DIMENSIONS,
    GENERAL,
    TEXT_DIMENSIONS,
    encoder_named,
    spec_of,
)


@pytest.fixture
def make_spec():
    """A specification of ``local:NAME``, whose images lie around ``centre``."""

    def make(
        name,
        *,
        centre=None,
        seed=None,
        prompt_sets=(GENERAL,),
        seeds=(0,),
        encoder=None,
        gamma=0.02,
        prompts_seed=7,
        shuffle=False,
        **described,
    ):
        words = hashlib.sha256(name.encode()).digest()
        rng = np.random.default_rng(int.from_bytes(words[:4]) if seed is None else seed)
        count = sum(len(prompt_set) for prompt_set in prompt_sets)
        centre = 3 * rng.standard_normal(DIMENSIONS) if centre is None else np.asarray(centre)
        rows = np.repeat(np.arange(count), len(seeds))
        images = centre + rng.standard_normal((len(rows), DIMENSIONS))
        if shuffle:
            order = rng.permutation(len(GENERAL) * len(seeds))
            images[: len(order)], rows[: len(order)] = images[order], rows[order]
        details = {
            "title": name.title(),
            "url": f"https://example.org/{name}",
            "kind": "lora",
            "base_model": "Owner/Base",
            "tags": ("icon",),
            "licence": "mit",
        } | described
        return spec_of(
            ModelRef("local", name, "0123456789ab"),
            images,
            encoder=encoder or encoder_named(),
            weights=words.hex(),
            prompt_sets=prompt_sets,
            seeds=seeds,
            rows=rows,
            prompts_seed=prompts_seed,
            gamma=gamma,
            **details,
        )

    return make


@pytest.fixture
def ask():
    """A query of the given image embeddings [B, D], by default one at the origin."""

    def make(images=None, *, prompt="a cat", encoder=None):
        images = np.zeros((1, DIMENSIONS)) if images is None else np.atleast_2d(images)
        return Query(
            image_embeddings=images.astype(np.float32),
            prompt_embeddings=np.ones((len(images), TEXT_DIMENSIONS), np.float32),
            pseudo_prompts=(prompt,) * len(images),
            interrogator="none" if prompt is None else "phrases",
            encoder_id=(encoder or encoder_named()).id,
        )

    return make
