"""What a search over Hugging Face's protocol costs: requests, threads, and reading once."""

from __future__ import annotations

import hashlib
import threading

import pytest

import gmi_registry
from gmi_registry.spec import Manifest, read_spec, write_spec
from tests.support.hub_builder import picture
from tests.support.loopback.fixtures import hf_hub
from tests.support.remote_hub import COLOURS, WEIGHTS, Author

__all__ = ["hf_hub"]

NAMES = [f"model-{number}" for number in range(6)]
PAGES = 1
REGISTRY = 1  # asked whether it has more; here there is none


@pytest.fixture
def author(hf_hub):
    found = Author(hf_hub)
    for name in NAMES:
        found.publish(name, COLOURS["red"])
    return found


@pytest.fixture
def search(author, tmp_path, monkeypatch):
    monkeypatch.setenv("GMI_REGISTRY", "gmi-registry/specs")

    def run(top):
        return gmi_registry.search(
            picture(COLOURS["red"], 99),
            "hf",
            tags=["anime"],
            top=top,
            cache_dir=tmp_path / "cache",
            encoder=author.encoder,
        )

    return run


@pytest.mark.parametrize("shown", [1, 4])
def test_three_requests_a_model_and_one_for_each_that_is_shown(search, hf_hub, shown):
    result = search(shown)
    assert len(result.hits) == shown
    assert [hit.stale for hit in result.hits] == [False] * shown
    # One for the manifest, and two for the tensors: the hub, and the storage that it names.
    assert len(hf_hub.requests) == PAGES + REGISTRY + 3 * len(NAMES) + shown
    # Of the scarcer kind, questions to the API, there are few.
    assert sum("/api/" in request.path for request in hf_hub.requests) == PAGES + REGISTRY + shown


def test_what_was_asked_once_is_not_asked_again(search, hf_hub):
    first = search(4)
    hf_hub.clear_requests()
    assert search(4).hits == first.hits
    assert [request.path.partition("?")[0] for request in hf_hub.requests] == [
        "/api/datasets/gmi-registry/specs/revision/main",
        "/api/models",
    ]


def test_a_new_commit_alone_costs_what_it_changed(search, hf_hub):
    search(len(NAMES))
    hf_hub.commit(f"owner/{NAMES[0]}", {WEIGHTS: b"trained some more"})
    hf_hub.clear_requests()
    result = search(len(NAMES))
    assert [hit.ref.id for hit in result.hits if hit.stale] == [f"owner/{NAMES[0]}"]
    # Both files have the content that the cache knows, so their names are asked for and no more.
    assert [request.method for request in hf_hub.requests].count("HEAD") == 2
    assert len(hf_hub.requests) == PAGES + REGISTRY + 2 + 1


def test_downloads_leave_no_threads_behind(search):
    before = set(threading.enumerate())
    search(4)
    left = [
        thread
        for thread in set(threading.enumerate()) - before
        if type(thread).__module__.startswith("tqdm")
    ]
    assert left == []


def test_a_specification_is_read_once(author, tmp_path, monkeypatch):
    files = author.spec_files("model-0", COLOURS["red"], b"weights")
    (tmp_path / "gmi").mkdir()
    for path, content in files.items():
        (tmp_path / path).write_bytes(content)
    read = []
    from_bytes = Manifest.from_bytes
    monkeypatch.setattr(
        Manifest, "from_bytes", lambda data: read.append(len(data)) or from_bytes(data)
    )
    spec = read_spec(tmp_path)
    assert read == [len(files["gmi/spec.json"])]
    assert spec.digest == hashlib.sha256(files["gmi/spec.json"]).hexdigest()
    write_spec(spec, tmp_path / "again")
    assert (tmp_path / "again/gmi/spec.json").read_bytes() == files["gmi/spec.json"]
