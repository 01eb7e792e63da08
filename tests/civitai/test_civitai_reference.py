"""What people have at hand, and the version that it means."""

from __future__ import annotations

import pytest

from gmi_registry.errors import HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.civitai import description_snippet, find_civitai
from gmi_registry.spec import ModelRef
from tests.support.civitai_loopback import Fault, File, Model, Version
from tests.support.civitai_specs import lora_bytes, style, version_of


@pytest.fixture
def filled(civitai):
    old = version_of(11, 1, name="v1.0", published="2024-01-01T00:00:00.000Z")
    new = version_of(12, 1, name="v2.0", published="2025-01-01T00:00:00.000Z")
    middle = version_of(13, 1, name="v1.5", published="2024-06-01T00:00:00.000Z")
    civitai.add(style(1, versions=[new, middle, old]), style(2, 21))
    return civitai


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("civitai:1", "civitai:1@12"),
        ("1", "civitai:1@12"),
        ("civitai:1@11", "civitai:1@11"),
        ("1@13", "civitai:1@13"),
        ("urn:air:sd1:lora:civitai:1", "civitai:1@12"),
        ("urn:air:sd1:lora:civitai:1@11", "civitai:1@11"),
        ("urn:air:sd1:text_encoders:civitai:1@11", "civitai:1@11"),
        ("urn:air:sd1:lora:civitai:1@11+110", "civitai:1@11"),
        ("urn:air:sd1:lora:civitai:1@11+110.safetensor", "civitai:1@11"),
        ("https://civitai.com/models/1", "civitai:1@12"),
        ("https://civitai.com/models/1/a-style?modelVersionId=11", "civitai:1@11"),
        ("https://www.civitai.com/models/1/a-style/?modelVersionId=11&x=y#top", "civitai:1@11"),
        ("https://civitai.com/api/download/models/13?type=Model", "civitai:1@13"),
        ("https://civitai.com/model-versions/21", "civitai:2@21"),
    ],
)
def test_one_request_and_the_version_is_known(filled, client, text, expected):
    found = find_civitai(text, client)
    assert str(found) == expected
    assert len(filled.requests) == 1


def test_the_address_of_this_very_hub(filled, client):
    page = client.page_of(ModelRef("civitai", "1", "11"))
    assert str(find_civitai(page, client)) == "civitai:1@11"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("civitai:abc", "names no model on Civitai"),
        ("civitai:1@", "names no model on Civitai"),
        ("civitai:0", "names no model on Civitai"),
        ("urn:air:sd1:lora:huggingface:1@2", "is not a model on Civitai"),
        ("urn:air:sd1:lora:elsewhere:1@2", "names no model on Civitai"),
        ("owner/name", "neither a model on Civitai nor a file"),
        ("~nobody-of-that-name/x", "neither a model on Civitai nor a file"),
        ("x" * 5000, "neither a model on Civitai nor a file"),
        (".", "neither a model on Civitai nor a file"),
        ("https://civitai.example/models/1", "not the address"),
        ("https://civitai.com.evil.example/models/1", "not the address"),
        ("https://civitai.com@evil.example/models/1", "not the address"),
        ("https://[civitai.com/models/1", "is no address"),
        ("https://civitai.com/images/1", "not the page of a model"),
        ("https://civitai.com/models/one", "not the page of a model"),
        ("https://civitai.com/models/1?modelVersionId=x", "names no version"),
        ("https://civitai.com/models/1?modelVersionId=11&modelVersionId=12", "names no version"),
    ],
)
def test_what_names_no_model(filled, client, text, message):
    with pytest.raises(InputError, match=message) as caught:
        find_civitai(text, client)
    assert caught.value.hint
    assert filled.requests == []


@pytest.mark.parametrize("text", ["civitai:9", "civitai:1@99", "https://civitai.com/models/9"])
def test_what_is_not_there(filled, client, text):
    with pytest.raises(SpecNotFoundError) as caught:
        find_civitai(text, client)
    assert caught.value.hint


def test_a_version_of_another_model_is_not_taken(filled, client):
    with pytest.raises(
        SpecNotFoundError, match="civitai:1 has no version 21, which is civitai:2@21"
    ):
        find_civitai("https://civitai.com/models/1?modelVersionId=21", client)


def test_a_model_without_a_published_version(civitai, client):
    civitai.add(style(3, versions=[version_of(31, 3, status="Draft")]))
    with pytest.raises(SpecNotFoundError, match="civitai:3 has no published version"):
        find_civitai("civitai:3", client)


def test_a_file_is_found_by_its_digest(filled, hub, client, tmp_path):
    place = tmp_path / "renamed by me.safetensors"
    place.write_bytes(lora_bytes(13))
    assert str(find_civitai(str(place), client)) == "civitai:1@13"
    assert str(hub.find(str(place))) == "civitai:1@13"
    assert {path.name for path in tmp_path.iterdir()} >= {place.name}
    assert [request.method for request in filled.requests] == ["POST", "POST"]


def test_a_file_that_several_versions_hold_is_one_clear_error(filled, client, tmp_path):
    filled.add(style(7, versions=[version_of(71, 7, seed=13)]))
    place = tmp_path / "style.safetensors"
    place.write_bytes(lora_bytes(13))
    with pytest.raises(HubError, match="2 versions hold the file") as caught:
        find_civitai(str(place), client)
    assert "civitai:1@13, civitai:7@71" in caught.value.message
    assert caught.value.hint == "name one of them: gmi-publish civitai:1@13"


def test_the_same_file_twice_in_one_version_is_no_ambiguity(filled, client, tmp_path):
    content = lora_bytes(80)
    twice = [File(800, content), File(801, content, primary=False)]
    filled.add(Model(8, versions=[Version(80, files=twice)]))
    place = tmp_path / "style.safetensors"
    place.write_bytes(content)
    assert str(find_civitai(str(place), client)) == "civitai:8@80"


def test_a_file_that_civitai_does_not_know(filled, client, tmp_path):
    place = tmp_path / "mine.safetensors"
    place.write_bytes(b"my own")
    with pytest.raises(SpecNotFoundError, match="knows no file with the SHA-256"):
        find_civitai(str(place), client)


def test_an_answer_about_another_file_is_not_believed(filled, client, tmp_path):
    place = tmp_path / "mine.safetensors"
    place.write_bytes(b"my own")
    model = filled.state.models[2]
    import json

    content = json.dumps([None, model.versions[0].alone(filled.endpoint, model)]).encode()
    filled.inject(Fault("hostile", content=content))
    with pytest.raises(SpecNotFoundError, match="knows no file"):
        find_civitai(str(place), client)


def test_a_pickle_is_not_even_hashed(filled, client, tmp_path):
    place = tmp_path / "old.ckpt"
    place.write_bytes(b"cos\nsystem\n")
    with pytest.raises(InputError, match="is a pickle"):
        find_civitai(str(place), client)
    assert filled.requests == []


def test_what_an_author_pastes():
    ref = ModelRef("civitai", "1", "11")
    text = description_snippet(
        ref, "a" * 64, "https://hub.example/registry", air="urn:air:sd1:lora:civitai:1@11"
    )
    assert text.splitlines()[1:] == [
        "Model: urn:air:sd1:lora:civitai:1@11",
        "Specification: https://hub.example/registry",
        f"SHA-256 of its spec.json: {'a' * 64}",
    ]
    assert "Model: civitai:1@11" in description_snippet(ref, "a" * 64, "https://hub.example")


@pytest.mark.parametrize(
    ("ref", "digest", "where", "air"),
    [
        (ModelRef("civitai", "1"), "a" * 64, "https://hub.example", None),
        (ModelRef("hf", "o/n", "abc"), "a" * 64, "https://hub.example", None),
        (ModelRef("civitai", "1", "11"), "a" * 63, "https://hub.example", None),
        (ModelRef("civitai", "1", "11"), "a" * 64, "<script>", None),
        (ModelRef("civitai", "1", "11"), "a" * 64, "https://x\nSpecification: y", None),
        (ModelRef("civitai", "1", "11"), "a" * 64, "x", "urn:air:sd1:lora:civitai:1@12"),
    ],
)
def test_what_no_author_should_paste(ref, digest, where, air):
    with pytest.raises(InputError):
        description_snippet(ref, digest, where, air=air)


def test_the_hub_fills_in_the_air(filled, hub):
    text = hub.snippet(ModelRef("civitai", "1"), "b" * 64, "https://hub.example/registry")
    assert "Model: urn:air:sd1:lora:civitai:1@12" in text
    filled.state.models[2].type = "DoRA"
    filled.state.models[2].ecosystem = "NOT AN AIR"
    text = hub.snippet(ModelRef("civitai", "2", "21"), "b" * 64, "https://hub.example/registry")
    assert "Model: urn:air:sd1:dora:civitai:2@21" in text
