"""Civitai's files through real diffusers, their bases from a Hugging Face hub on this machine."""

from __future__ import annotations

import shutil

import pytest

from gmi_registry import generation
from gmi_registry.generation import RecipeOverrides, load_pipeline
from gmi_registry.hubs import Filters
from gmi_registry.hubs.civitai import CivitaiHub
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.spec import ModelRef, PromptSet, read_spec
from tests.support.civitai_loopback import Fault, File, Model, Version
from tests.support.grey_encoder import GreyEncoder
from tests.support.publishing import publish
from tests.support.tiny_models import files_below

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
LORA, KOHYA, WHOLE = (ModelRef("civitai", str(n), str(10 * n)) for n in (1, 2, 3))
FEW = PromptSet("few", 1, ("a cat", "the sea"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, base_and_lora):
    """A base, a LoRA in the layouts of diffusers and of kohya's scripts, and one whole file."""
    import torch
    from diffusers.utils import convert_state_dict_to_kohya
    from safetensors.torch import load_file, save_file

    from zoo import single_file

    folder = tmp_path_factory.mktemp("tiny")
    shutil.copytree(base_and_lora, folder, dirs_exist_ok=True)
    single_file.merge(folder / "base", folder / "lora", folder / "whole.safetensors")
    layers = load_file(folder / "lora" / "pytorch_lora_weights.safetensors")
    named = {
        name.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B."): value
        for name, value in layers.items()
    }
    kohya = {
        name: value.to(torch.float32).contiguous()
        for name, value in convert_state_dict_to_kohya(named).items()
    }
    assert all(name.startswith("lora_unet_") for name in kohya)
    save_file(kohya, folder / "kohya.safetensors")
    return folder


@pytest.fixture
def filled(civitai, tiny):
    for number, kind, place, words in (
        (1, "LORA", "lora/pytorch_lora_weights.safetensors", ["ink"]),
        (2, "LoCon", "kohya.safetensors", []),
        (3, "Checkpoint", "whole.safetensors", []),
    ):
        file = File(100 * number, (tiny / place).read_bytes(), name="some style.safetensors")
        version = Version(10 * number, files=[file], words=words)
        civitai.add(Model(number, "Style", kind, ["tiny"], [version]))
    return civitai


@pytest.fixture
def hub(filled, store, tiny, hf_hub, tmp_path):
    hf_hub.add_repo(BASE, files_below(tiny / "base"))
    bases = HuggingFaceHub(token=False)
    opened = CivitaiHub(store, endpoint=filled.endpoint, cache_dir=tmp_path / "cache", bases=bases)
    yield opened
    opened.close()
    bases.close()


def answers(pipeline):
    import torch

    latents, context = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 8)
    with torch.no_grad():
        return pipeline.unet(latents, 500, context).sample


def test_a_lora_in_either_layout_is_loaded_on_its_base(hub):
    import torch

    first = hub.fetch_model(LORA)
    assert (first.kind, first.path.name) == ("lora", "10")
    assert first.base is not None
    assert first.base.ref.id == BASE
    ours = load_pipeline(first, device="cpu")
    assert ours.get_list_adapters() == {"unet": ["gmi"]}
    plain = answers(load_pipeline(first.base, device="cpu"))
    assert (answers(ours) - plain).abs().max() > 1e-3
    second = load_pipeline(hub.fetch_model(KOHYA), device="cpu")
    torch.testing.assert_close(answers(second), answers(ours), rtol=0, atol=1e-4)


def test_a_checkpoint_is_read_by_the_configuration_of_its_base(hub):
    import torch

    whole = hub.fetch_model(WHOLE)
    assert (whole.kind, whole.path.name) == ("single-file", "300.safetensors")
    merged = load_pipeline(whole, device="cpu")
    parts = load_pipeline(hub.fetch_model(LORA), device="cpu")
    torch.testing.assert_close(answers(merged), answers(parts), rtol=0, atol=0.05)


def test_a_publication_from_first_to_last(hub, filled, store, monkeypatch, tmp_path):
    """Weights broken off on the way, a specification in the store, found by its tag."""
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: FEW)
    filled.inject(Fault("cut", path_regex="/storage"))
    ref = hub.find("https://civitai.com/models/1/style")
    done = publish(
        ref,
        hub,
        work=tmp_path / "work",
        encoder=GreyEncoder(),
        overrides=RecipeOverrides(steps=1),
        device="cpu",
    )
    assert (done.outcome, done.images) == ("published", 2)
    assert store.proposals == [LORA]
    spec = read_spec(hub.fetch_spec(ref).parent, expected=LORA)
    model = spec.manifest.model
    assert (model.title, model.kind, model.base_model) == ("Style · v1.0", "lora", "SD 1.5")
    assert model.url == f"{filled.endpoint}/models/1?modelVersionId=10"
    assert [weight.path for weight in model.weights] == ["100.safetensors"]
    assert model.base_weights
    assert spec.manifest.generation.recipe.trigger_words == ("ink",)
    (listing,) = hub.list_specs(Filters(tags=("tiny",)))
    assert (listing.ref, listing.spec_digest) == (LORA, spec.digest)
    again = publish(
        ref,
        hub,
        work=tmp_path / "work",
        encoder=GreyEncoder(),
        overrides=RecipeOverrides(steps=1),
        device="cpu",
    )
    assert again.outcome == "up to date"
    shutil.rmtree(tmp_path / "cache")
    snippet = hub.snippet(ref, spec.digest, done.where)
    assert "urn:air:sd1:lora:civitai:1@10" in snippet
    assert spec.digest in snippet
