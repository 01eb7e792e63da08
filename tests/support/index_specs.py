"""Small specifications made of numbers, of encoders that do not exist, and an index of them."""

from __future__ import annotations

import hashlib

import numpy as np

from gmi_registry.index import SpecIndex
from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    Preprocess,
    PromptSet,
    Sampler,
    WeightFile,
    build_spec,
)

DIMENSIONS, TEXT_DIMENSIONS = 8, 5
GENERAL = PromptSet("general", 1, ("a cat", "a tree", "a red car", "a castle"))
OWN = PromptSet("own", 1, ("a dragon", "a knight"))


def encoder_named(name="tiny", image_dim=DIMENSIONS, text_dim=TEXT_DIMENSIONS):
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
        image_dim=image_dim,
        text_dim=text_dim,
    )


def spec_of(
    ref,
    images,
    *,
    encoder,
    weights,
    prompt_sets=(GENERAL,),
    seeds=(0,),
    rows=None,
    prompts_seed=7,
    gamma=0.02,
    recipe=None,
    **described,
):
    """The specification of the model ``ref`` with these ``images`` [N, D], whose prompts are
    ``rows`` [N], by default one after the other; ``weights`` is the digest of the model's file."""
    count = sum(len(prompt_set) for prompt_set in prompt_sets)
    prompts = np.random.default_rng(prompts_seed).uniform(0.1, 1, (count, encoder.text_dim))
    return build_spec(
        model=DescribedModel(
            hub=ref.hub,
            id=ref.id,
            revision=ref.revision,
            weights=(WeightFile(path="w.safetensors", size=1, sha256=weights),),
            **described,
        ),
        encoder=encoder,
        prompt_sets=prompt_sets,
        recipe=GenerationRecipe(
            sampler=Sampler(name="DDIM"),
            steps=5,
            guidance_scale=3.0,
            width=64,
            height=64,
            seeds=seeds,
            **(recipe or {}),
        ),
        image_embeddings=images,
        prompt_embeddings=prompts,
        image_prompt=np.repeat(np.arange(count), len(seeds)) if rows is None else rows,
        **({} if gamma is None else {"gamma": gamma}),
    )


def index_of(*specs):
    """The specifications, taken in one after the other."""
    index = SpecIndex()
    for spec in specs:
        index.add(spec)
    return index


def names(hits):
    """What the models of some hits are called."""
    return [hit.ref.id for hit in hits]


def spec_of_images(make_spec, name, prompts, images):
    """A specification of ``local:NAME`` with these ``images``, one for each of the ``prompts``."""
    made = make_spec(name, prompt_sets=(prompts,))
    return build_spec(
        model=made.manifest.model,
        encoder=made.manifest.encoder,
        prompt_sets=(prompts,),
        recipe=made.manifest.generation.recipe,
        image_embeddings=images,
        prompt_embeddings=made.prompt_embeddings,
        image_prompt=made.image_prompt,
        gamma=0.02,
    )
