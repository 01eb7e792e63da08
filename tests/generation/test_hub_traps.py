"""The two traps of a specification in a model's repository, with real diffusers and a real client.

A tensor file that is named like weights is loaded as the LoRA; a commit is not a new model.
"""

from __future__ import annotations

import shutil

import pytest

from gmi_registry.generation import load_pipeline
from tests.support.loopback import User, fixtures

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

hf_hub = fixtures.hf_hub

NAME = "someone/style"


@pytest.fixture
def repository(tiny, tmp_path):
    """A LoRA under a name of its own, with files where a specification has them."""
    folder = tmp_path / "style"
    (folder / "gmi").mkdir(parents=True)
    shutil.copy(tiny / "lora" / "pytorch_lora_weights.safetensors", folder / "my-style.safetensors")
    save_spec_tensors(folder / "gmi" / "spec.tensors")
    (folder / "gmi" / "spec.json").write_text("{}")
    return folder


def save_spec_tensors(path):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"image_embeddings": np.ones((3, 4), np.float16)}, path)


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def distance(first, second):
    """How far apart two pipelines' networks are, on one input."""
    import torch

    latents, context = torch.ones(1, 4, 8, 8), torch.ones(1, 16, 8)
    with torch.no_grad():
        return float(
            (first.unet(latents, 500, context).sample - second.unet(latents, 500, context).sample)
            .abs()
            .max()
        )


def test_the_adapter_of_a_folder_is_found_beside_a_specification(base, lora, repository):
    loaded = load_pipeline(base, device="cpu")
    loaded.load_lora_weights(str(repository))
    assert distance(loaded, load_pipeline(lora, device="cpu")) < 1e-6


def test_the_adapter_of_a_repository_is_found_beside_a_specification(
    base, lora, pipeline, repository, hf_hub
):
    hf_hub.add_repo(NAME, files(repository))
    loaded = load_pipeline(base, device="cpu")
    loaded.load_lora_weights(NAME)
    assert distance(loaded, load_pipeline(lora, device="cpu")) < 1e-6
    assert distance(loaded, pipeline) > 1e-3
    assert not [request.path for request in hf_hub.requests if "/gmi/" in request.path]


def test_a_specification_named_like_weights_would_be_the_adapter(base, repository, hf_hub):
    (repository / "gmi" / "spec.tensors").rename(repository / "gmi" / "spec.safetensors")
    hf_hub.add_repo(NAME, files(repository))
    loaded = load_pipeline(base, device="cpu")
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        loaded.load_lora_weights(NAME)
    asked = [request.path for request in hf_hub.requests if "/resolve/" in request.path]
    assert any("gmi/spec.safetensors" in path for path in asked)
    assert not any("my-style" in path for path in asked)


def test_a_commit_changes_the_revision_and_not_the_weights(repository, hf_hub):
    from huggingface_hub import CommitOperationAdd, HfApi

    from gmi_registry.hubs.huggingface import HuggingFaceHub
    from gmi_registry.spec import ModelRef

    hf_hub.add_user(User("someone", "hf_someone"))
    adapter = {"my-style.safetensors": (repository / "my-style.safetensors").read_bytes()}
    before = hf_hub.add_repo(NAME, adapter)
    hub = HuggingFaceHub(hf_hub.endpoint, "hf_someone")
    weights = hub.weight_digests(ModelRef("hf", NAME, before))
    spec = {path: data for path, data in files(repository).items() if path.startswith("gmi/")}
    HfApi(hf_hub.endpoint, token="hf_someone").create_commit(
        NAME,
        [CommitOperationAdd(path, data) for path, data in spec.items()],
        commit_message="Add the specification",
        parent_commit=before,
    )
    after = hf_hub.history(NAME)[0].oid
    assert after != before
    assert hf_hub.files(NAME).keys() == files(repository).keys()
    assert hub.weight_digests(ModelRef("hf", NAME, after)) == weights
    assert weights.keys() == {"my-style.safetensors"}
    hub.close()
