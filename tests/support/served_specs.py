"""Random specifications of several hubs, and an index of them."""

from __future__ import annotations

import numpy as np

from gmi_registry.filters import Filters
from gmi_registry.index import SpecIndex, SpecSource, SpecStatus
from gmi_registry.index.qdrant import serve_into
from gmi_registry.scoring import Query
from gmi_registry.spec import LoraPartial, ModelRef, PromptSet
from tests.support import index_specs
from tests.support.index_specs import spec_of

DIMENSIONS, TEXT_DIMENSIONS, SEEDS = 12, 5, (0, 1)
PROMPTS = PromptSet("general", 1, ("a cat", "a tree", "a red car", "a castle", "a boat"))
STATUSES = (
    SpecStatus(False, "owner"),
    SpecStatus(True, "verified"),
    SpecStatus(None, "self-published"),
    SpecStatus(False),
)


def encoder_named(name="tiny", dimensions=DIMENSIONS):
    return index_specs.encoder_named(name, dimensions)


def make_spec(number, *, spread=1.0, content=0, versions=2, **described):
    """Number 0, 3, 6, ... lies on hf, 1, 4, ... on civitai with ``versions`` of each model, 2, 5,
    ... in a local hub; ``content`` changes the images and nothing else."""
    rng = np.random.default_rng((number, content))
    hub = ("hf", "civitai", "local")[number % 3]
    identifier, revision = {
        "hf": (f"owner/m{number}", "a" * 40),
        "civitai": (str(100 + number // (3 * versions)), str(1000 + number)),
        "local": (f"m{number}", "0123456789ab"),
    }[hub]
    details = {
        "title": f"Model {number}",
        "url": f"https://example.org/{number}" if number % 4 else None,
        "kind": ("lora", "checkpoint", "lora", "single-file")[number % 4],
        "base_model": ("Owner/Base", "SDXL 1.0", None)[number // 2 % 3],
        "tags": (("Icon", "Straße"), ("icon", "anime"), ())[number // 3 % 3],
        "licence": "mit" if number % 3 else None,
        "nsfw": number % 5 == 0,
        "downloads": number if number % 2 else None,
    } | described
    rows = len(PROMPTS) * len(SEEDS)
    # A large part that all images share, as raw embeddings of a real encoder have it.
    centre = 50 + spread * rng.standard_normal(DIMENSIONS)
    scale = np.linspace(0.2, 3, DIMENSIONS)
    return spec_of(
        ModelRef(hub, identifier, revision),
        centre + scale * rng.standard_normal((rows, DIMENSIONS)),
        encoder=encoder_named(),
        weights=f"{number:064x}",
        prompt_sets=(PROMPTS,),
        seeds=SEEDS,
        recipe={
            "lora_scale": 1.0 if number % 4 == 2 else None,
            "lora_partial": LoraPartial(applied=5, tensors=9) if number % 4 == 2 else None,
        },
        **details,
    )


def index_of(*specs):
    """With what hubs might say of them."""
    return SpecIndex.from_sources(
        SpecSource(
            spec.manifest.model.ref,
            lambda spec=spec: spec,
            hub_tags=("New", "icon") if row % 4 == 0 else (),
            status=STATUSES[row % 4],
        )
        for row, spec in enumerate(specs)
    )


def load(target, index, **named):
    """The index into the server."""
    return serve_into(target, group_of(index), index.status, encoder=encoder_named(), **named)


def group_of(index):
    """Of the one group there is."""
    (selection,) = index.select(Filters())
    return selection.group


def ask(images=1, *, seed=0, prompt=None, encoder=None, dimensions=DIMENSIONS):
    """A query of so many random images."""
    rng = np.random.default_rng(seed)
    return Query(
        image_embeddings=(50 + 2 * rng.standard_normal((images, dimensions))).astype(np.float32),
        prompt_embeddings=None if prompt is None else np.ones((images, TEXT_DIMENSIONS)),
        pseudo_prompts=(prompt,) * images,
        interrogator="none",
        encoder_id=(encoder or encoder_named()).id,
    )
