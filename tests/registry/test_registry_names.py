"""What a command prints as a model, every other command takes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.support.registry_author import (
    PREVIEW,
    REPO,
    civitai,
    described,
    entry_files,
    spec_of,
    weight_file,
)

# isort: split

from typer.testing import CliRunner

import gmi_registry
from gmi_registry.cli import registry as registry_commands
from gmi_registry.cli.main import app
from gmi_registry.errors import HubError, InputError
from gmi_registry.hubs import HubAccess, open_hub
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.open import find_model, find_spec
from gmi_registry.hubs.registry.entries import entry_of, entry_path
from gmi_registry.hubs.registry.review import Finding
from gmi_registry.model import ModelCard, ModelFiles
from gmi_registry.regeneration.webhook_install import _name
from gmi_registry.regeneration.webhook_service import _repo
from gmi_registry.search.query import ModelLoader
from gmi_registry.spec import Manifest, ModelRef, encode_spec, read_spec
from tests.support.civitai_loopback import File, LoopbackCivitai, Model, Version
from tests.support.loopback import User
from tests.support.remote_hub import COLOURS, WEIGHTS, Author

OTHER = "keeper/more-specs"


@pytest.fixture
def shop():
    with LoopbackCivitai() as opened:
        weights = b"weights"
        opened.add(Model(123, versions=[Version(456, files=[File(1, weights)])]))
        yield opened


@pytest.fixture
def world(hub, shop, tmp_path, monkeypatch):
    """Texts by what they are: as commands print models, and as people paste them."""
    for name in ("CIVITAI_TOKEN", "HF_TOKEN", "GMI_HUB", "GMI_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("CIVITAI_ENDPOINT", shop.endpoint)
    monkeypatch.setattr(ModelLoader, "encoder_of", lambda *_: Author(hub).encoder)
    author = Author(hub)
    author.publish("red")
    hub.add_repo("owner/green", {WEIGHTS: b"green"})
    files = author.spec_files("green", COLOURS["green"], b"green")
    entry = entry_of(Manifest.from_bytes(files["gmi/spec.json"]).model)
    head = hub.commit(
        REPO,
        {f"{entry_path(entry)}/{path}": content for path, content in files.items()}
        | entry_files(spec_of(civitai()), preview=PREVIEW),
        repo_type="dataset",
    )
    commit = hub.history("owner/red")[0].oid
    red, green = "hf:owner/red", "hf:owner/green"
    pages = {
        "hf": {
            red: red,
            f"{red}@{commit}": red,
            f"{red}/{WEIGHTS}": red,
            f"{hub.endpoint}/owner/red": red,
            f"https://huggingface.co/owner/red/tree/{commit}": red,
            f"hf.co/owner/red/blob/main/{WEIGHTS}?download=true": red,
            green: green,
            str(entry): green,
            f"{hub.endpoint}/datasets/{REPO}/tree/{head}/{entry_path(entry)}": green,
        },
        "civitai": {
            "civitai:123": "civitai:123",
            "civitai:123@456": "civitai:123",
            "urn:air:sd1:lora:civitai:123@456": "civitai:123",
            f"{shop.endpoint}/models/123?modelVersionId=456": "civitai:123",
            "https://civitai.red/models/123/style": "civitai:123",
            "civitai.com/api/download/models/456?type=Model": "civitai:123",
            f"https://huggingface.co/datasets/{REPO}/tree/{head}/civitai/123/456": "civitai:123",
            f"https://civitai.com/models/123/{'%E7%94%BB' * 60}": "civitai:123",
        },
    }
    return {"pages": pages, "entry": str(entry), "hub": hub, "cache": tmp_path / "cache"}


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(done):
    return f"{done.stderr}{done.exception or ''}" if done.exit_code else None


def test_every_name_is_read_whatever_hub_is_usual(world, monkeypatch):
    for usual in ("hf", "civitai"):
        monkeypatch.setenv("GMI_HUB", usual)
        for texts in world["pages"].values():
            for text, model in texts.items():
                assert str(find_spec(text).expected.repository) == model, (usual, text)
                assert str(find_spec(text, "civitai").expected.repository) == model


def test_every_command_that_reads_a_specification_takes_what_is_printed(world):
    """A table: commands by texts; a search compares with a model of another hub as well."""
    hf, civitai = (list(texts.items()) for texts in world["pages"].values())
    for hub, texts in {"hf": [hf[1], hf[3], *hf[6:]], "civitai": [civitai[1], civitai[3]]}.items():
        for text, model in texts:
            like = ("search", "--index", "none", "--cache-dir", world["cache"], "--like", text)
            plan = ("regenerate", "--hub", hub, "--repo", text, "--plan", "--json")
            done = {
                words: call(*words)
                for words in (
                    ("spec", "show", text, "--json"),
                    ("spec", "verify", text),
                    ("spec", "diff", text, text),
                    (*like, "--hub", "hf"),
                    (*like, "--hub", "civitai"),
                    plan,
                )
            }
            assert {words: refused(result) for words, result in done.items()} == dict.fromkeys(done)
            shown = json.loads(done["spec", "show", text, "--json"].stdout)["manifest"]["model"]
            assert f"{shown['hub']}:{shown['id']}" == model
            (planned,) = json.loads(done[plan].stdout)["models"]
            assert planned["model"].partition("@")[0] == model


def test_what_a_search_prints_is_taken(world):
    """From the source itself: the names of one search, each in the next commands."""
    for hub in ("hf", "civitai"):
        words = ("search", "--prompt", "red", "--hub", hub, "--index", "none", "--json")
        like = ("search", "--hub", hub, "--like", next(iter(world["pages"][hub])), "--json")
        done = call(*(like if hub == "hf" else words), "--cache-dir", world["cache"])
        assert refused(done) is None or hub == "civitai"
        for hit in json.loads(done.stdout)["results"] if not done.exit_code else ():
            assert refused(call("spec", "show", hit["model"])) is None
            assert hit["url"] is None or refused(call("spec", "show", hit["url"])) is None


def test_a_base_model_is_named_by_its_page_as_well(world):
    made = spec_of(described(name="owner/blue", base_model="owner/base"), COLOURS["blue"])
    manifest, tensors = encode_spec(made)
    card = b"---\ntags: [gmi-spec]\nbase_model: owner/base\n---\n"
    files = {"gmi/spec.json": manifest, "gmi/spec.tensors": tensors, "README.md": card}
    world["hub"].add_repo("owner/blue", files | {"w0.safetensors": b"weights"})
    like = ("search", "--like", "hf:owner/red", "--index", "none", "-q")
    for base in ("owner/base", "hf:owner/base", "https://huggingface.co/owner/base/tree/main"):
        done = call(*like, "--base-model", base, "--cache-dir", world["cache"])
        assert done.stdout.startswith("hf:owner/blue@"), (base, done.stderr)
    base = "https://huggingface.co/owner/other"
    assert call(*like, "--base-model", base, "--cache-dir", world["cache"]).stdout == ""


def test_the_programs_take_them_too(world):
    for texts in world["pages"].values():
        for text, model in texts.items():
            spec = gmi_registry.load_spec(text, cache_dir=world["cache"])
            assert str(spec.manifest.model.ref.repository) == model


def test_a_registry_that_an_earlier_search_named_is_found_again(world, caplog):
    """The name of an entry does not say where it is."""
    hub, entry = world["hub"], world["entry"]
    hub.add_user(User("somebody", "hf_somebody"))
    hub.add_repo(OTHER, {"README.md": b"# More\n"}, repo_type="dataset")
    moved = hub.files(REPO, repo_type="dataset")
    del moved["README.md"]
    hub.commit(OTHER, moved, repo_type="dataset")
    hub.commit(REPO, dict.fromkeys(moved), repo_type="dataset")
    assert "has no specification of" in (refused(call("spec", "show", entry)) or "")
    words = ("--registry", OTHER, "--cache-dir", world["cache"])
    assert refused(call("spec", "show", entry, "--registry", OTHER)) is None
    assert refused(call("search", "--like", "hf:owner/red", "--index", "none", *words)) is None
    for text in (entry, "civitai:123@456"):
        caplog.clear()
        assert refused(call("spec", "show", text)) is None
        assert find_spec(text).registry == OTHER
        assert f"{text} is in the registry {OTHER}, which an earlier search named" in caplog.text
    assert "has no specification of" in refused(call("spec", "show", entry, "--registry", REPO))


def test_verify_entry_takes_them(world, monkeypatch):
    monkeypatch.setattr(
        registry_commands, "_audited", lambda *_, **__: Finding("audit", "failed", "not now")
    )
    for hub, texts in world["pages"].items():
        for text, model in texts.items():
            if model == "hf:owner/red":
                continue
            done = call("registry", "verify-entry", text, "--token", "hf_keeper", "--json")
            found = json.loads(done.stdout)
            assert found["entry"].startswith(f"{model}@"), (hub, text)
    done = call("registry", "verify-entry", "hf:owner/green@" + "0" * 40, "--token", "hf_keeper")
    assert "entries are named by their weights" in done.stderr


def test_what_is_published_or_watched_is_the_model_itself(world, caplog):
    for text, model in world["pages"]["hf"].items():
        with open_hub("hf", HubAccess(world["cache"])) as opened:
            assert find_model(text, opened).repository == ModelRef.parse(model)
        assert _name(text) == _repo(text) == model.removeprefix("hf:")
    assert "webhooks report every change of owner/red" in caplog.text
    with open_hub("civitai", HubAccess(world["cache"])) as opened:
        for text in world["pages"]["civitai"]:
            assert str(find_model(text, opened)) == "civitai:123@456"
        with pytest.raises(InputError, match="is a model of Hugging Face, and the hub that was"):
            find_model("https://huggingface.co/owner/red", opened)
    with open_hub("hf", HubAccess(world["cache"])) as opened:
        for text in ("models/1", "api/download/models/6?token=SECRET"):
            with pytest.raises(InputError, match="is a model of Civitai") as caught:
                find_model(f"https://civitai.com/{text}", opened)
            assert "SECRET" not in caught.value.message
    with pytest.raises(InputError, match="webhooks are for models of Hugging Face"):
        _name("civitai:123")


def test_an_entry_is_drawn_again_only_from_its_own_weights(world, monkeypatch):
    entry = ModelRef.parse(world["entry"])
    with open_hub("hf", HubAccess(world["cache"])) as opened:
        assert opened.weight_digests(entry) is not None
        assert opened.fetch_signature(entry) is None
        folder = opened.fetch_spec(entry).parent
        spec = read_spec(folder, expected=entry, follow_links=True)
        assert spec.manifest.model.weights_digest == entry.revision
        assert opened.find_entry(entry.without_revision) == entry
        assert opened.find_entry(ModelRef("hf", "owner/green", "main")) is None
        assert opened.find_entry(ModelRef("hf", "owner/nobody")) is None
        model = ModelFiles(
            entry.without_revision, "lora", folder, ModelCard("Green"), spec.manifest.model.weights
        )
        answers = {entry.without_revision: model}
        monkeypatch.setattr(HuggingFaceHub, "fetch_model", lambda _, *asked: answers.get(*asked))
        assert opened.fetch_model(entry) is model
        changed = replace(model, weights=(weight_file(b"other", WEIGHTS),))
        answers[entry.without_revision] = changed
        with pytest.raises(HubError, match="has other weights now than those of"):
            opened.fetch_model(entry)
