"""Regeneration of what is on Civitai, whose specifications lie in the registry: by polling."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gmi_registry.hubs.civitai import CivitaiHub
from gmi_registry.hubs.huggingface import HuggingFaceHub

# Its loopback hub is the one of its own tests.
from tests.support.civitai_loopback import File, LoopbackCivitai, Model, Version
from tests.support.folder_store import FolderStore
from tests.support.regeneration_world import WEIGHTS, other_weights, round_over

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture
def civitai(models, remote, monkeypatch):
    for name in ("CIVITAI_TOKEN", "CIVITAI_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    remote.add_repo(BASE, remote.files("alice/base"))
    with LoopbackCivitai() as hub:
        file = File(100, (models / "lora" / WEIGHTS).read_bytes(), name="style.safetensors")
        hub.add(Model(1, "Style", "LORA", ["tiny"], [Version(10, files=[file])]))
        yield hub
    assert not hub.failures, hub.failures


@pytest.fixture
def anew(civitai, tmp_path):
    """Opens it as a program that has just been started."""
    opened = []

    def open_civitai():
        hub = CivitaiHub(
            FolderStore(tmp_path / "store"),
            endpoint=civitai.endpoint,
            cache_dir=tmp_path / "civitai-cache",
            bases=HuggingFaceHub(token=False, cache_dir=tmp_path / "hf-cache"),
        )
        opened.append(hub)
        return hub

    yield open_civitai
    for hub in opened:
        hub.close()


def test_a_version_with_another_file(civitai, anew, go, work, models):
    done = go(anew(), repos=["civitai:1"])
    assert [(it.model, it.outcome) for it in done.results] == [("civitai:1@10", "published")], done
    (fresh,) = round_over(anew(), work).plan().models
    assert (str(fresh.ref), fresh.state, fresh.to_registry) == ("civitai:1@10", "fresh", False)

    model = civitai.state.models[1]
    file = replace(model.versions[0].files[0], content=other_weights(models))
    model.versions[0].files[:] = [file]
    (stale,) = round_over(anew(), work).plan().models
    assert (stale.state, stale.reason) == (
        "stale",
        "its weights have changed: 100.safetensors",
    )
    assert [result.outcome for result in go(anew()).results] == ["published"]
    assert go(anew()).fresh == 1
