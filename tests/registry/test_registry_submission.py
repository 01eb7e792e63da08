"""Putting specifications into the registry: proposed, committed, refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.support.registry_author import (
    BLUE,
    PREVIEW,
    RED,
    REPO,
    civitai,
    described,
    entry_files,
    spec_of,
)

# isort: split
from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedOperationError,
)
from gmi_registry.hubs.registry import Registry
from gmi_registry.hubs.registry.entries import entry_of
from gmi_registry.spec import ModelRef, write_spec
from tests.support.loopback import Fault, User

REF = ModelRef("civitai", "123", "456")
README = {"README.md": b"# Specifications\n"}


@pytest.fixture
def upload(tmp_path):
    """A folder to publish, and what the registry is to hold of it."""

    def make(colour=RED, *, model=None, preview=None):
        spec = spec_of(model or civitai(), colour)
        place = tmp_path / f"{spec.digest[:8]}-{preview is not None}"
        return write_spec(spec, place, preview=preview), entry_files(spec, preview=preview)

    return make


def held(hub, revision="main"):
    return hub.files(REPO, revision, repo_type="dataset")


def history(hub):
    return hub.history(REPO, repo_type="dataset")


def posts(hub):
    return [request.path for request in hub.requests if request.method == "POST"]


@dataclass(frozen=True)
class ScopedUser(User):
    """An account with a fine-grained token."""

    grants: dict[str, Any] = field(default_factory=dict, hash=False)

    def whoami(self):
        said = super().whoami()
        said["auth"]["accessToken"] |= {"role": "fineGrained", "fineGrained": self.grants}
        return said


class TestProposal:
    def test_a_pull_request_holds_the_files_of_one_entry(self, hub, upload):
        folder, files = upload(preview=PREVIEW)
        url = Registry(token="hf_ada").push_spec(REF, folder)
        assert url == f"{hub.endpoint}/datasets/{REPO}/discussions/1"
        assert held(hub) == README
        assert held(hub, "refs/pr/1") == README | files
        pull = hub.repo(REPO, "dataset").discussions[1]
        assert (pull.title, pull.author) == ("Specification of civitai:123", "ada")

    def test_weights_name_the_place_of_a_model_on_hugging_face(self, hub, upload):
        model = described(revision="v2")
        folder, files = upload(model=model)
        ref = ModelRef("hf", "owner/style", "v2")
        Registry(token="hf_ada").push_spec(ref, folder)
        assert held(hub, "refs/pr/1") == README | files
        assert sorted(files)[0] == f"hf/owner/style/{model.weights_digest}/gmi/spec.json"

    def test_the_same_is_proposed_once_and_another_again(self, hub, upload):
        registry = Registry(token="hf_ada")
        first = registry.push_spec(REF, upload()[0])
        assert registry.push_spec(REF, upload()[0]) == first
        assert Registry(token="hf_ben").push_spec(REF, upload()[0]) != first
        assert registry.push_spec(REF, upload(BLUE)[0]) not in (first,)
        assert len(hub.repo(REPO, "dataset").discussions) == 3

    def test_a_maintainer_proposes_as_well_unless_told_otherwise(self, hub, upload):
        url = Registry(token="hf_keeper").push_spec(REF, upload()[0])
        assert url.endswith("/discussions/1")
        assert held(hub) == README

    def test_who_may_not_commit_proposes(self, hub, upload):
        folder, files = upload()
        url = Registry(token="hf_ada").push_spec(REF, folder, create_pr=False)
        assert url.endswith("/discussions/1")
        assert held(hub, "refs/pr/1") == README | files

    def test_once_merged_it_is_listed(self, hub, upload):
        folder, files = upload()
        Registry(token="hf_ada").push_spec(REF, folder)
        keeper = Registry(token="hf_keeper")
        keeper.dataset.api.merge_pull_request(REPO, 1, repo_type="dataset")
        assert held(hub) == README | files
        assert [item.ref for item in Registry().listings("civitai")] == [REF]


class TestCommit:
    def test_one_commit(self, hub, upload):
        folder, files = upload(preview=PREVIEW)
        url = Registry(token="hf_keeper").push_spec(REF, folder, create_pr=False)
        assert url == f"{hub.endpoint}/datasets/{REPO}/commit/{history(hub)[0].oid}"
        assert held(hub) == README | files
        assert len(history(hub)) == 2

    def test_an_entry_is_replaced_whole(self, hub, upload):
        registry = Registry(token="hf_keeper")
        registry.push_spec(REF, upload(preview=PREVIEW)[0], create_pr=False)
        folder, files = upload(BLUE)
        registry.push_spec(REF, folder, create_pr=False)
        assert held(hub) == README | files

    def test_a_signature_goes_with_its_specification_alone(self, hub, upload):
        registry = Registry(token="hf_keeper")
        folder, files = upload()
        (folder / "spec.sig").write_bytes(b"{}")
        registry.push_spec(REF, folder, create_pr=False)
        signed = README | files | {"civitai/123/456/gmi/spec.sig": b"{}"}
        assert held(hub) == signed
        (folder / "spec.sig").unlink()
        registry.push_spec(REF, folder, create_pr=False)
        assert held(hub) == signed
        folder, files = upload(BLUE)
        registry.push_spec(REF, folder, create_pr=False)
        assert held(hub) == README | files

    def test_what_is_there_is_not_sent_again(self, hub, upload):
        registry = Registry(token="hf_keeper")
        registry.push_spec(REF, upload()[0], create_pr=False)
        hub.clear_requests()
        head = history(hub)[0].oid
        url = registry.push_spec(REF, upload()[0])
        assert url == f"{hub.endpoint}/datasets/{REPO}/tree/{head}/civitai/123/456/gmi"
        assert [path for path in posts(hub) if "paths-info" not in path] == []

    def test_a_commit_in_between_is_built_upon(self, hub, upload):
        hub.inject(Fault("stale-parent", files={"civitai/1/1/gmi/spec.json": b"theirs"}))
        folder, files = upload()
        Registry(token="hf_keeper").push_spec(REF, folder, create_pr=False)
        assert held(hub) == README | files | {"civitai/1/1/gmi/spec.json": b"theirs"}
        assert len(history(hub)) == 3

    @pytest.mark.parametrize("applied", [True, False])
    @pytest.mark.parametrize("kind", ["cut", "500"])
    @pytest.mark.parametrize("create_pr", [True, False])
    def test_what_happened_is_looked_up_before_it_is_sent_again(
        self, hub, upload, kind, applied, create_pr
    ):
        hub.inject(Fault(kind, "POST", "/commit/", applied=applied))
        folder, files = upload()
        Registry(token="hf_keeper").push_spec(REF, folder, create_pr=create_pr)
        assert held(hub, "refs/pr/1" if create_pr else "main") == README | files
        assert len(hub.repo(REPO, "dataset").discussions) == (1 if create_pr else 0)
        assert len(history(hub)) == (1 if create_pr else 2)

    def test_it_gives_up_in_the_end(self, hub, upload):
        fault = hub.inject(Fault("stale-parent", times=99))
        with pytest.raises(HubError, match="others keep changing it"):
            Registry(token="hf_keeper").push_spec(REF, upload()[0], create_pr=False)
        assert fault.seen == 5


class TestRights:
    @pytest.mark.parametrize("token", [False, None])
    def test_no_token(self, hub, upload, token):
        for call in (
            lambda: Registry(token=token).check_writable(REF),
            lambda: Registry(token=token).push_spec(REF, upload()[0]),
        ):
            with pytest.raises(AuthError, match="publishing there needs a token") as caught:
                call()
            assert caught.value.hint.startswith("hf auth login")
        assert not hub.requests

    def test_one_that_only_reads_or_is_wrong(self, hub):
        with pytest.raises(AuthError, match="can only read"):
            Registry(token="hf_reader").check_writable(REF)
        with pytest.raises(AuthError, match="does not accept the token"):
            Registry(token="hf_wrong0000").check_writable(REF)

    @pytest.mark.parametrize(
        ("kind", "name", "permission", "may"),
        [
            ("dataset", REPO, "discussion.write", True),
            ("dataset", REPO, "repo.write", True),
            ("org", "gmi-registry", "repo.write", True),
            ("dataset", REPO, "repo.content.read", False),
            ("model", REPO, "repo.write", False),
            ("dataset", "gmi-registry/other", "repo.write", False),
        ],
    )
    def test_a_fine_grained_one(self, hub, kind, name, permission, may):
        scope = {"entity": {"type": kind, "name": name}, "permissions": [permission]}
        hub.add_user(ScopedUser("dora", "hf_dora", grants={"scoped": [scope]}))
        registry = Registry(token="hf_dora")
        if may:
            registry.check_writable(REF)
            return
        with pytest.raises(AuthError, match="made for other repositories") as caught:
            registry.check_writable(REF)
        assert "open discussions in gmi-registry/specs" in caught.value.hint

    def test_a_registry_that_is_not_there(self, hub):
        with pytest.raises(SpecNotFoundError, match="holds no dataset no/where"):
            Registry("no/where", token="hf_ada").check_writable(REF)

    def test_who_may_propose_may_go_on(self, hub):
        Registry(token="hf_ada").check_writable(REF)
        assert [request.method for request in hub.requests] == ["GET"] * 3
        with pytest.raises(UnsupportedOperationError):
            Registry(token="hf_ada").check_writable(ModelRef("local", "style"))


class TestUpload:
    def test_another_model_version_or_weights(self, hub, upload):
        registry = Registry(token="hf_ada")
        with pytest.raises(SpecFormatError, match="describes civitai:123, but"):
            registry.push_spec(ModelRef("civitai", "7", "456"), upload()[0])
        with pytest.raises(InputError, match="describes civitai:123@456, not civitai:123@7"):
            registry.push_spec(ModelRef("civitai", "123", "7"), upload()[0])
        pinned = entry_of(described(weights=(b"other",)))
        with pytest.raises(InputError, match="describes hf:owner/style@"):
            registry.push_spec(pinned, upload(model=described())[0])
        assert not hub.requests

    def test_a_version_that_nobody_names(self, hub, upload):
        with pytest.raises(InputError, match="names no version"):
            Registry(token="hf_ada").push_spec(
                ModelRef("civitai", "123"), upload(model=described("civitai", "123"))[0]
            )

    def test_an_empty_folder(self, hub, tmp_path):
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"holds no spec\.json"):
            Registry(token="hf_ada").push_spec(REF, tmp_path / "empty")
