"""One file of a repository that holds several models: named, fetched, described, replaced."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from safetensors.numpy import save

from gmi_registry.errors import HubError, InputError, SpecFormatError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.open import find_model
from gmi_registry.hubs.selection import RepoFile, select_weights
from gmi_registry.spec import (
    DescribedModel,
    ModelRef,
    read_manifest,
    write_spec,
)
from tests.support.hub_builder import random_spec
from tests.support.loopback import User
from tests.support.loopback.fixtures import hf_hub

__all__ = ["hf_hub"]

LORA = save({"unet.attn.to_q.lora_A.weight": np.ones((2, 4), np.float32)})
OTHER = save({"unet.attn.to_q.lora_A.weight": np.zeros((2, 4), np.float32)})
WHOLE = save({"model.diffusion_model.input.weight": np.ones((2, 4), np.float32)})
FILES = {
    "README.md": b"---\ntags: [anime]\n---\n# Styles\n",
    "ink.safetensors": LORA,
    "oil (v2).safetensors": OTHER,
    "all.safetensors": WHOLE,
}
ADA = User("ada", "hf_adasecret")


@pytest.fixture
def hub(hf_hub):
    hf_hub.add_user(ADA)
    hf_hub.add_repo("ada/styles", FILES)
    with HuggingFaceHub(token=ADA.token) as opened:
        yield opened


@pytest.fixture
def specification(tmp_path):
    """A folder with a specification of a model that was fetched."""

    def make(model):
        spec = random_spec(
            DescribedModel(
                hub="hf", id=model.ref.id, title="x", kind=model.kind, weights=model.weights
            )
        )
        return write_spec(spec, tmp_path / model.weights[0].path.partition(".")[0])

    return make


@pytest.mark.parametrize("revision", ["", "@main", "@refs/pr/7", f"@{'a' * 40}"])
@pytest.mark.parametrize("name", ["ink.safetensors", "oil (v2).safetensors", "ünï.safetensors"])
def test_a_file_is_read_as_it_is_printed(name, revision):
    text = f"hf:ada/styles/{name}{revision}"
    found = ModelRef.parse(text)
    assert (found.id, found.file) == ("ada/styles", name)
    assert str(found) == text
    assert str(found.without_revision) == f"hf:ada/styles/{name}"
    assert found.repository == ModelRef("hf", "ada/styles")


@pytest.mark.parametrize(
    "text",
    [
        "hf:ada/styles/ink.ckpt",
        "hf:ada/styles/sub//ink.safetensors",
        "hf:ada/styles/../ink.safetensors",
        "hf:ada/styles/sub/../ink.safetensors",
        "hf:ada/styles/sub/.safetensors",
        "hf:ada/styles/gmi/ink.safetensors",
        "hf:ada/styles/1/2/3/4/5/6/7/8/ink.safetensors",
        "hf:ada/styles/.safetensors",
        "hf:ada/styles/.ink.safetensors",
        "hf:ada/styles/a\\b.safetensors",
        "hf:ada/styles/a:b.safetensors",
        "hf:ada/styles/ink.safetensors@",
        "hf:ada/styles/ ink.safetensors",
        "hf:ada/styles/a\x1b[2J.safetensors",
        f"hf:ada/styles/{'a' * 200}.safetensors",
        "local:../ink.safetensors",
        "local:/ink.safetensors",
        "local:styles/../ink.safetensors",
        "civitai:1/ink.safetensors",
    ],
)
def test_what_is_no_file_of_a_model_is_refused(text):
    with pytest.raises(InputError) as caught:
        ModelRef.parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("identifier", ["gpt2", "styles"])
def test_a_file_needs_an_owner(identifier):
    with pytest.raises(InputError, match="is not the name of a model's file"):
        ModelRef("hf", identifier, None, "ink.safetensors")


def test_a_person_names_file_and_revision(hub):
    found = find_model("ada/styles/ink.safetensors", hub, "main")
    assert found == ModelRef("hf", "ada/styles", "main", "ink.safetensors")
    assert find_model(f"{found}", hub) == found


def test_several_are_refused_with_what_to_run(hub, hf_hub):
    with pytest.raises(HubError, match=r"3 weight files \(all\..*which is meant") as caught:
        hub.fetch_model(ModelRef("hf", "ada/styles", "main"))
    assert "\n" not in caught.value.hint
    commands = caught.value.hint.removeprefix("name one: ").split(" or ")
    assert [shlex.split(command)[1] for command in commands] == [
        "hf:ada/styles/all.safetensors@main",
        "hf:ada/styles/ink.safetensors@main",
        "hf:ada/styles/oil (v2).safetensors@main",
    ]
    for command in commands:
        program, name = shlex.split(command)
        assert program == "gmi-publish"
        model = hub.fetch_model(find_model(name, hub))
        assert [weight.path for weight in model.weights] == [model.ref.file]


def test_a_name_cannot_smuggle_a_command_into_a_hint():
    names = ["$(reboot).safetensors", "a;reboot.safetensors", "b\n.safetensors", "c@d.safetensors"]
    with pytest.raises(HubError) as caught:
        select_weights(ModelRef("hf", "a/b"), map(RepoFile, names))
    commands = caught.value.hint.removeprefix("name one: ").split(" or ")
    assert [shlex.split(command) for command in commands] == [
        ["gmi-publish", "hf:a/b/$(reboot).safetensors"],
        ["gmi-publish", "hf:a/b/a;reboot.safetensors"],
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("ink.safetensors", "lora"), ("all.safetensors", "single-file")]
)
def test_only_the_named_file_is_fetched(hub, hf_hub, name, kind):
    # What was fetched before lies in the same folder, and must not be taken for it.
    hub.fetch_model(ModelRef("hf", "ada/styles", None, "oil (v2).safetensors"))
    hf_hub.clear_requests()
    model = hub.fetch_model(ModelRef("hf", "ada/styles", None, name))
    assert model.kind == kind
    assert (model.path.name == name) == (kind == "single-file")
    assert [weight.path for weight in model.weights] == [name]
    assert model.ref.file == name
    got = [request.path for request in hf_hub.requests if request.method == "GET"]
    assert [path for path in got if ".safetensors" in path and name not in path] == []


def test_a_file_that_is_not_there(hub):
    with pytest.raises(HubError, match=r"holds no inc\.safetensors") as caught:
        hub.fetch_model(ModelRef("hf", "ada/styles", None, "inc.safetensors"))
    assert "gmi-publish hf:ada/styles/ink.safetensors" in caught.value.hint


def test_a_named_file_comes_before_a_pipeline(hub, hf_hub):
    hf_hub.commit("ada/styles", {"model_index.json": b"{}"})
    model = hub.fetch_model(ModelRef("hf", "ada/styles", None, "ink.safetensors"))
    assert (model.kind, model.weights[0].path) == ("lora", "ink.safetensors")


def test_a_repository_holds_one_specification_and_says_of_which(hub, hf_hub, specification):
    ink = ModelRef("hf", "ada/styles", None, "ink.safetensors")
    oil = ModelRef("hf", "ada/styles", None, "oil (v2).safetensors")
    for ref in (ink, oil):
        hub.push_spec(ref, specification(hub.fetch_model(ref)))
    folder = hub.fetch_spec(oil).parent
    described = read_manifest(folder, expected=oil, follow_links=True)
    assert [weight.path for weight in described.model.weights] == [oil.file]
    assert read_manifest(folder, expected=oil.repository, follow_links=True) == described
    with pytest.raises(SpecFormatError, match=r"describes oil \(v2\)\.safetensors, and not ink"):
        read_manifest(folder, expected=ink, follow_links=True)


def test_nobody_publishes_one_file_under_the_name_of_another(hub, hf_hub, specification):
    ink = ModelRef("hf", "ada/styles", None, "ink.safetensors")
    folder = specification(hub.fetch_model(ink))
    before = hf_hub.files("ada/styles")
    with pytest.raises(SpecFormatError, match="and not all"):
        hub.push_spec(ModelRef("hf", "ada/styles", None, "all.safetensors"), folder)
    assert hf_hub.files("ada/styles") == before
