"""What publishing and searching need of a hub: the one on this machine, and the real one.

The tests are the same. ``nox -s live`` runs them against the real hub, with HF_TOKEN, in a private
repository that each test makes and deletes; without it only the hub on this machine is asked.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from gmi_registry.errors import AuthError, HubError, SpecNotFoundError
from gmi_registry.hubs import Filters
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.spec import ModelRef, read_spec, write_spec
from tests.support.hub_builder import ProjectionEncoder, save_lora, style_spec
from tests.support.loopback import LoopbackHub, User, fixtures

WEIGHTS = "pytorch_lora_weights.safetensors"
RED, BLUE = (240, 20, 10), (20, 30, 230)
# The real hub lists a new repository when it comes to it.
_LISTED_WITHIN = 120.0

LOCAL = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])


@dataclass
class Throwaway:
    """A private model of the token's own account; ``tag`` is on its card and on no other."""

    api: HfApi
    ref: ModelRef
    tag: str
    room: Path

    def open(self, disk: str = "cache", **settings: object) -> HuggingFaceHub:
        """The hub, with what it downloads in a folder of that name."""
        return HuggingFaceHub(cache_dir=self.room / disk, **settings)

    def commit(self, message: str, files: dict[str, bytes], **settings: object) -> str:
        """A commit by hand; its SHA."""
        added = [CommitOperationAdd(path, content) for path, content in files.items()]
        return self.api.create_commit(self.ref.id, added, commit_message=message, **settings).oid

    def weights(self, seed: int) -> bytes:
        place = self.room / f"weights-{seed}"
        save_lora(place, seed)
        return place.read_bytes()

    def folder(self, colour: tuple[int, ...]) -> Path:
        """What is to be published of the model as it is now."""
        with self.open() as hub:
            weights = hub.fetch_model(self.ref).weights
        spec = style_spec(ProjectionEncoder(), self.ref.id, weights, colour)
        return write_spec(spec, self.room / secrets.token_hex(4))

    def read(self, ref: ModelRef, disk: str = "cache", **settings: object) -> object:
        with self.open(disk, **settings) as hub:
            return read_spec(hub.fetch_spec(ref).parent, expected=ref, follow_links=True)


@pytest.fixture(
    params=[pytest.param("loopback", marks=LOCAL), pytest.param("live", marks=pytest.mark.live)]
)
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A throw-away model with weights and a card, on either hub."""
    if request.param == "live":
        assert os.environ.get("HF_TOKEN"), "set HF_TOKEN to a token that may write"
        with throwaway(tmp_path) as made:
            yield made
        return
    (tmp_path / "xet").mkdir()
    with LoopbackHub(xet_dir=tmp_path / "xet") as hub:
        fixtures.turn_client(monkeypatch, hub.endpoint, tmp_path / "home", xet=True)
        monkeypatch.setenv("HF_TOKEN", hub.add_user(User("ada", "hf_ada")).token)
        with throwaway(tmp_path) as made:
            yield made
        assert not hub.state.repos, "the repository is still there"
        assert not hub.failures


@contextmanager
def throwaway(room: Path) -> Iterator[Throwaway]:
    api = HfApi()
    tag = f"gmi-test-{secrets.token_hex(6)}"
    name = f"{api.whoami()['name']}/{tag}"
    api.create_repo(name, private=True)
    try:
        made = Throwaway(api, ModelRef("hf", name), tag, room)
        card = f"---\nlicense: mit\ntags:\n- {tag}\n---\n# To be deleted\n".encode()
        made.commit("A model", {"README.md": card, WEIGHTS: made.weights(0)})
        yield made
    finally:
        api.delete_repo(name)


@pytest.fixture(params=["xet", "lfs"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which way large files take."""
    if request.param == "xet":
        pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
    return request.param


def listed(model: Throwaway, sha: str):
    """The one listing by its tag, once the hub has it at that commit."""
    deadline = time.monotonic() + _LISTED_WITHIN
    while True:
        with model.open() as hub:
            found = list(hub.list_specs(Filters(tags=(model.tag,))))
        if [entry.ref.revision for entry in found] == [sha] or time.monotonic() > deadline:
            return found
        # The live hub indexes new tags in its own time, and has no call that waits for it.
        time.sleep(5)


def test_what_is_published_is_there_is_found_and_needs_no_network_again(model, route):
    folder = model.folder(RED)
    spec = read_spec(folder.parent, expected=model.ref)
    with model.open() as hub:
        hub.check_writable(model.ref)
        url = hub.push_spec(model.ref, folder)
        assert url.startswith(f"{hub.endpoint}/{model.ref.id}/commit/")
        again = hub.push_spec(model.ref, folder)
    sha = model.api.model_info(model.ref.id).sha
    assert url.endswith(sha)
    assert again.endswith(f"/tree/{sha}/gmi"), "published twice"
    assert model.read(model.ref, "another disk") == spec
    (found,) = listed(model, sha)
    assert found.ref == ModelRef("hf", model.ref.id, sha)
    assert {"gmi-spec", model.tag} <= set(found.tags)
    with model.open() as hub:
        current = hub.weight_digests(found.ref)
    assert current == {file.path: file.sha256 for file in spec.manifest.model.weights}
    assert model.read(found.ref) == spec
    with model.open(offline=True) as hub:
        assert [entry.ref for entry in hub.list_specs(Filters(tags=(model.tag,)))] == [found.ref]
        assert hub.traffic.total == 0
    assert model.read(model.ref, offline=True) == spec


def test_a_new_specification_replaces_the_old_one(model):
    with model.open() as hub:
        hub.push_spec(model.ref, model.folder(RED))
        hub.push_spec(model.ref, model.folder(BLUE))
    wanted = style_spec(
        ProjectionEncoder(), model.ref.id, model.read(model.ref).manifest.model.weights, BLUE
    )
    assert model.read(model.ref, "another disk") == wanted
    titles = [commit.title for commit in model.api.list_repo_commits(model.ref.id)]
    assert [title.partition(" ")[0] for title in titles[:2]] == ["Update", "Add"]


def test_a_proposal_is_read_at_its_own_revision_and_made_once(model, route):
    folder = model.folder(RED)
    with model.open() as hub:
        url = hub.push_spec(model.ref, folder, create_pr=True)
        assert hub.push_spec(model.ref, folder, create_pr=True) == url
    number = url.rpartition("/discussions/")[2]
    proposed = ModelRef("hf", model.ref.id, f"refs/pr/{number}")
    assert model.read(proposed) == read_spec(folder.parent, expected=model.ref)
    with pytest.raises(SpecNotFoundError, match="has no specification"):
        model.read(model.ref)


def test_a_commit_on_a_stale_parent_is_refused_and_a_push_builds_on_the_newer(model):
    parent = model.api.model_info(model.ref.id).sha
    model.commit("In between", {"notes.txt": b"first\n"}, parent_commit=parent)
    with pytest.raises(HfHubHTTPError) as caught:
        model.commit("Too late", {"notes.txt": b"second\n"}, parent_commit=parent)
    assert caught.value.response.status_code == 412
    with model.open() as hub:
        hub.push_spec(model.ref, model.folder(RED))
    assert "notes.txt" in model.api.list_repo_files(model.ref.id)
    assert model.read(model.ref)


def test_weights_that_changed_are_not_described_and_known_as_others(model):
    folder = model.folder(RED)
    sha = model.commit("Other weights", {WEIGHTS: model.weights(1)})
    with model.open() as hub:
        with pytest.raises(HubError, match="is another file now"):
            hub.push_spec(model.ref, folder)
        now = hub.weight_digests(ModelRef("hf", model.ref.id, sha))
    described = read_spec(folder.parent).manifest.model.weights
    assert now[WEIGHTS] != described[0].sha256


def test_what_is_not_there_is_told_apart(model):
    with pytest.raises(SpecNotFoundError, match="has no specification") as caught:
        model.read(model.ref)
    assert caught.value.hint == f"gmi-publish {model.ref}"
    with pytest.raises(SpecNotFoundError, match="has no revision v9"):
        model.read(ModelRef("hf", model.ref.id, "v9"))
    with pytest.raises(SpecNotFoundError, match="holds no model"):
        model.read(ModelRef("hf", f"{model.ref.id}-not"))
    with pytest.raises(AuthError, match="it is private, or it does not exist"):
        model.read(model.ref, token=False)
