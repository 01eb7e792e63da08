"""Publishing to Hugging Face: the real client against a Hub on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import pytest
from huggingface_hub import HfApi

from gmi_registry.errors import AuthError, HubError, RateLimitError, SpecNotFoundError
from gmi_registry.hubs.huggingface.card_edit import SECTION_START
from gmi_registry.hubs.huggingface.publishing import check_writable, push_spec
from gmi_registry.spec import (
    DescribedModel,
    ModelRef,
    write_spec,
)
from tests.support.hub_builder import random_spec, weight_file
from tests.support.loopback import Fault, User

WEIGHTS = b"\0weights of the style"
WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
CARD = b"---\nlicense: mit\ntags:\n- anime\nlibrary_name: diffusers\n---\n# Style\n"
REF = ModelRef("hf", "alice/style")
TENSORS = "gmi/spec.tensors"
SECRET = "hf_thisMustNeverBeSeen"


@pytest.fixture
def hub(hf_hub, monkeypatch):
    """A hub with one model, of Alice; nobody waits."""
    hf_hub.waits = []
    monkeypatch.setattr(time, "sleep", hf_hub.waits.append)
    hf_hub.add_user(User("alice", SECRET))
    hf_hub.add_user(User("bob", "hf_bob"))
    hf_hub.add_user(User("carol", "hf_carol", orgs=("alice",)))
    hf_hub.add_user(User("alice", "hf_reader", role="read"))
    hf_hub.add_repo(REF.id, {"README.md": CARD, WEIGHTS_NAME: WEIGHTS})
    return hf_hub


@pytest.fixture
def upload(tmp_path):
    """A folder to publish; another ``seed`` gives another specification."""

    def make(seed=0, *, name=REF.id, weights=WEIGHTS, path=WEIGHTS_NAME, preview=None):
        files = (weight_file(weights, path),)
        spec = random_spec(
            DescribedModel(hub="hf", id=name, title="Style", kind="lora", weights=files), seed
        )
        place = tmp_path / f"{name.replace('/', '-')}-{seed}-{preview is not None}"
        return write_spec(spec, place, preview=preview)

    return make


def client(hub, token=SECRET):
    return HfApi(hub.endpoint, token=token)


def contents(folder):
    return {f"gmi/{path.name}": path.read_bytes() for path in folder.iterdir()}


def published(hub, name=REF.id, revision="main"):
    found = hub.files(name, revision)
    return {path: content for path, content in found.items() if path.startswith("gmi/")}


def posts(hub):
    return [request.path for request in hub.requests if request.method == "POST"]


@dataclass(frozen=True)
class ScopedUser(User):
    """An account with a fine-grained token, or other roles in its organisations."""

    grants: dict[str, Any] = field(default_factory=dict, hash=False)
    roles: dict[str, str] = field(default_factory=dict, hash=False)

    def whoami(self):
        said = super().whoami()
        for org in said["orgs"]:
            org["roleInOrg"] = self.roles.get(org["name"], "write")
        if self.grants:
            said["auth"]["accessToken"] |= {"role": "fineGrained", "fineGrained": self.grants}
        return said


class TestPreflight:
    def test_what_a_push_starts_from(self, hub):
        found = check_writable(client(hub), REF)
        assert (found.user, found.can_write, found.branch) == ("alice", True, "main")
        assert found.parent_commit == hub.history(REF.id)[0].oid
        assert found.card == CARD
        assert found.files[WEIGHTS_NAME].holds(WEIGHTS)
        assert found.files["README.md"].holds(CARD)
        assert not found.files["README.md"].holds(CARD[::-1])

    def test_nothing_is_sent_and_nothing_kept(self, hub, tmp_path):
        check_writable(client(hub), REF)
        assert not posts(hub)
        assert not list((tmp_path / "hf-home").rglob("README.md"))

    @pytest.mark.parametrize(("token", "can_write"), [("hf_bob", False), ("hf_carol", True)])
    def test_another_owner_means_a_proposal(self, hub, token, can_write):
        assert check_writable(client(hub, token), REF).can_write is can_write

    @pytest.mark.parametrize(("role", "can_write"), [("admin", True), ("contributor", False)])
    def test_the_role_in_an_organisation_counts(self, hub, role, can_write):
        hub.add_user(ScopedUser("dora", "hf_dora", orgs=("alice",), roles={"alice": role}))
        assert check_writable(client(hub, "hf_dora"), REF).can_write is can_write

    @pytest.mark.parametrize(
        ("kind", "name", "permissions", "can_write"),
        [
            ("user", "alice", ["repo.content.read", "repo.write"], True),
            ("model", REF.id, ["repo.write"], True),
            ("user", "alice", ["discussion.write"], False),
        ],
    )
    def test_a_fine_grained_token_that_covers_it(self, hub, kind, name, permissions, can_write):
        scope = {"entity": {"type": kind, "name": name}, "permissions": permissions}
        hub.add_user(ScopedUser("alice", "hf_fine", grants={"scoped": [scope]}))
        assert check_writable(client(hub, "hf_fine"), REF).can_write is can_write

    @pytest.mark.parametrize("entity", ["acme", "alice/other"])
    def test_a_token_for_something_else_is_refused(self, hub, entity):
        kind = "model" if "/" in entity else "org"
        scope = {"entity": {"type": kind, "name": entity}, "permissions": ["repo.write"]}
        hub.add_user(ScopedUser("alice", "hf_fine", grants={"scoped": [scope]}))
        with pytest.raises(AuthError, match="made for other repositories") as caught:
            check_writable(client(hub, "hf_fine"), REF)
        assert "/settings/tokens" in caught.value.hint

    @pytest.mark.parametrize("token", [None, False])
    def test_no_token(self, hub, token):
        with pytest.raises(AuthError, match="needs a token") as caught:
            check_writable(client(hub, token), REF)
        assert caught.value.hint.startswith("hf auth login")
        assert not hub.requests

    def test_a_wrong_token(self, hub):
        with pytest.raises(AuthError, match="does not accept the token") as caught:
            check_writable(client(hub, "hf_wrong0000"), REF)
        assert "hf auth login" in caught.value.hint
        assert "hf_wrong" not in caught.value.message

    def test_a_token_that_only_reads(self, hub):
        with pytest.raises(AuthError, match="can only read") as caught:
            check_writable(client(hub, "hf_reader"), REF)
        assert "write access: " in caught.value.hint
        assert "/settings/tokens" in caught.value.hint

    def test_a_model_that_is_not_there(self, hub):
        with pytest.raises(SpecNotFoundError, match="alice/none") as caught:
            check_writable(client(hub), ModelRef("hf", "alice/none"))
        assert caught.value.hint

    def test_a_private_model(self, hub):
        hub.add_repo("alice/secret", {WEIGHTS_NAME: WEIGHTS}, private=True)
        ref = ModelRef("hf", "alice/secret")
        assert check_writable(client(hub), ref).can_write
        with pytest.raises(SpecNotFoundError, match="may not see it"):
            check_writable(client(hub, "hf_bob"), ref)

    def test_a_gated_model(self, hub):
        hub.add_repo("alice/gated", {WEIGHTS_NAME: WEIGHTS, "README.md": CARD}, gated=True)
        ref = ModelRef("hf", "alice/gated")
        assert check_writable(client(hub), ref).can_write
        with pytest.raises(AuthError, match="gated") as caught:
            check_writable(client(hub, "hf_bob"), ref)
        assert f"{hub.endpoint}/alice/gated" in caught.value.hint

    def test_a_broken_card_is_refused_with_the_line(self, hub):
        hub.commit(REF.id, {"README.md": b"---\nlicense: mit\ntags: [a\n---\n"})
        with pytest.raises(HubError, match=r"README\.md line 3: .* is not YAML"):
            check_writable(client(hub), REF)

    def test_a_card_with_other_bytes_than_listed_is_refused(self, hub):
        hub.inject(Fault("hostile-content", path_regex="README", content=b"# Mine\n", times=9))
        with pytest.raises(HubError, match="other bytes than those that the hub lists"):
            check_writable(client(hub), REF)

    @pytest.mark.parametrize("path", ["whoami", "/api/models/"])
    def test_a_connection_that_breaks_is_made_again(self, hub, path):
        fault = hub.inject(Fault("cut", path_regex=path, times=2))
        assert check_writable(client(hub), REF).can_write
        assert fault.seen == 2
        assert hub.waits == [1, 2]

    def test_a_connection_that_always_breaks_is_an_error(self, hub):
        fault = hub.inject(Fault("cut", path_regex="whoami", times=9))
        with pytest.raises(HubError, match="cannot be reached") as caught:
            check_writable(client(hub), REF)
        assert caught.value.hint
        assert fault.seen == 3

    def test_a_hub_that_is_not_there(self, hub):
        api = HfApi("http://127.0.0.1:9", token=SECRET)
        with pytest.raises(HubError, match=r"127\.0\.0\.1:9 cannot be reached"):
            check_writable(api, REF)


class TestPush:
    def test_one_commit_holds_everything(self, hub, upload):
        folder = upload(preview=b"sheet")
        before = hub.files(REF.id)
        url = push_spec(client(hub), REF, folder)
        head, parent = hub.history(REF.id)[:2]
        assert url == f"{hub.endpoint}/{REF.id}/commit/{head.oid}"
        assert len(hub.history(REF.id)) == 2
        assert parent.files["README.md"].content == CARD
        after = hub.files(REF.id)
        assert {path: after[path] for path in contents(folder)} == contents(folder)
        assert after.keys() == {*before, *contents(folder)}
        assert after[WEIGHTS_NAME] == WEIGHTS
        card = after["README.md"]
        assert card.startswith(CARD.replace(b"- anime\n", b"- anime\n- gmi-spec\n"))
        assert b"gmi/preview.webp" in card
        assert head.files[TENSORS].lfs
        found = [model.id for model in client(hub).list_models(filter="gmi-spec")]
        assert found == [REF.id]

    def test_a_second_time_is_up_to_date(self, hub, upload):
        push_spec(client(hub), REF, upload())
        head = hub.history(REF.id)[0].oid
        hub.clear_requests()
        url = push_spec(client(hub), REF, upload())
        assert url == f"{hub.endpoint}/{REF.id}/tree/{head}/gmi"
        assert hub.history(REF.id)[0].oid == head
        assert not posts(hub)

    def test_a_new_one_replaces_the_old_and_its_preview(self, hub, upload):
        push_spec(client(hub), REF, upload(0, preview=b"sheet"))
        push_spec(client(hub), REF, upload(1))
        assert published(hub) == contents(upload(1))
        assert len(hub.history(REF.id)) == 3
        assert b"preview" not in hub.files(REF.id)["README.md"]

    def test_a_model_without_a_card_gets_one(self, hub, upload):
        hub.commit(REF.id, {"README.md": None})
        push_spec(client(hub), REF, upload())
        assert hub.files(REF.id)["README.md"].startswith(b"---\ntags:\n- gmi-spec\n---\n")

    def test_other_weights_are_not_described(self, hub, upload):
        hub.commit(REF.id, {WEIGHTS_NAME: WEIGHTS[::-1]})
        with pytest.raises(HubError, match="is another file now") as caught:
            push_spec(client(hub), REF, upload())
        assert caught.value.hint == f"the model changed meanwhile: gmi-publish {REF}"
        hub.commit(REF.id, {WEIGHTS_NAME: None})
        with pytest.raises(HubError, match="is gone"):
            push_spec(client(hub), REF, upload())
        assert not published(hub)

    def test_weights_that_git_holds_are_compared_too(self, hub, upload):
        ref = ModelRef("hf", "alice/small")
        files = {".gitattributes": b"*.zip filter=lfs\n", "w.safetensors": b"as a text"}
        hub.add_repo(ref.id, files)
        assert not hub.history(ref.id)[0].files["w.safetensors"].lfs
        folder = upload(1, name=ref.id, weights=b"another t", path="w.safetensors")
        with pytest.raises(HubError, match="another file now"):
            push_spec(client(hub), ref, folder)
        push_spec(client(hub), ref, upload(name=ref.id, weights=b"as a text", path="w.safetensors"))
        assert TENSORS in published(hub, ref.id)

    def test_a_branch_that_is_named_is_the_one(self, hub, upload):
        client(hub).create_branch(REF.id, branch="fp16")
        push_spec(client(hub), ModelRef("hf", REF.id, "fp16"), upload())
        assert published(hub, revision="fp16") == contents(upload())
        assert not published(hub)


class TestProposal:
    def test_a_pull_request_where_one_may_not_write(self, hub, upload):
        url = push_spec(client(hub, "hf_bob"), REF, upload())
        assert url == f"{hub.endpoint}/{REF.id}/discussions/1"
        assert not published(hub)
        assert published(hub, revision="refs/pr/1") == contents(upload())
        assert hub.files(REF.id)["README.md"] == CARD

    def test_the_same_is_not_proposed_twice(self, hub, upload):
        first = push_spec(client(hub, "hf_bob"), REF, upload())
        assert push_spec(client(hub, "hf_bob"), REF, upload()) == first
        assert len(hub.repo(REF.id).discussions) == 1
        assert push_spec(client(hub, "hf_bob"), REF, upload(1)) != first

    def test_somebody_elses_proposal_is_not_ours(self, hub, upload):
        first = push_spec(client(hub, "hf_bob"), REF, upload())
        assert push_spec(client(hub), REF, upload(), create_pr=True) != first

    def test_an_owner_may_prefer_to_propose(self, hub, upload):
        url = push_spec(client(hub), REF, upload(), create_pr=True)
        assert url.endswith("/discussions/1")
        assert not published(hub)

    def test_a_right_that_was_taken_away_meanwhile(self, hub, upload):
        # The account says that it may, the repository that it may not.
        user = ScopedUser("erin", "hf_erin")
        object.__setattr__(user, "whoami", User("alice", "hf_erin").whoami)
        hub.add_user(user)
        url = push_spec(client(hub, "hf_erin"), REF, upload())
        assert url.endswith("/discussions/1")


class TestRaces:
    def test_a_commit_in_between_is_built_upon(self, hub, upload):
        theirs = CARD + b"More.\n"
        hub.inject(Fault("stale-parent", files={"README.md": theirs}))
        push_spec(client(hub), REF, upload())
        assert len(hub.history(REF.id)) == 3
        assert published(hub) == contents(upload())
        assert b"More.\n" in hub.files(REF.id)["README.md"]
        assert SECTION_START.encode() in hub.files(REF.id)["README.md"]

    def test_new_weights_in_between_stop_it(self, hub, upload):
        hub.inject(Fault("stale-parent", files={WEIGHTS_NAME: b"\0others"}))
        with pytest.raises(HubError, match="another file now"):
            push_spec(client(hub), REF, upload())
        assert not published(hub)

    def test_a_stale_preview_that_others_remove_first(self, hub, upload):
        push_spec(client(hub), REF, upload(0, preview=b"sheet"))
        hub.inject(Fault("stale-parent", files={"gmi/preview.webp": None}))
        push_spec(client(hub), REF, upload(1))
        assert published(hub) == contents(upload(1))

    def test_it_gives_up_in_the_end(self, hub, upload):
        fault = hub.inject(Fault("stale-parent", times=99))
        with pytest.raises(HubError, match="others keep changing it") as caught:
            push_spec(client(hub), REF, upload())
        assert caught.value.hint
        assert fault.seen == 5
        assert not published(hub)

    @pytest.mark.parametrize("applied", [True, False])
    @pytest.mark.parametrize("kind", ["cut", "500"])
    @pytest.mark.parametrize("token", [SECRET, "hf_bob"], ids=["commit", "proposal"])
    def test_what_happened_is_looked_up_before_it_is_sent_again(
        self, hub, upload, kind, applied, token
    ):
        hub.inject(Fault(kind, "POST", "/commit/", applied=applied))
        push_spec(client(hub, token), REF, upload())
        if token == SECRET:
            assert published(hub) == contents(upload())
            assert len(hub.history(REF.id)) == 2
        else:
            assert published(hub, revision="refs/pr/1") == contents(upload())
            assert len(hub.repo(REF.id).discussions) == 1

    def test_a_full_quota_is_waited_for(self, hub, upload):
        hub.inject(Fault("429", "POST", "/commit/", retry_after=7))
        push_spec(client(hub), REF, upload())
        assert hub.waits == [8]
        assert published(hub) == contents(upload())

    def test_an_endless_wait_is_not(self, hub, upload):
        hub.inject(Fault("429", "POST", "/commit/", retry_after=4000))
        with pytest.raises(RateLimitError) as caught:
            push_spec(client(hub), REF, upload())
        assert caught.value.retry_after == 4000
        assert not hub.waits
