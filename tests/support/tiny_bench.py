"""A small benchmark over real, if untrained, diffusion models in a local hub."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest

from benchmarks.paper.definition import load_benchmark
from benchmarks.paper.methods import METHODS
from benchmarks.paper.run import run_benchmark
from gmi_registry.generation import BatchCache
from gmi_registry.hubs import HubAccess
from gmi_registry.hubs.local import LocalHub

OWN = ("own-prompts", "own-prompts-default", "own-prompts-mixed")
FILE = """
name = "tiny"
version = 1
hub = "hub"
encoder = "tiny/test"
interrogator = "{interrogator}"
default_prompts = ["a pear", "a kite", "an owl"]
evaluation_prompts = ["a boat", "a drum"]
dev_prompts = ["a nest", "a lamp"]
protocols = {protocols}
methods = {methods}

[seeds]
dev = [7]
test = [0, 1]

[recipe]
steps = 2
batch_size = 3

[[models]]
model = "local:base"
own = ["a fig"]
asked = ["a plum"]

[[models]]
model = "local:ink"
own = ["a fork"]
asked = ["a spoon"]

[[models]]
model = "local:{third}"
own = ["a cat"]
asked = ["a dog"]
"""
CARD = "---\ntitle: {name}\n{more}---\n"


def make_hub(root):
    """A local hub of three models and an encoder at ``root``, which is not there yet."""
    from safetensors.numpy import load_file, save_file

    from tests.support.tiny_clip import write_tiny_clip
    from tests.support.tiny_models import save_base, save_lora

    LocalHub.create(root, root.parent / "hub-cache")
    write_tiny_clip(root / "encoders" / "tiny" / "test")
    models = root / "models"
    save_base(models / "base")
    shutil.rmtree(models / "base-vocabulary", ignore_errors=True)
    for name, scale in (("ink", 1), ("oil", -3)):
        save_lora(models / name, models / "base")
        weights = models / name / "pytorch_lora_weights.safetensors"
        save_file({key: value * scale for key, value in load_file(weights).items()}, weights)
        more = "base_model: base\ndownloads: 12\n" if name == "oil" else "base_model: base\n"
        (models / name / "README.md").write_text(CARD.format(name=name, more=more))
    (models / "base" / "README.md").write_text(CARD.format(name="base", more=""))
    return root


def write_file(
    hub,
    *,
    third="oil",
    protocols=("images-1", "images-2", *OWN),
    methods=tuple(METHODS),
    interrogator="phrases",
):
    """The benchmark beside its hub."""
    path = hub.parent / f"{third}-{len(protocols)}-{interrogator}.toml"
    lists = {"protocols": json.dumps(protocols), "methods": json.dumps(methods)}
    path.write_text(FILE.format(third=third, interrogator=interrogator, **lists))
    return path


@contextmanager
def interrupted(kept):
    """What draws within is stopped once so many batches are kept."""
    keep, count = BatchCache.keep, 0

    def stop(self, batch, images):
        nonlocal count
        if count >= kept:
            raise KeyboardInterrupt
        count += 1
        return keep(self, batch, images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchCache, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def run(hub, out, *, last="score", **changes):
    """The real stages on the processor."""
    benchmark = load_benchmark(write_file(hub, **changes))
    cache = hub.parent / "cache"
    return run_benchmark(benchmark, out, last=last, device="cpu", access=HubAccess(cache))
