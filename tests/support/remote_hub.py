"""Models with specifications on a loopback hub, as their authors would have published them."""

from __future__ import annotations

from gmi_registry.spec import DescribedModel, encode_spec
from tests.support.hub_builder import ProjectionEncoder, painted_spec, weight_file

COLOURS = {"blue": (20, 30, 230), "green": (30, 200, 40), "red": (240, 20, 10)}
WEIGHTS = "w.safetensors"


class Author:
    """Publishes on ``hub``, with one encoder for all."""

    def __init__(self, hub):
        self.hub = hub
        self.encoder = ProjectionEncoder()

    def spec_files(self, name, colour, weights, tags=("anime",), **described):
        """The two files for ``hf:owner/NAME``."""
        model = DescribedModel(
            hub="hf",
            id=f"owner/{name}",
            title=name.title(),
            tags=tuple(tags),
            weights=(weight_file(weights, WEIGHTS),),
            **{"kind": "lora"} | described,
        )
        spec = painted_spec(model, colour, encoder=self.encoder)
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
