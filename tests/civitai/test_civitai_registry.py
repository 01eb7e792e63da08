"""Both hubs at once: models on a loopback Civitai, the registry on a loopback Hugging Face."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from gmi_registry import generation, search
from gmi_registry.generation import RecipeOverrides
from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.spec import ModelRef, PromptSet
from tests.support.civitai_loopback import File, Model, Version
from tests.support.grey_encoder import GreyEncoder
from tests.support.loopback import User
from tests.support.publishing import publish
from tests.support.tiny_models import files_below

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
REGISTRY = "maintainers/specs"
FEW = PromptSet("few", 1, ("a cat", "the sea"))
TOKEN = "hf_maintainerssecret"


@pytest.fixture
def both(civitai, hf_hub, base_and_lora, monkeypatch):
    """Two versions of one model and one of another, their base, and an empty registry."""
    weights = (base_and_lora / "lora" / "pytorch_lora_weights.safetensors").read_bytes()
    for number, versions, tags in ((1, (11, 12), ["anime"]), (2, (21,), ["anime", "ink"])):
        civitai.add(
            Model(
                number,
                f"Style {number}",
                tags=tags,
                versions=[
                    Version(version, files=[File(10 * version, weights)]) for version in versions
                ],
            )
        )
    hf_hub.add_repo(BASE, files_below(base_and_lora / "base"))
    hf_hub.add_repo(REGISTRY, {"README.md": b"# Specifications\n"}, repo_type="dataset")
    hf_hub.add_user(User("maintainers", TOKEN))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("GMI_REGISTRY", REGISTRY)
    monkeypatch.setenv("CIVITAI_ENDPOINT", civitai.endpoint)
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: FEW)
    return civitai


def described(hub, text, work):
    return publish(
        hub.find(text),
        hub,
        work=work,
        encoder=GreyEncoder(),
        overrides=RecipeOverrides(steps=1),
        create_pr=False,
        device="cpu",
    )


def test_from_civitai_into_the_registry_and_back(both, hf_hub, tmp_path):
    with open_hub("civitai", HubAccess(tmp_path / "cache")) as hub:
        for text in ("civitai:1@11", "civitai:1", "urn:air:sd1:lora:civitai:2@21"):
            done = described(hub, text, tmp_path / "work")
            assert done.outcome == "published"
            assert REGISTRY in done.where
    kept = hf_hub.files(REGISTRY, repo_type="dataset")
    folders = sorted({path.rpartition("/gmi/")[0] for path in kept if "/gmi/" in path})
    assert folders == ["civitai/1/11", "civitai/1/12", "civitai/2/21"]
    manifest = json.loads(kept["civitai/1/12/gmi/spec.json"])
    assert manifest["model"]["id"] == "1"
    assert manifest["model"]["revision"] == "12"

    both.clear_requests()
    hf_hub.clear_requests()
    picture = Image.new("RGB", (32, 32), (200, 40, 40))
    with open_hub("civitai", HubAccess(tmp_path / "other")) as hub:
        found = search(
            [picture],
            hub,
            tags=("ink",),
            nsfw=True,
            cache_dir=tmp_path / "other",
            encoder=GreyEncoder(),
        )
    (hit,) = found.hits
    assert hit.ref == ModelRef("civitai", "2", "21")
    assert hit.stale is False
    assert len(both.requests) == 1
    assert found.requests is not None
    assert sum(found.requests.values()) == len(both.requests) + len(hf_hub.requests)

    both.clear_requests()
    hf_hub.clear_requests()
    with open_hub("civitai", HubAccess(tmp_path / "other", offline=True)) as hub:
        again = search(
            [picture],
            hub,
            tags=("ink",),
            nsfw=True,
            cache_dir=tmp_path / "other",
            encoder=GreyEncoder(),
        )
    assert [hit.ref for hit in again.hits] == [hit.ref]
    assert again.catalogue_age is not None
    assert both.requests == []
    assert hf_hub.requests == []
