"""The index in the registry: pushed as it is here, fetched file by file."""

from __future__ import annotations

import hashlib

import pytest

from gmi_registry.errors import AuthError, HubError, OfflineError, SpecNotFoundError
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.dataset import INDEX_FOLDER, push_aggregate
from tests.support.registry_author import REPO


@pytest.fixture
def folder(tmp_path):
    """A small text and something that the hub keeps in its other storage."""
    root = tmp_path / "index"
    (root / "group").mkdir(parents=True)
    (root / "index.json").write_bytes(b'{"format": "one"}')
    (root / "group" / "a-means.tensors").write_bytes(bytes(range(256)) * 8000)
    return root


def files_in(root):
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def dataset():
    return Registry(token="hf_keeper").dataset


def opened(tmp_path, **options):
    return Registry(cache_dir=tmp_path / "cache", **options).aggregate()


def stored(hub):
    return {
        path.removeprefix(f"{INDEX_FOLDER}/")
        for path in hub.files(REPO, repo_type="dataset")
        if path.startswith(INDEX_FOLDER)
    }


def test_it_is_there_as_it_was_here(hub, folder, tmp_path):
    url = push_aggregate(dataset(), files_in(folder))
    assert url.startswith(hub.endpoint)
    assert stored(hub) == set(files_in(folder))
    files = opened(tmp_path)
    assert files.name.startswith(f"{REPO}@")
    for name, path in files_in(folder).items():
        assert files.fetch(name).read_bytes() == path.read_bytes()
    hub.clear_requests()
    assert files.fetch("index.json").is_file()
    assert hub.requests == []


def test_what_stays_the_same_is_fetched_once(hub, folder, tmp_path):
    push_aggregate(dataset(), files_in(folder))
    name = "group/a-means.tensors"
    opened(tmp_path).fetch(name, sha256="of its content")
    hub.commit(REPO, {"README.md": b"# Later\n"}, repo_type="dataset")
    hub.clear_requests()
    files = opened(tmp_path)
    assert len(hub.requests) == 1
    assert (
        files.fetch(name, sha256="of its content").read_bytes()
        == files_in(folder)[name].read_bytes()
    )
    assert len(hub.requests) == 1
    files.fetch("index.json")
    assert len(hub.requests) == 2


def test_offline_it_is_what_was_seen_last(hub, folder, tmp_path):
    with pytest.raises(OfflineError):
        opened(tmp_path, offline=True)
    push_aggregate(dataset(), files_in(folder))
    opened(tmp_path).fetch("index.json")
    hub.clear_requests()
    files = opened(tmp_path, offline=True)
    assert files.fetch("index.json").is_file()
    with pytest.raises(OfflineError):
        files.fetch("group/a-means.tensors", sha256="never fetched")
    assert hub.requests == []


def test_a_search_that_asks_twice_sends_one_request(hub, tmp_path):
    registry = Registry(cache_dir=tmp_path / "cache")
    registry.aggregate()
    list(registry.listings("hf"))
    assert [request.path for request in hub.requests if "/revision/" in request.path] == [
        f"/api/datasets/{REPO}/revision/main?expand=sha"
    ]
    none = Registry("gmi-registry/none", cache_dir=tmp_path / "cache")
    hub.clear_requests()
    for ask in (none.aggregate, lambda: list(none.listings("hf"))):
        with pytest.raises(AuthError):
            ask()
    assert len(hub.requests) == 1


def test_only_what_differs_is_sent_and_what_is_gone_goes(hub, folder):
    push_aggregate(dataset(), files_in(folder))
    (folder / "index.json").write_bytes(b'{"format": "two"}')
    (folder / "group" / "b.tensors").write_bytes(b"b" * 100)
    kept = folder / "group" / "a-means.tensors"
    hub.clear_requests()
    push_aggregate(dataset(), files_in(folder))
    assert not [request for request in hub.requests if request.method == "PUT"]
    assert stored(hub) == set(files_in(folder))
    kept.unlink()
    push_aggregate(dataset(), files_in(folder))
    assert stored(hub) == {"index.json", "group/b.tensors"}
    commits = len(hub.history(REPO, repo_type="dataset"))
    assert push_aggregate(dataset(), files_in(folder)).endswith(INDEX_FOLDER)
    assert len(hub.history(REPO, repo_type="dataset")) == commits


def test_a_proposal_leaves_the_registry_as_it_is(hub, folder):
    url = push_aggregate(dataset(), files_in(folder), create_pr=True)
    assert "/discussions/" in url
    assert stored(hub) == set()


def test_a_file_that_is_larger_than_promised_is_refused(hub, folder, tmp_path):
    push_aggregate(dataset(), files_in(folder))
    files = opened(tmp_path)
    with pytest.raises(HubError, match="100"):
        files.fetch("group/a-means.tensors", size=100)
    with pytest.raises(SpecNotFoundError):
        files.fetch("group/none.tensors")


def test_without_a_token_nothing_is_sent(hub, folder):
    with pytest.raises(AuthError, match="needs a token"):
        push_aggregate(Registry(token=False).dataset, files_in(folder))
    assert stored(hub) == set()


def test_the_same_file_is_recognised_in_either_storage(hub, folder):
    push_aggregate(dataset(), files_in(folder))
    tree = dataset().tree(dataset().head(), INDEX_FOLDER)
    for name, path in files_in(folder).items():
        there = tree[f"{INDEX_FOLDER}/{name}"]
        assert there.holds(path)
        assert there.holds(path.read_bytes())
        assert not there.holds(path.read_bytes()[::-1])
    large = tree[f"{INDEX_FOLDER}/group/a-means.tensors"]
    assert (
        large.sha256
        == hashlib.sha256(files_in(folder)["group/a-means.tensors"].read_bytes()).hexdigest()
    )
