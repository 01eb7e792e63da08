"""Searches of a hub across a network: the real client, a hub on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import gmi_registry
import gmi_registry.encoders
from gmi_registry.cli.main import app
from gmi_registry.cli.search import app as search_app
from gmi_registry.errors import AuthError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from tests.support.hub_builder import picture
from tests.support.loopback import Fault, User
from tests.support.loopback.fixtures import hf_hub, turn_client
from tests.support.remote_hub import COLOURS, WEIGHTS, Author

__all__ = ["hf_hub"]


@pytest.fixture
def author(hf_hub, monkeypatch):
    """Three models are there: two tagged ``anime``, one ``photo``."""
    found = Author(hf_hub)
    monkeypatch.setattr(gmi_registry.encoders, "load_encoder", lambda *_, **__: found.encoder)
    found.publish("red")
    found.publish("green")
    found.publish("blue", tags=("photo",))
    return found


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "mine.png"
    picture(COLOURS["red"], 99).save(path)
    return path


def ids(done):
    assert done.exit_code == 0, done.stderr
    return [line.split("@")[0] for line in done.stdout.splitlines()]


def test_hugging_face_is_asked_where_no_hub_is_named(call, author, hf_hub, image):
    done = call(search_app, image, "--tag", "anime", "-v")
    assert done.exit_code == 0, done.stderr
    header, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert [row[1].split("@")[0] for row in rows] == ["hf:owner/red", "hf:owner/green"]
    assert [row[header.index("stale")] for row in rows] == ["no", "no"]
    # A page of the listing, two files of two models, and the weights of those that are shown.
    assert len(hf_hub.requests) <= 1 + 2 * 4 + 2
    assert f"requests: {len(hf_hub.requests)} (GET " in done.stderr

    hf_hub.clear_requests()
    again = call(search_app, image, "--tag", "anime", "-v")
    assert again.stdout == done.stdout
    assert "requests: 1 (GET 1)\n" in again.stderr  # the models alone
    assert len(hf_hub.requests) == 1


def test_offline_rests_on_the_last_listing(call, author, hf_hub, image):
    online = call(search_app, image, "--json")
    hf_hub.clear_requests()
    done = call(search_app, image, "--json", "--offline", "-v")
    document = json.loads(done.stdout)
    assert document["results"] == json.loads(online.stdout)["results"]
    assert document["offline"] is True
    assert document["requests"] == {}
    assert 0 <= document["catalogue_age"] < 3600
    assert "offline, from the last listing of the hub: it is less than a minute old" in done.stderr
    assert "requests: 0\n" in done.stderr
    assert hf_hub.requests == []


def test_offline_by_the_environment(call, author, hf_hub, image, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = call(search_app, image, "--cache-dir", tmp_path / "new")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "no model matches; 0 searched" in done.stderr
    assert "there is none yet" in done.stderr
    assert hf_hub.requests == []


def test_a_stale_model_is_marked_and_can_be_left_out(call, author, hf_hub, image):
    call(search_app, image)
    hf_hub.commit("owner/red", {WEIGHTS: b"trained some more"})
    found = json.loads(call(search_app, image, "--json").stdout)["results"]
    assert found[0]["model"].startswith("hf:owner/red@")
    assert found[0]["stale"] is True
    assert [row["stale"] for row in found[1:]] == [False, False]
    fresh = call(search_app, image, "--fresh-only", "--top", "1", "--json")
    document = json.loads(fresh.stdout)
    assert len(document["results"]) == 1
    assert document["results"][0]["model"].split("@")[0] != "hf:owner/red"
    assert (document["stale_left_out"], document["matched"]) == (1, 2)
    assert "1 left out: their weights have changed since" in fresh.stderr


def test_of_two_that_are_equally_near_the_fresh_one_comes_first(call, author, hf_hub, image):
    author.publish("crimson", COLOURS["red"])
    assert ids(call(search_app, image, "-q"))[:2] == ["hf:owner/crimson", "hf:owner/red"]
    hf_hub.commit("owner/crimson", {WEIGHTS: b"trained some more"})
    assert ids(call(search_app, image, "-q"))[:2] == ["hf:owner/red", "hf:owner/crimson"]


def test_a_page_marks_what_is_stale(call, author, hf_hub, image, tmp_path):
    hf_hub.commit("owner/red", {WEIGHTS: b"trained some more"})
    done = call(search_app, image, "-q", "--html", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.count("stale: its weights have changed") == 1


def test_models_that_fail_are_named_and_the_rest_is_ranked(call, author, hf_hub, image):
    hf_hub.commit("owner/green", {"gmi/spec.json": b"{}"})
    hf_hub.commit("owner/blue", {"gmi/spec.tensors": None})
    done = call(search_app, image, "-v")
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert "skipped hf:owner/green@" in done.stderr
    assert "skipped hf:owner/blue@" in done.stderr


def test_a_broken_connection_costs_one_model(call, author, hf_hub, image):
    hf_hub.inject(Fault("cut", path_regex="owner/green/resolve/.*spec.tensors", times=50))
    document = json.loads(call(search_app, image, "--json").stdout)
    names = {row["model"].split("@")[0] for row in document["results"]}
    assert {"hf:owner/red", "hf:owner/blue"} <= names
    assert len(document["results"]) + len(document["skipped"]) == 3
    hf_hub.clear_faults()
    assert len(json.loads(call(search_app, image, "--json").stdout)["results"]) == 3


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_neither_threads_nor_delays_change_the_answer(author, hf_hub, tmp_path, workers):
    hf_hub.commit("owner/green", {"gmi/spec.json": b"{}"})
    hf_hub.inject(Fault("slow", path_regex="owner/blue/resolve/.*spec.json", seconds=0.3))
    result = gmi_registry.search(
        picture(COLOURS["red"], 99),
        "hf",
        cache_dir=tmp_path / f"cache-{workers}",
        workers=workers,
    )
    assert [hit.ref.id for hit in result.hits] == ["owner/red", "owner/blue"]
    assert [skipped.model.id for skipped in result.skipped] == ["owner/green"]
    assert result.read == 3


def test_a_private_model_needs_the_token(call, author, hf_hub, image):
    token = hf_hub.add_user(User("owner", "hf_abcdefghijkl")).token
    author.publish("scarlet", COLOURS["red"], private=True)
    assert "hf:owner/scarlet" not in ids(call(search_app, image, "-q"))
    done = call(search_app, image, "-q", "--token", token)
    assert "hf:owner/scarlet" in ids(done)
    wrong = call(search_app, image, "-v", "--token", "hf_wrongwrongwrong")
    assert wrong.exit_code == 1
    assert "hf_wrong" not in wrong.output


def test_a_tag_nobody_uses(call, author, image):
    done = call(search_app, image, "--tag", "baroque")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "no model matches; 3 searched\n" in done.stderr


def test_a_hub_that_asks_to_slow_down_is_obeyed_in_sight(call, author, hf_hub, image):
    slow = Fault("429", path_regex="owner/green/resolve/.*spec.json", retry_after=1)
    hf_hub.inject(slow)
    start = time.monotonic()
    done = call(search_app, image, "--tag", "anime", "--json")
    found = [hit["model"].split("@")[0] for hit in json.loads(done.stdout)["results"]]
    assert found == ["hf:owner/red", "hf:owner/green"]
    assert time.monotonic() - start >= 2
    assert done.stderr.count("trying again in 2 s\n") == 1
    assert [request.status for request in hf_hub.requests].count(429) == 1


def test_a_hub_that_cannot_be_reached(call, image, monkeypatch, tmp_path):
    turn_client(monkeypatch, "http://127.0.0.1:9", tmp_path / "hf-home")
    done = call(search_app, image)
    assert done.exit_code == 1
    waits = ("asking", "trying again in ")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(waits)]
    assert [line.partition(": ")[0] for line in lines] == ["error", "hint"]
    assert "127.0.0.1:9" in lines[0]
    assert "HF_ENDPOINT" in lines[1]
    assert "--offline" in lines[1]
    assert 1 <= done.stderr.count("trying again in ") <= 2


def test_ctrl_c_does_not_wait_for_downloads(start_only, author, hf_hub, image):
    hf_hub.inject(Fault("slow", path_regex="/resolve/.*spec.tensors", seconds=300, times=50))
    with start_only("search_main", image) as process:
        for line in process.stderr:
            if line.startswith("reading specifications"):
                break
        # The request comes from another process, which has no other way to say that it is sent.
        deadline = time.monotonic() + 200
        while not any("spec.tensors" in request.path for request in list(hf_hub.requests)):
            assert time.monotonic() < deadline, "the program asked for no specification"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        process.wait(200)
    assert process.returncode == 130
    # The encoder loads while specifications download, and either may be the first to speak.
    assert said.removeprefix("loading the encoder\n") == "interrupted\n"


def test_the_python_api_loads_a_specification(author, hf_hub, tmp_path):
    spec = gmi_registry.load_spec("hf:owner/red", cache_dir=tmp_path / "cache")
    assert spec.manifest.model.id == "owner/red"
    with HuggingFaceHub(cache_dir=tmp_path / "cache") as hub:
        assert gmi_registry.load_spec("owner/red", hub).digest == spec.digest
    with pytest.raises(AuthError, match="private, or it does not exist"):
        gmi_registry.load_spec("hf:owner/absent", cache_dir=tmp_path / "cache")


def test_show_needs_no_hub_for_a_whole_name(call, author):
    done = call(app, "spec", "show", "hf:owner/red", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["manifest"]["model"]["id"] == "owner/red"


def test_as_an_extension_of_the_hf_command(author, image, tmp_path):
    """The real ``hf`` finds ``hf-gmi`` where its own installation would have put it.

    ``hf extensions install`` itself fetches from a code host, and is not run here.
    """
    from huggingface_hub.cli.extensions import ExtensionManifest

    programs = Path(sys.executable).parent
    home = tmp_path / "home"
    ExtensionManifest(
        owner="owner",
        repo="hf-gmi",
        repo_id="owner/hf-gmi",
        short_name="gmi",
        executable_path=str(programs / "hf-gmi"),
        type="python",
        installed_at=datetime.now(UTC),
    ).save(home / ".local/share/hf/extensions/hf-gmi")
    done = subprocess.run(
        [programs / "hf", "gmi", "search", image, "--tag", "baroque", "--json"],
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["looked_at"] == 3
    assert "no model matches; 3 searched" in done.stderr
