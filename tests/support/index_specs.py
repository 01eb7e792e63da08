"""What the specifications of these tests share: prompt sets, encoders that do not exist, and
an index of them."""

from __future__ import annotations

import hashlib

from gmi_registry.index import SpecIndex
from gmi_registry.spec import EncoderRef, Preprocess, PromptSet, build_spec

DIMENSIONS, TEXT_DIMENSIONS = 8, 5
GENERAL = PromptSet("general", 1, ("a cat", "a tree", "a red car", "a castle"))
OWN = PromptSet("own", 1, ("a dragon", "a knight"))


def encoder_named(name="tiny"):
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
        image_dim=DIMENSIONS,
        text_dim=TEXT_DIMENSIONS,
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
