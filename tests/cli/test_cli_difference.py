"""``gmi spec diff`` against what a model had before, and against the models around it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from gmi_registry.cli.main import app
from gmi_registry.generation.specification import contact_sheet
from gmi_registry.hubs.local import LocalHub
from gmi_registry.spec import build_spec, encode_spec, write_spec
from tests.support.cli_specs import make_spec
from tests.support.loopback import Fault
from tests.support.loopback.fixtures import hf_hub
from tests.support.remote_hub import Author

__all__ = ["hf_hub"]

MODEL = "owner/flat"


def variant(*, seed=0, previous=None, name=MODEL, hub="hf"):
    """A specification on Hugging Face; other seeds have other images."""
    base = make_spec("flat", seed=seed)
    manifest = base.manifest
    model = manifest.model.model_copy(update={"hub": hub, "id": name, "revision": None})
    return build_spec(
        model=type(model)(**{field: getattr(model, field) for field in type(model).model_fields}),
        encoder=manifest.encoder,
        prompt_sets=[block.prompt_set for block in manifest.prompt_sets],
        recipe=manifest.generation.recipe,
        image_embeddings=base.image_embeddings,
        prompt_embeddings=base.prompt_embeddings,
        image_prompt=np.asarray(base.image_prompt),
        previous=previous,
    )


def files(spec, colour=None):
    manifest, tensors = encode_spec(spec)
    found = {"gmi/spec.json": manifest, "gmi/spec.tensors": tensors}
    if colour is not None:
        pictures = [Image.new("RGB", (32, 32), colour) for _ in range(4)]
        found["gmi/preview.webp"] = contact_sheet([pictures])
    return found


@pytest.fixture
def history(hf_hub):
    """Three specifications, each of which replaced the one before, among other commits."""
    first = variant(seed=1)
    second = variant(seed=2, previous=first.digest)
    third = variant(seed=3, previous=second.digest)
    hf_hub.add_repo(MODEL, {"w.safetensors": b"weights", "README.md": b"# flat\n"})
    for spec, colour in ((first, "red"), (second, "green"), (third, "blue")):
        hf_hub.commit(MODEL, files(spec, colour))
        for number in range(3):
            hf_hub.commit(MODEL, {"README.md": f"# {colour} {number}\n".encode()})
    hf_hub.clear_requests()
    return first, second, third


def test_one_argument_is_compared_with_what_it_replaced(call, hf_hub, history, tmp_path):
    _, second, third = history
    page = tmp_path / "page.html"
    done = call(app, "spec", "diff", f"hf:{MODEL}", "--json", "--html", page)
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["old"], document["new"]) == (second.digest, third.digest)
    assert document["movement"]["verdict"] == "too few prompts"
    assert document["nearest_other"] is None
    assert sorted(item["index"] for item in document["prompt_shifts"]) == [0, 1, 2, 3]
    text = page.read_text()
    assert text.count('<img src="data:image/webp;base64,') == 8
    assert f"hf:{MODEL}@" in text
    # Two files, the commits, what changed the specification last, twice; two files and two sheets.
    assert len(hf_hub.requests) <= 18


def test_an_older_revision_is_compared_with_an_older_one(call, hf_hub, history):
    first, second, _ = history
    commit = next(
        commit.oid
        for commit in hf_hub.history(MODEL)
        if commit.files.get("gmi/spec.json")
        and commit.files["gmi/spec.json"].content == encode_spec(second)[0]
    )
    done = call(app, "spec", "diff", f"hf:{MODEL}@{commit}", "--json")
    document = json.loads(done.stdout)
    assert (document["old"], document["new"]) == (first.digest, second.digest)


def test_a_first_one_replaces_none(call, hf_hub):
    hf_hub.add_repo(MODEL, files(variant(seed=1)))
    done = call(app, "spec", "diff", f"hf:{MODEL}")
    assert done.exit_code == 1
    assert "replaces none" in done.stderr
    assert "hint: gmi spec diff OLD NEW" in done.stderr


def test_a_squashed_history_is_said(call, hf_hub):
    spec = variant(seed=2, previous="a" * 64)
    hf_hub.add_repo(MODEL, files(spec))
    hf_hub.commit(MODEL, {"README.md": b"# flat\n"})
    done = call(app, "spec", "diff", f"hf:{MODEL}")
    assert done.exit_code == 1
    assert (
        "aaaaaaaaaaaa, cannot be found: neither the present specification on the hub" in done.stderr
    )
    assert f"hint: if you have a copy: gmi spec diff COPY hf:{MODEL}" in done.stderr


def test_broken_ones_in_between_are_passed_over(call, hf_hub):
    first = variant(seed=1)
    hf_hub.add_repo(MODEL, files(first))
    hf_hub.commit(MODEL, {"gmi/spec.json": b"{}"})
    hf_hub.commit(MODEL, {"gmi/spec.json": None})
    hf_hub.commit(MODEL, {"gmi/spec.json": b"x" * 400_000})
    hf_hub.commit(MODEL, files(variant(seed=2, previous=first.digest)))
    done = call(app, "spec", "diff", f"hf:{MODEL}", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["old"] == first.digest


def test_a_folder_that_is_not_pushed_yet_is_compared_with_the_hub(call, history, tmp_path):
    third = history[2]
    write_spec(variant(seed=4, previous=third.digest), tmp_path / "new")
    done = call(app, "spec", "diff", tmp_path / "new", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["old"] == third.digest


def test_offline_an_older_commit_cannot_be_asked_for(call, hf_hub, history):
    assert call(app, "spec", "show", f"hf:{MODEL}").exit_code == 0
    hf_hub.clear_requests()
    done = call(app, "spec", "diff", f"hf:{MODEL}", "--offline")
    assert done.exit_code == 1
    assert "the network is switched off" in done.stderr
    assert hf_hub.requests == []


def test_a_hub_that_fails_is_named(call, hf_hub, history):
    hf_hub.inject(Fault("429", path_regex="/commits/", retry_after=9000))
    done = call(app, "spec", "diff", f"hf:{MODEL}")
    assert done.exit_code == 1
    assert "got too many requests" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def local_hub(tmp_path):
    """Three models in a folder: two near to one another, one far away."""
    root = tmp_path / "hub"
    hub = LocalHub.create(root, tmp_path / "digests")
    for number, name in enumerate(("one", "two", "far")):
        folder = root / "models" / name
        folder.mkdir()
        (folder / "w.safetensors").write_bytes(b"weights")
        write_spec(make_spec(name, seed=number), folder)
    return hub.root


def test_the_nearest_other_model_is_a_scale(call, local_hub, tmp_path):
    done = call(app, "spec", "diff", "local:one", "local:two", "--hub", local_hub, "--json")
    assert done.exit_code == 0, done.stderr
    document = json.loads(done.stdout)
    nearest = document["nearest_other"]
    assert nearest["model"] in ("local:one", "local:far")
    others = {
        name: json.loads(
            call(
                app, "spec", "diff", f"local:{name}", "local:two", "--hub", local_hub, "--json",
                "--alone",
            ).stdout
        )
        for name in ("one", "far")
    }  # fmt: skip
    assert nearest["mmd2"] == pytest.approx(min(other["mmd2"] for other in others.values()))
    assert all(other["nearest_other"] is None for other in others.values())
    said = call(app, "spec", "diff", "local:one", "local:two", "--hub", local_hub).stdout
    assert f"the nearest other model, {nearest['model']}" in said


def test_a_folder_keeps_no_older_ones(call, local_hub):
    place = local_hub / "models" / "one"
    write_spec(variant(seed=5, previous="b" * 64, name="one", hub="local"), place)
    unnamed = call(app, "spec", "diff", place)
    assert unnamed.exit_code == 1
    assert "add --hub FOLDER" in unnamed.stderr
    done = call(app, "spec", "diff", "local:one", "--hub", local_hub)
    assert done.exit_code == 1
    assert "a hub in a folder keeps no older ones" in done.stderr
    assert "gmi spec diff COPY local:one" in done.stderr


def test_what_went_out_last_is_still_there(call, local_hub, tmp_path):
    before = json.loads(call(app, "spec", "show", "local:one", "--hub", local_hub, "--json").stdout)
    new = variant(seed=6, previous=before["digest"], name="one", hub="local")
    write_spec(new, tmp_path / "new")
    done = call(app, "spec", "diff", tmp_path / "new", "--hub", local_hub, "--alone", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["old"] == before["digest"]


def test_the_nearest_other_model_of_a_hub_across_the_network(call, hf_hub):
    author = Author(hf_hub)
    for name in ("red", "green", "blue"):
        author.publish(name)
    done = call(app, "spec", "diff", "hf:owner/red", "hf:owner/green", "--hub", "hf", "--json")
    assert done.exit_code == 0, done.stderr
    nearest = json.loads(done.stdout)["nearest_other"]
    others = {
        name: json.loads(
            call(app, "spec", "diff", f"hf:owner/{name}", "hf:owner/green", "--json").stdout
        )["mmd2"]
        for name in ("red", "blue")
    }
    assert nearest["model"].partition("@")[0] == f"hf:owner/{min(others, key=others.get)}"
    assert nearest["mmd2"] == pytest.approx(min(others.values()))
