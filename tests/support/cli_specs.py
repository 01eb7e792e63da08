"""Specifications and answers made of numbers, for tests that look at output alone."""

from __future__ import annotations

import hashlib

import numpy as np

from gmi_registry.index.entry import (
    ComparabilityKey,
    GroupRanking,
    PromptMatch,
    Ranking,
    SearchHit,
    SkippedSpec,
)
from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    ModelRef,
    Preprocess,
    PromptSet,
    Sampler,
    WeightFile,
    build_spec,
)

PROMPTS = PromptSet("general", 1, ("a cat", "a tree", "a red car", "a castle"))
OTHER_PROMPTS = PromptSet("zoo", 2, ("an apple", "a bell"))
WEIGHTS = b"weights"


def encoder(name="tiny"):
    return EncoderRef(
        name=name,
        pretrained="zoo",
        weights_sha256=hashlib.sha256(name.encode()).hexdigest(),
        preprocess=Preprocess(
            size=32,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            interpolation="bicubic",
            resize_mode="shortest",
        ),
        image_dim=6,
        text_dim=3,
    )


def make_spec(name="flat", *, seed=0, steps=5, encoder_name="tiny", prompts=PROMPTS, **described):
    rng = np.random.default_rng(seed)
    fields = {"title": name.title(), "tags": ("flat", "icons"), "licence": "mit"} | described
    weights = WeightFile(
        path="w.safetensors", size=len(WEIGHTS), sha256=hashlib.sha256(WEIGHTS).hexdigest()
    )
    return build_spec(
        model=DescribedModel(
            **{"hub": "local", "id": name, "kind": "lora", "weights": (weights,)} | fields
        ),
        encoder=encoder(encoder_name),
        prompt_sets=(prompts,),
        recipe=GenerationRecipe(
            sampler=Sampler(name="DDIM"),
            steps=steps,
            guidance_scale=3,
            width=8,
            height=8,
            seeds=(0,),
        ),
        image_embeddings=rng.standard_normal((len(prompts), 6)),
        prompt_embeddings=np.ones((len(prompts), 3)),
        image_prompt=np.arange(len(prompts)),
    )


def key(prompts=PROMPTS):
    return ComparabilityKey(encoder().id, prompts.id, "rbf", 0.02, 1)


def hit(rank, name, distance, margin, *, prompts=PROMPTS, **changes):
    fields = {
        "title": name.title(),
        "tags": ("flat", "icons"),
        "base_model": "zoo/base",
        "kind": "lora",
        "url": f"https://example.org/{name}",
        "licence": "mit",
        "nsfw": False,
        "downloads": None,
        "best_prompts": (PromptMatch(1, "a tree", 0.02), PromptMatch(0, "a cat", 0.01)),
        "digest": "ab" * 32,
        "group": key(prompts),
    }
    return SearchHit(
        rank=rank,
        ref=ModelRef("local", name, "0123456789abcdef"),
        distance=distance,
        margin=margin,
        **(fields | changes),
    )


def group(*hits, prompts=PROMPTS):
    return GroupRanking(key(prompts), prompts.name, "tiny/zoo", len(hits) + 2, hits)


RANKING = group(hit(1, "flat", 0.25, 0.5), hit(2, "oil", 0.75, 0.5), hit(3, "pixel", 1.25, None))
OTHER_RANKING = group(hit(1, "ink", 7.5, None, prompts=OTHER_PROMPTS), prompts=OTHER_PROMPTS)
SKIPPED = SkippedSpec(ModelRef("local", "broken"), "spec.tensors has 12 bytes")


def answer(*groups, skipped=(), looked_at=9, matched=8):
    return Ranking(groups, tuple(skipped), looked_at, matched)
