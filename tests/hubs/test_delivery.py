"""Small files that come with one request: where they lie, and what the hub's own client makes of
them afterwards."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download, scan_cache_dir

from gmi_registry.errors import AuthError, HubError, SpecNotFoundError
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.huggingface.client import HubRequest
from gmi_registry.hubs.huggingface.download import _bar
from gmi_registry.spec import ModelRef
from tests.support.loopback import Fault, User
from tests.support.loopback.records import Blob

ADA = User("ada-example", "hf_adasecret")
MANIFEST, TENSORS = "gmi/spec.json", "gmi/spec.tensors"
FILES = {MANIFEST: b"{}", TENSORS: b"\0\1\2" * 50_000}


@pytest.fixture
def fetch(hf_hub):
    """Fetches the specification of a model whose files are FILES."""
    hf_hub.add_user(ADA)
    sha = hf_hub.add_repo("ada-example/one", FILES, private=True)
    hub = HuggingFaceHub(token=ADA.token)
    yield lambda: hub.fetch_spec(ModelRef("hf", "ada-example/one", sha))
    hub.close()


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hf_hub, fetch):
    fetch()
    assert {
        (request.host.partition(":")[0], request.token_user) for request in hf_hub.requests
    } == {
        ("127.0.0.1", "ada-example"),
        ("localhost", None),
    }


def test_the_client_finds_what_was_brought_and_sees_nothing_odd(hf_hub, fetch):
    folder = fetch()
    sha = folder.parent.name
    hf_hub.clear_requests()
    for path, content in FILES.items():
        found = Path(hf_hub_download("ada-example/one", path, revision=sha, token=False))
        assert found == folder.parent / path
        assert found.read_bytes() == content
        assert not found.readlink().is_absolute()
    assert hf_hub.requests == []
    seen = scan_cache_dir()
    assert seen.warnings == []
    (repo,) = seen.repos
    assert (repo.repo_id, repo.nb_files) == ("ada-example/one", 2)
    assert {path.name for path in folder.parents[2].rglob("*.incomplete")} == set()


def test_a_cache_without_links_holds_the_files_themselves(hf_hub, fetch, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "links are not for everyone")

    monkeypatch.setattr(os, "symlink", refuse)
    folder = fetch()
    assert {path.name: path.is_symlink() for path in folder.iterdir()} == {
        "spec.json": False,
        "spec.tensors": False,
    }
    hf_hub.clear_requests()
    assert (fetch() / "spec.tensors").read_bytes() == FILES[TENSORS]
    assert hf_hub.requests == []


def test_a_link_that_leads_nowhere_is_replaced(fetch):
    place = fetch() / "spec.json"
    place.resolve().unlink()
    assert (fetch() / "spec.json").read_bytes() == FILES[MANIFEST]


def test_a_hub_that_states_no_digest_is_left_to_its_client(hf_hub, fetch, monkeypatch):
    monkeypatch.setattr(Blob, "etag", property(lambda blob: f"revision-7-{blob.size}"))
    folder = fetch()
    assert (folder / "spec.json").read_bytes() == FILES[MANIFEST]
    assert (folder / "spec.json").resolve().name == "revision-7-2"
    assert "HEAD" in [request.method for request in hf_hub.requests]


@pytest.mark.parametrize("path", [MANIFEST, TENSORS])
def test_a_connection_that_breaks_is_made_again(hf_hub, fetch, path, monkeypatch):
    naps = []
    monkeypatch.setattr("time.sleep", naps.append)
    where = path if path == MANIFEST else f"storage.*{path}"
    hf_hub.inject(Fault("cut", path_regex=where, times=2))
    folder = fetch()
    assert (folder.parent / path).read_bytes() == FILES[path]
    assert naps == [1.0, 2.0]


def test_a_connection_that_always_breaks_is_an_error_and_leaves_nothing(hf_hub, fetch, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hf_hub.inject(Fault("cut", path_regex="spec.json", times=99))
    with pytest.raises(HubError, match="cannot be reached"):
        fetch()
    assert [path for path in Path(os.environ["HF_HOME"]).rglob("*spec*") if path.is_file()] == []


def test_what_is_missing_is_noted_where_the_client_looks(hf_hub):
    sha = hf_hub.add_repo("ada/bare", {"README.md": b"# Bare\n"})
    hub = HuggingFaceHub(token=False)
    with pytest.raises(SpecNotFoundError, match="has no specification"):
        hub.fetch_spec(ModelRef("hf", "ada/bare", sha))
    hub.close()
    hub_cache = Path(os.environ["HF_HOME"]) / "hub"
    assert (hub_cache / "models--ada--bare/.no_exist" / sha / MANIFEST).is_file()


def test_a_private_model_stays_private(hf_hub, fetch):
    sha = hf_hub.add_repo("ada/two", FILES, private=True)
    hub = HuggingFaceHub(token=False)
    with pytest.raises(AuthError, match="private, or it does not exist"):
        hub.fetch_spec(ModelRef("hf", "ada/two", sha))
    hub.close()


def test_a_file_that_is_larger_than_the_hub_said_ends_at_the_limit():
    bar = _bar(100, HubRequest("http://127.0.0.1", False, "ada-example/one"), False)(total=50)
    bar.update(60)
    with pytest.raises(HubError, match="more than 100"):
        bar.update(60)
