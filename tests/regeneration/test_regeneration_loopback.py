"""Regeneration on Hugging Face: the real client, a hub on this machine."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest

from gmi_registry.errors import GmiError, InputError, upgrade_hint
from gmi_registry.hubs import Filters
from gmi_registry.regeneration import SequentialExecutor
from gmi_registry.report.difference import find_previous
from gmi_registry.spec import ModelRef, read_spec
from tests.support.loopback import Fault
from tests.support.publishing import publish
from tests.support.regeneration_world import (
    SECRET,
    SPEC,
    WEIGHTS,
    card,
    open_loopback,
    other_weights,
    round_over,
    specification,
)

pytestmark = pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"])

INK = "hf:alice/ink"
SEVERAL = (("ink", 0.5), ("pen", 0.25))


def states(hub, work, **wanted):
    found = round_over(hub, work, **wanted).plan()
    return {str(model.ref): (model.state, model.reason) for model in found.models}


@pytest.fixture
def described(remote, opened, go):
    """``alice/ink`` has a specification."""
    done = go(opened, repos=["alice/ink"])
    assert [result.outcome for result in done.done] == ["published"], done
    assert done.done[0].images == 4
    return remote


def commits(hub, name="alice/ink"):
    return len(hub.history(name))


def test_a_model_without_a_specification_is_missing_where_it_is_named(remote, opened, work):
    assert states(opened, work) == {}
    assert states(opened, work, repos=["alice/ink"]) == {
        INK: ("missing", "it has no specification")
    }


def test_new_weights_are_described_and_the_old_specification_is_named(
    described, opened, go, work, models, tmp_path
):
    before = read_spec(specification(described, "ink", tmp_path / "before"))
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    state, reason = states(opened, work)[INK]
    assert (state, reason) == ("stale", f"its weights have changed: {WEIGHTS}")

    done = go(opened)
    (result,) = done.done
    assert (result.model, result.reason) == (INK, reason)
    after = read_spec(specification(described, "ink", tmp_path / "after"))
    assert after.manifest.previous == before.digest
    assert after.digest == result.digest
    assert after.manifest.model.weights != before.manifest.model.weights
    assert states(opened, work)[INK][0] == "fresh"


def test_our_own_commit_asks_for_nothing(described, opened, go):
    before = commits(described)
    for _ in range(3):
        done = go(opened)
        assert (done.results, done.fresh) == ((), 1)
    assert commits(described) == before


def test_a_plan_costs_few_requests_and_hardly_any_the_second_time(described, opened, work):
    round_over(opened, work).plan()
    described.clear_requests()
    round_over(opened, work).plan()
    asked = [request.path.partition("?")[0] for request in described.requests]
    # The listing, and of the base model what it has now, and its card.
    assert asked[0] == "/api/models"
    assert len(asked) <= 4, asked
    assert all("safetensors" not in path for path in asked)


def test_what_has_not_changed_since_a_moment_is_left_out(described, opened, work):
    (listing,) = opened.list_specs(Filters())
    assert listing.modified is not None
    assert states(opened, work, since=listing.modified)[INK][0] == "fresh"
    assert states(opened, work, since=listing.modified + timedelta(seconds=1)) == {}


def test_a_commit_to_the_card_alone_asks_for_nothing(described, opened, go):
    text = described.files("alice/ink")["README.md"].decode()
    changed = text.replace("license: mit", "license: cc0-1.0")
    assert changed != text
    described.commit("alice/ink", {"README.md": changed.encode()})
    before = commits(described)
    done = go(opened)
    assert (done.results, done.fresh) == ((), 1)
    assert commits(described) == before


def test_other_weights_of_the_base_model_make_a_lora_stale(described, opened, work, models):
    name = "unet/diffusion_pytorch_model.safetensors"
    weights = bytearray((models / "base" / name).read_bytes())
    weights[-1] ^= 1
    described.commit("alice/base", {name: bytes(weights)})
    assert states(opened, work)[INK] == (
        "stale",
        f"the weights of its base model have changed: {name}",
    )


def test_the_encoder_and_the_prompts_of_today(described, opened, work, monkeypatch):
    text = card("alice/base", tags="tiny, gmi-spec").replace("tiny/test", "ViT-L-14/openai")
    described.commit("alice/ink", {"README.md": text.encode()})
    state, reason = states(opened, work)[INK]
    assert state == "stale"
    assert reason == "its encoder is tiny/test, and ViT-L-14/openai is wanted now"

    from gmi_registry import generation
    from gmi_registry.spec import PromptSet

    newer = PromptSet("few", 2, ("a cat", "the moon"))
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: newer)
    assert states(opened, work)[INK][1].endswith(
        "; its prompts are few version 1, and few version 2 are wanted now"
    )


def test_the_card_of_the_base_model_counts_where_the_own_one_says_nothing(described, opened, work):
    plain = "---\ntags: [tiny, gmi-spec]\nbase_model: alice/base\n---\n# Plain\n"
    described.commit("alice/ink", {"README.md": plain.encode()})
    assert states(opened, work)[INK][0] == "fresh"
    described.commit("alice/base", {"README.md": b"---\ntags: [tiny]\n---\n"})
    state, reason = states(opened, work)[INK]
    assert (state, reason.split(",")[0]) == ("stale", "its encoder is tiny/test")


@pytest.mark.parametrize("path", SPEC)
def test_a_broken_specification_is_made_anew(described, opened, go, work, path, tmp_path):
    content = described.files("alice/ink")[path]
    described.commit("alice/ink", {path: content[:-20]})
    assert states(opened, work)[INK][0] == "broken"
    assert [result.outcome for result in go(opened).results] == ["published"]
    assert read_spec(specification(described, "ink", tmp_path / "after"))


def test_a_specification_that_went_missing_is_made_anew(described, opened, go, work):
    described.commit("alice/ink", dict.fromkeys(SPEC))
    assert states(opened, work)[INK][0] == "missing"
    assert [result.outcome for result in go(opened).results] == ["published"]


def test_a_newer_format_is_left_alone(described, opened, go, work):
    document = json.loads(described.files("alice/ink")[SPEC[0]])
    document["format"]["version"] = "2.0"
    described.commit("alice/ink", {SPEC[0]: json.dumps(document).encode()})
    before = commits(described)
    done = go(opened)
    (model,) = done.set_aside
    assert "format version 2.0" in model.reason
    assert upgrade_hint() in model.reason
    assert (done.results, commits(described)) == ((), before)


def test_what_somebody_elses_machine_did_meanwhile_is_left(
    described, opened, work, models, tmp_path
):
    """Both draw; the one that is ready later finds that it is done, and pushes nothing."""
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    before = commits(described)
    others = []

    def told(stage, done, total):
        if stage == "encode" and done == total:
            with open_loopback(described, tmp_path / "other-cache") as hub:
                there = round_over(hub, tmp_path / "other-work")
                others.append(there.run(there.plan()))

    this = round_over(opened, work)
    done = this.run(this.plan(), SequentialExecutor(opened, progress=told))
    assert [result.outcome for summary in others for result in summary.results] == ["published"]
    (result,) = done.results
    assert (result.outcome, result.digest) == ("fresh", others[0].done[0].digest)
    assert commits(described) == before + 1


def test_weights_that_change_while_they_are_described_are_for_the_next_run(
    described, opened, work, models, go, tmp_path
):
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    newest = other_weights(models, 0.25)

    def told(stage, done, total):
        if stage == "encode" and done == total:
            described.commit("alice/ink", {WEIGHTS: newest})

    this = round_over(opened, work)
    done = this.run(this.plan(), SequentialExecutor(opened, progress=told))
    assert [result.outcome for result in done.failed] == ["failed"]
    assert "is another file now" in done.failed[0].reason
    assert [result.outcome for result in go(opened).results] == ["published"]
    assert states(opened, work)[INK][0] == "fresh"


def test_a_proposal_is_made_once(described, models, work, tmp_path):
    """Bob may not write: his pull request waits, and is not drawn again while it does."""
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    with open_loopback(described, tmp_path / "bob", "hf_thisIsOfSomebodyElse") as hub:
        first = round_over(hub, work)
        (result,) = first.run(first.plan()).done
        assert result.outcome == "proposed"
        again = round_over(hub, work)
        done = again.run(again.plan())
        assert done.results == ()
        assert done.set_aside[0].reason == (
            f"proposed, and the owner has not decided: {result.where}"
        )
        described.commit("alice/ink", {WEIGHTS: other_weights(models, 0.25)})
        newer = round_over(hub, work).plan()
        assert [model.state for model in newer.models] == ["stale"]


def test_a_model_that_nobody_may_read_is_set_aside_and_others_are_not(described, go, tmp_path):
    described.add_repo(
        "alice/closed", {"README.md": b"---\ntags: [gmi-spec]\n---\n"}, gated="manual"
    )
    with open_loopback(described, tmp_path / "bob", "hf_thisIsOfSomebodyElse") as hub:
        done = go(hub)
    assert done.fresh == 1
    (model,) = done.set_aside
    assert str(model.ref) == "hf:alice/closed"
    assert "gated" in model.reason


def test_no_token_is_said_or_kept(described, opened, go, work, models):
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    done = go(opened)
    kept = [path.read_text("latin-1") for path in work.rglob("*") if path.is_file()]
    assert all(SECRET not in text for text in (*kept, done.to_markdown(), str(done.to_json())))


@pytest.fixture
def impatient(monkeypatch):
    """The client's waits pass at once."""
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def test_a_hub_that_is_out_of_order_counts_against_no_model(
    described, opened, work, models, go, impatient
):
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    this = round_over(opened, work)
    found = this.plan()
    described.inject(Fault("500", "POST", "/commit/", times=50))
    for _ in range(4):
        done = this.run(found)
        (failed,) = done.failed
        assert (failed.passing, failed.error, done.failures[INK]) == (True, "HubError", 0)
        assert "is out of order and answers 500" in failed.reason
    described.clear_faults()
    assert [result.outcome for result in go(opened).results] == ["published"]


def test_a_hub_that_asks_to_stop_ends_the_run(described, opened, work, models, go, impatient):
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    described.add_repo("alice/oil", described.files("alice/ink"))
    described.commit("alice/oil", {WEIGHTS: other_weights(models, 0.25)})
    this = round_over(opened, work)
    found = this.plan()
    assert [model.state for model in found.models] == ["stale", "broken"]
    described.inject(Fault("429", path_regex="alice/ink", times=500, retry_after=3600))
    done = this.run(found)
    (failed,) = done.failed
    assert (failed.model, failed.error, failed.passing) == (INK, "RateLimitError", True)
    assert [it.why for it in done.left] == ["the hub asked the program to stop"]
    described.clear_faults()
    assert len(go(opened).done) == 2


def test_a_specification_of_another_model_is_broken(described, opened, work, models):
    files = described.files("alice/ink") | {WEIGHTS: other_weights(models)}
    described.add_repo("alice/oil", files)
    assert states(opened, work)["hf:alice/oil"] == (
        "broken",
        "the specification describes hf:alice/ink, but was found at hf:alice/oil, whose weights "
        "are not those that it describes",
    )


def test_a_copy_with_its_weights_is_the_same_model(described, opened, work):
    described.add_repo("alice/oil", described.files("alice/ink"))
    assert [state for state, _ in states(opened, work).values()] == ["fresh", "fresh"]


@pytest.mark.parametrize("base", [False, True])
def test_a_renamed_model_asks_for_nothing(described, opened, go, work, tmp_path, base):
    content = described.files("alice/ink")["gmi/spec.json"]
    described.rename("alice/ink", "alice/pen")
    if base:
        described.rename("alice/base", "bob/ground")
    fresh = ("fresh", "the same weights, format, encoder and prompts")
    assert states(opened, work) == {"hf:alice/pen": fresh}
    for name in ("alice/pen", "alice/ink", "Alice/Ink"):
        assert states(opened, work, repos=[name]) == {"hf:alice/pen": fresh}
    done = go(opened)
    assert (done.results, done.fresh) == ((), 1)
    for name in ("hf:alice/pen", "hf:alice/ink"):
        before = commits(described, "alice/pen")
        done = publish(ModelRef.parse(name), opened, work=tmp_path / "work")
        assert done.images == 0
        assert str(done.ref) == "hf:alice/pen"
        renamed = "hf:alice/ink is called hf:alice/pen now"
        assert (renamed in done.plan.warnings) == (name == "hf:alice/ink")
        if base and name == "hf:alice/pen":
            # What was used is what is recorded: the base as it is called now.
            assert done.outcome == "published"
            assert any("bob/ground is used" in line for line in done.plan.warnings)
            now = read_spec(specification(described, "pen", tmp_path / "now"))
            assert (now.manifest.model.base_model, now.manifest.model.id) == (
                "bob/ground",
                "alice/pen",
            )
            continue
        assert done.outcome == "up to date"
        assert commits(described, "alice/pen") == before
    if not base:
        assert described.files("alice/pen")["gmi/spec.json"] == content


def test_a_renamed_model_is_described_anew_under_its_new_name(
    described, opened, go, work, models, tmp_path
):
    before = read_spec(specification(described, "ink", tmp_path / "before"))
    described.rename("alice/ink", "alice/pen")
    described.commit("alice/pen", {WEIGHTS: other_weights(models)})
    (result,) = go(opened, repos=["alice/ink"]).done
    assert (result.model, result.outcome) == ("hf:alice/pen", "published")
    after = read_spec(specification(described, "pen", tmp_path / "after"))
    assert after.manifest.model.id == "alice/pen"
    assert after.manifest.previous == before.digest
    # The one before it has the old name, and is found at the old commit by the weights of then.
    assert find_previous(after, opened).spec == before


def test_one_of_several_files_stays_the_one_that_is_described(remote, opened, go, work, models):
    files = {"README.md": card("alice/base").encode()}
    files |= {f"{name}.safetensors": other_weights(models, shift) for name, shift in SEVERAL}
    remote.add_repo("alice/styles", files)
    assert len(go(opened, repos=["alice/styles/pen.safetensors"]).done) == 1
    assert states(opened, work) == {
        "hf:alice/styles/pen.safetensors": (
            "fresh",
            "the same weights, format, encoder and prompts",
        )
    }
    # Another file is of no concern.
    remote.commit("alice/styles", {"ink.safetensors": other_weights(models, 0.125)})
    assert go(opened).fresh == 1
    remote.commit("alice/styles", {"pen.safetensors": other_weights(models, 0.0625)})
    (result,) = go(opened).results
    assert (result.model, result.outcome) == ("hf:alice/styles/pen.safetensors", "published")
    assert states(opened, work, repos=["alice/styles/ink.safetensors"]) == {
        "hf:alice/styles/ink.safetensors": (
            "stale",
            "it describes another file than ink.safetensors",
        )
    }


def test_a_revision_is_refused(opened, work):
    with pytest.raises(InputError, match="names a revision"):
        states(opened, work, repos=["alice/ink@v1"])


def test_a_model_that_is_not_there_is_an_error_where_it_is_named(opened, go):
    with pytest.raises(GmiError, match="nobody"):
        go(opened, repos=["alice/nobody"])


def test_a_base_that_was_named_is_kept_whatever_the_card_says(
    described, opened, go, work, models, tmp_path
):
    files = {
        path: content
        for path, content in described.files("alice/base").items()
        if path != "README.md"
    }
    described.add_repo("alice/other", files | {"README.md": card().encode()})
    ref = ModelRef("hf", "alice/ink")
    done = publish(ref, opened, work=work, base="alice/other", device="cpu")
    assert (done.outcome, done.plan.base_origin) == ("published", "option")
    assert states(opened, work, repos=["alice/ink"])[INK][0] == "fresh"
    described.commit("alice/ink", {WEIGHTS: other_weights(models)})
    assert [it.outcome for it in go(opened, repos=["alice/ink"]).done] == ["published"]
    model = read_spec(specification(described, "ink", tmp_path / "now")).manifest.model
    assert (model.base_model, model.base_origin) == ("alice/other", "option")
