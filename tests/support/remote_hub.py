"""Models with specifications on a loopback hub, as their authors would have published them."""

from __future__ import annotations

import hashlib

import numpy as np

from gmi_registry.spec import DescribedModel, WeightFile, build_spec, encode_spec
from tests.support.hub_builder import PROMPTS, RECIPE, ProjectionEncoder, picture

COLOURS = {"blue": (20, 30, 230), "green": (30, 200, 40), "red": (240, 20, 10)}
WEIGHTS = "w.safetensors"


class Author:
    """Publishes on ``hub``, with one encoder for all."""

    def __init__(self, hub):
        self.hub = hub
        self.encoder = ProjectionEncoder()

    def spec_files(self, name, colour, weights, tags=("anime",), **described):
        """The two files for ``hf:owner/NAME``."""
        images = [picture(colour, seed) for seed in range(len(PROMPTS))]
        digest = hashlib.sha256(weights).hexdigest()
        spec = build_spec(
            model=DescribedModel(
                hub="hf",
                id=f"owner/{name}",
                title=name.title(),
                tags=tuple(tags),
                weights=(WeightFile(path=WEIGHTS, size=len(weights), sha256=digest),),
                **{"kind": "lora"} | described,
            ),
            encoder=self.encoder.ref,
            prompt_sets=[PROMPTS],
            recipe=RECIPE,
            image_embeddings=self.encoder.encode_images(images),
            prompt_embeddings=self.encoder.encode_texts(PROMPTS.prompts),
            image_prompt=np.arange(len(PROMPTS)),
        )
        manifest, tensors = encode_spec(spec)
        return {"gmi/spec.json": manifest, "gmi/spec.tensors": tensors}

    def publish(self, name, colour=None, *, tags=("anime",), **settings):
        """A LoRA with its specification; returns its id."""
        weights = name.encode()
        card = f"---\ntags: [{', '.join(('gmi-spec', *tags))}]\n---\n# {name}\n"
        files = {WEIGHTS: weights, "README.md": card.encode()}
        files |= self.spec_files(name, colour or COLOURS[name], weights, tags)
        self.hub.add_repo(f"owner/{name}", files, **settings)
        return f"owner/{name}"
