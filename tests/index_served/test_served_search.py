"""A search from end to end over an index that is served: the zoo, its encoder, the commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gmi_registry
from gmi_registry.cli.main import app
from gmi_registry.cli.search import app as search_app
from gmi_registry.errors import IncomparableSpecsError, OfflineError, UnsupportedOperationError

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "zoo" / "queries" / "pixel-art-rose.png"

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture(scope="module")
def served(shared_server, tmp_path_factory):
    """The zoo as a local hub, its index, and that index on the server."""
    folder = tmp_path_factory.mktemp("zoo")
    hub, index, url = folder / "hub", folder / "index", shared_server.url()
    shutil.copytree(ROOT / "zoo" / "hub", hub)
    for found in (ROOT / "docs" / "press" / "specs").iterdir():
        shutil.copytree(found / "gmi", hub / "models" / found.name / "gmi", dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GMI_CACHE_DIR", str(folder / "cache"))
        for command in (["build", index, "--hub", hub], ["serve-into", index, url]):
            done = CliRunner().invoke(app, ["index", *map(str, command)])
            assert done.exit_code == 0, done.output
        assert done.stdout == "models: 16 models\n"
        yield hub, index, url


def asked(*arguments):
    done = CliRunner().invoke(search_app, [str(PICTURE), *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_the_server_answers_as_the_files_do(served):
    hub, index, url = served
    by_files = asked("--hub", hub, "--index", index, "--top", 5)
    by_server = asked("--hub", hub, "--index", url, "--top", 5)
    assert by_server["index"] == url
    assert (by_server["looked_at"], by_server["matched"]) == (16, 16)
    for ours, theirs in zip(by_server["results"], by_files["results"], strict=True):
        assert ours["model"] == theirs["model"]
        assert ours["distance"] == pytest.approx(theirs["distance"], rel=1e-4)
        assert ours["confidence"] == pytest.approx(theirs["confidence"], abs=1e-4)
        assert ours["best_prompts"] == theirs["best_prompts"]
    found = asked("--hub", hub, "--index", url, "--tag", "painting")
    assert {hit["model"].split("@")[0] for hit in found["results"]} == {
        "local:icon-oil",
        "local:icon-watercolour",
    }
    assert asked("--hub", hub, "--index", url, "--tag", "none of them")["results"] == []


def test_what_a_server_cannot_answer_is_said(served):
    hub, _, url = served
    for options in ({"like": "icon-noto"}, {"prompt": "pixel art"}):
        with pytest.raises(UnsupportedOperationError, match="answers only to images") as caught:
            gmi_registry.search(hub=hub, index=url, **options)
        assert "--index DIR" in caught.value.hint
    others = ({"score": "paper"}, {"prompt": "a rose"}, {"not_like": [PICTURE]})
    for options in (*others, {"fresh_only": True}):
        with pytest.raises(UnsupportedOperationError):
            gmi_registry.search(PICTURE, hub, index=url, **options)


def test_offline_a_server_elsewhere_is_not_asked(tmp_path):
    hub = ROOT / "zoo" / "hub"
    with pytest.raises(OfflineError, match="across the network"):
        gmi_registry.search(PICTURE, hub, index="qdrant://example.org/models", offline=True)


def test_another_encoder_is_an_error(served):
    hub, _, url = served

    class Other:
        ref = None

        def encode_images(self, images):
            raise NotImplementedError

        encode_texts = encode_images

    from gmi_registry.encoders import load_encoder

    folder = hub / "encoders" / "gmi-zoo-clip" / "icons-v1"
    encoder = load_encoder("gmi-zoo-clip", "icons-v1", folder)
    other = Other()
    other.ref = encoder.ref.model_copy(update={"weights_sha256": "0" * 64})
    other.encode_images = encoder.encode_images
    with pytest.raises(IncomparableSpecsError):
        gmi_registry.search(PICTURE, hub, index=url, encoder=other)
