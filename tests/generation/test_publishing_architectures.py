"""Publishing from a folder on a hub to a specification, for models of several architectures."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from gmi_registry import generation
from gmi_registry.errors import GenerationError
from gmi_registry.generation import RecipeOverrides
from gmi_registry.hubs.local import LocalHub
from gmi_registry.spec import ModelRef, PromptSet, read_spec, verify
from tests.support.grey_encoder import GreyEncoder
from tests.support.models.adapters import lora_folder
from tests.support.models.architectures import SIZES
from tests.support.models.files import architecture_folder
from tests.support.models.originals import single_file
from tests.support.models.refused import refused_folder
from tests.support.publishing import publish

FEW = PromptSet("few", 1, ("a cat", "the sea", "an old man"))


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """A function that puts a folder or a file into a local hub and publishes it."""
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: FEW)
    hub = LocalHub.create(tmp_path / "hub", cache_dir=tmp_path / "cache")

    def put(source: Path, name: str, base: str | None = None) -> Path:
        folder = hub.root / "models" / name
        if source.is_dir():
            shutil.copytree(source, folder)
        else:
            folder.mkdir()
            shutil.copy(source, folder)
        more = "" if base is None else f"base_model: {base}\n"
        card = f"---\ntags: [tiny]\nlicense: cc0-1.0\n{more}---\n# Tiny\n"
        (folder / "README.md").write_text(card)
        return folder

    def run(name: str, size=(64, 64), **options):
        return publish(
            ModelRef("local", name),
            hub,
            encoder=GreyEncoder(),
            overrides=RecipeOverrides(steps=2, width=size[0], height=size[1]),
            work=tmp_path / "work",
            device="cpu",
            **options,
        )

    return put, run


@pytest.mark.parametrize(
    "name",
    ["sdxl", "sd3", "flux1-dev", "flux2-dev", "flux2-klein", "qwen-image", "z-image", "sana"],
)
def test_a_folder_is_published(shared, model_store, name):
    put, run = shared
    folder = put(architecture_folder(model_store, name), "model")
    planned = run("model", SIZES.get(name, (64, 64)), dry_run=True)
    assert (planned.outcome, planned.images) == ("planned", 0)
    done = run("model", SIZES.get(name, (64, 64)))
    assert (done.outcome, done.images) == ("published", 3)
    assert {finding.status for finding in verify(folder)} == {"ok"}
    spec = read_spec(folder)
    assert spec.manifest.generation.recipe.id == planned.plan.recipe.id
    assert len({row.tobytes() for row in spec.image_embeddings}) == 3


@pytest.mark.parametrize("name", ["sd15", "flux1-dev"])
@pytest.mark.parametrize("kind", ["lora", "single-file"])
def test_what_needs_a_base_is_published(shared, model_store, name, kind):
    put, run = shared
    put(architecture_folder(model_store, name), "base")
    source = lora_folder(model_store, name)
    if kind == "single-file":
        source = single_file(model_store, name)
    folder = put(source, "style", base="base")
    assert run("style").outcome == "published"
    assert read_spec(folder).manifest.model.kind == kind


@pytest.mark.parametrize("name", ["wan", "flux-fill-channels", "controlnet", "stable-audio"])
def test_a_model_for_another_task_is_refused_at_the_dry_run(shared, model_store, name):
    put, run = shared
    put(refused_folder(model_store, name), "model")
    start = time.monotonic()
    with pytest.raises(GenerationError) as caught:
        run("model", dry_run=True)
    assert time.monotonic() - start < 10
    assert "\n" not in caught.value.message
