"""Regeneration on a folder's hub: bounds, failures, interruptions, and many runners."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import pytest

from gmi_registry.errors import InputError
from gmi_registry.regeneration import FailureStore, Result, SequentialExecutor
from gmi_registry.regeneration.store import folder_about, model_lock
from gmi_registry.spec import ModelRef, PromptSet, read_spec
from tests.support.publishing import publish
from tests.support.regeneration_world import (
    UNFIT,
    WEIGHTS,
    card,
    fill_folder,
    other_weights,
    round_over,
)

NAMES = ("chalk", "ink", "oil")


@pytest.fixture
def many(models, tmp_path):
    """Three LoRAs without specifications."""
    return fill_folder(models, tmp_path / "hub", NAMES)


def place(hub, name="ink"):
    return hub.root / "models" / name


def change(hub, models, name="ink", shift=0.5):
    (place(hub, name) / WEIGHTS).write_bytes(other_weights(models, shift))


def plan(hub, work, **wanted):
    found = round_over(hub, work, **wanted).plan()
    return {str(model.ref): (model.state, model.reason) for model in found.models}


def outcomes(done):
    return {result.model: result.outcome for result in done.results}


def test_new_weights_a_new_card_and_nothing_new(published, go, work, models):
    assert plan(published, work) == {
        "local:ink": ("fresh", "the same weights, format, encoder and prompts")
    }
    (place(published) / "README.md").write_text(card("base", tags="tiny, wet"))
    assert outcomes(go(published)) == {}
    before = read_spec(place(published))

    change(published, models)
    assert plan(published, work)["local:ink"] == (
        "stale",
        f"its weights have changed: {WEIGHTS}",
    )
    assert outcomes(go(published)) == {"local:ink": "published"}
    after = read_spec(place(published))
    assert after.manifest.previous == before.digest
    assert outcomes(go(published)) == {}
    assert list(work.glob("*.png")) == []


def test_the_authors_own_prompts_and_seeds_are_kept(published, go, models, work):
    from gmi_registry.generation import RecipeOverrides

    own = PromptSet("own", 1, ("a purple cow", "a quiet street"))
    publish(
        ModelRef("local", "ink"),
        published,
        work=work,
        prompts=own,
        overrides=RecipeOverrides(seeds=(3, 7), lora_scale=0.5),
        device="cpu",
    )
    change(published, models)
    assert outcomes(go(published)) == {"local:ink": "published"}
    manifest = read_spec(place(published)).manifest
    assert [block.name for block in manifest.prompt_sets] == ["few", "own"]
    assert manifest.prompt_sets[1].prompt_set == own
    assert manifest.generation.recipe.seeds == (3, 7)
    assert manifest.generation.recipe.lora_scale == 0.5


def test_settings_that_no_card_states_are_kept_and_others_are_the_cards(
    published, go, models, work
):
    from gmi_registry.generation import RecipeOverrides

    def chosen():
        recipe = read_spec(place(published)).manifest.generation.recipe
        return recipe.negative_prompt, recipe.clip_skip

    overrides = RecipeOverrides(negative_prompt="ugly", clip_skip=1)
    publish(ModelRef("local", "ink"), published, work=work, overrides=overrides, device="cpu")
    change(published, models)
    assert outcomes(go(published)) == {"local:ink": "published"}
    assert chosen() == ("ugly", 1)

    text = card("base").replace("gmi:\n", "gmi:\n  negative_prompt: blur\n")
    (place(published) / "README.md").write_text(text)
    change(published, models, shift=0.7)
    assert outcomes(go(published)) == {"local:ink": "published"}
    assert chosen() == ("blur", 1)


def test_a_damaged_file_is_broken_and_made_anew(published, go, work):
    tensors = place(published) / "gmi" / "spec.tensors"
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    assert plan(published, work)["local:ink"][0] == "broken"
    assert outcomes(go(published)) == {"local:ink": "published"}
    assert tensors.read_bytes() != bytes(content)


def test_a_card_that_names_no_encoder_is_set_aside(published, go):
    text = card("base").replace("tiny/test", "tiny")
    (place(published) / "README.md").write_text(text)
    done = go(published)
    assert [model.reason for model in done.set_aside] == ["'tiny' does not name an encoder"]


def test_bounds(many, go):
    first = go(many, repos=NAMES, max_models=1)
    assert outcomes(first) == {"local:chalk": "published"}
    assert [(str(it.model.ref), it.why) for it in first.left] == [
        ("local:ink", "--max-models was reached"),
        ("local:oil", "--max-models was reached"),
    ]
    second = go(many, repos=NAMES, max_seconds=0)
    assert outcomes(second) == {}
    assert {it.why for it in second.left} == {"--max-seconds had passed"}
    third = go(many, repos=NAMES, max_seconds=1e-9 + 600)
    assert outcomes(third) == {"local:ink": "published", "local:oil": "published"}
    assert third.fresh == 1
    assert go(many, repos=NAMES, max_models=0).left == ()


def test_what_somebody_else_did_since_the_plan_does_not_count(many, work, go):
    this = round_over(many, work, repos=NAMES)
    found = this.plan()
    go(many, repos=["chalk"])
    done = this.run(found, max_models=1)
    assert outcomes(done) == {"local:chalk": "fresh", "local:ink": "published"}


def test_tags_and_dates_choose(many, go, work):
    go(many, repos=NAMES)
    (place(many, "oil") / "README.md").write_text(card("base", tags="tiny, painted"))
    go(many, repos=["oil"])
    assert set(plan(many, work, tags=["tiny"])) == {f"local:{name}" for name in NAMES}
    assert plan(many, work, tags=["nothing"]) == {}
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert plan(many, work, since=tomorrow) == {}
    assert set(plan(many, work, since=tomorrow - timedelta(days=2))) == {
        f"local:{name}" for name in NAMES
    }


def test_a_model_that_fails_three_times_is_set_aside_and_others_go_on(many, go, models, work):
    (place(many, "ink") / WEIGHTS).write_bytes(UNFIT)
    for times in (1, 2, 3):
        done = go(many, repos=NAMES)
        (failed,) = done.failed
        assert (failed.model, done.failures["local:ink"]) == ("local:ink", times)
        assert not failed.passing
        assert not done.is_well
    fourth = go(many, repos=NAMES)
    assert (outcomes(fourth), fourth.fresh, fourth.is_well) == ({}, 2, True)
    (model,) = fourth.set_aside
    assert model.reason.startswith("failed 3 times, last on 2")

    assert outcomes(go(many, repos=NAMES, retry=True)) == {"local:ink": "failed"}
    change(many, models)
    assert outcomes(go(many, repos=NAMES)) == {"local:ink": "published"}
    assert FailureStore.about(work, many).histories() == {}


def test_a_fault_of_a_library_is_a_failure_of_that_model(many, go, monkeypatch):
    from gmi_registry import generation

    real = generation.build_spec

    def build(model, *arguments, **settings):
        if model.ref.id == "chalk":
            raise RuntimeError("out of memory; hf_abcdefghijk\nsecond line")
        return real(model, *arguments, **settings)

    monkeypatch.setattr(generation, "build_spec", build)
    done = go(many, repos=NAMES)
    assert outcomes(done) == {
        "local:chalk": "failed",
        "local:ink": "published",
        "local:oil": "published",
    }
    assert done.failed[0].reason == "RuntimeError: out of memory; hf_… second line"


def test_ctrl_c_ends_the_run_and_the_next_goes_on(many, work, go):
    def told(stage, done, total):
        if stage == "generate" and done:
            raise KeyboardInterrupt

    this = round_over(many, work, repos=NAMES)
    done = this.run(this.plan(), SequentialExecutor(many, progress=told))
    assert done.interrupted
    assert outcomes(done) == {}
    assert {it.why for it in done.left} == {"the run was interrupted"}
    assert len(done.left) == 3
    assert FailureStore.about(work, many).histories() == {}
    again = go(many, repos=NAMES)
    assert len(again.done) == 3
    # The first model's pictures were there.
    assert [result.images for result in again.done] == [0, 4, 4]


def test_what_ended_a_runner_comes_last(many, work):
    this = round_over(many, work, repos=NAMES)
    first = this.plan()
    this.failures.begin("local:chalk", first.models[0].key)
    second = this.plan()
    assert [str(model.ref) for model in second.due] == ["local:ink", "local:oil", "local:chalk"]


def test_a_model_that_another_runner_has_is_passed_over(published, go, work, models):
    change(published, models)
    with model_lock(folder_about(work, published) / "locks", "local:ink") as mine:
        assert mine
        assert outcomes(go(published)) == {"local:ink": "busy"}
    assert outcomes(go(published)) == {"local:ink": "published"}


def test_a_lost_worker_costs_one_model_and_counts_against_none(many, work, go):
    class Losing:
        def run(self, works):
            for work in works:
                yield Result(work.model, "lost", "its worker died")

    for _ in range(4):
        done = go(many, executor=Losing(), repos=NAMES)
        assert set(outcomes(done).values()) == {"lost"}
    assert not done.is_well
    assert len(go(many, repos=NAMES).done) == 3


def test_where_a_hub_refuses_no_further_model_is_begun(many, go):
    class Refused:
        def run(self, works):
            for work in works:
                yield Result(work.model, "failed", "too many", error="RateLimitError", passing=True)

    done = go(many, executor=Refused(), repos=NAMES)
    assert outcomes(done) == {"local:chalk": "failed"}
    assert {it.why for it in done.left} == {"the hub asked the program to stop"}
    assert done.failures == {"local:chalk": 0}


def test_two_hubs_of_the_same_names_share_a_work_folder(published, models, tmp_path, work, go):
    other = fill_folder(models, tmp_path / "there" / "hub")
    (place(other) / WEIGHTS).write_bytes(UNFIT)
    for _ in range(3):
        go(other, repos=["ink"])
    change(published, models)
    assert outcomes(go(published)) == {"local:ink": "published"}
    assert len(go(other, repos=["ink"]).set_aside) == 1


@pytest.mark.parametrize("name", ["failures.sqlite3", "ledger.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"models": {"local:ink": {"key": 3}}}'])
def test_failures_that_cannot_be_read_count_as_none(published, work, models, go, name, content):
    change(published, models)
    folder = folder_about(work, published)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    assert outcomes(go(published)) == {"local:ink": "published"}


def test_a_work_folder_that_cannot_be_written(published, models, tmp_path):
    change(published, models)
    (tmp_path / "file").write_text("in the way")
    this = round_over(published, tmp_path / "file" / "work")
    with pytest.raises(InputError, match="cannot be written"):
        this.run(this.plan())


def test_the_index_is_brought_up_to_date(many, work, go, tmp_path, models):
    this = round_over(many, work, repos=NAMES)
    done = this.run(this.plan())
    done = this.index(done, tmp_path / "index", cache_dir=tmp_path / "index-cache")
    assert done.index.change.added == 3
    change(many, models, "oil")
    shutil.rmtree(place(many, "chalk"))
    this = round_over(many, work)
    done = this.run(this.plan())
    done = this.index(done, tmp_path / "index", cache_dir=tmp_path / "index-cache")
    change_made = done.index.change
    assert (change_made.replaced, change_made.removed, change_made.rows) == (1, 1, 2)
    assert done.to_json()["index"]["models"] == 2
    assert "The index has 2 models" in done.to_markdown()


def test_one_of_several_files_stays_the_one_that_is_described(folder, go, work, models):
    named = "local:run/checkpoint-2/style.safetensors"
    run = place(folder, "run")
    for number, shift in ((1, 0.25), (2, 0.5)):
        (run / f"checkpoint-{number}").mkdir(parents=True)
        weights = other_weights(models, shift)
        (run / f"checkpoint-{number}" / "style.safetensors").write_bytes(weights)
    (run / "README.md").write_text(card("base"))
    assert outcomes(go(folder, repos=[named])) == {named: "published"}
    fresh = ("fresh", "the same weights, format, encoder and prompts")
    assert plan(folder, work, repos=["run"]) == {named: fresh}
    (run / "checkpoint-1" / "style.safetensors").write_bytes(other_weights(models, 0.125))
    assert plan(folder, work, repos=["run"]) == {named: fresh}
    (run / "checkpoint-2" / "style.safetensors").write_bytes(other_weights(models, 0.0625))
    assert outcomes(go(folder, repos=["run"])) == {named: "published"}
    # Once it is gone, the other is what the model is.
    (run / "checkpoint-2" / "style.safetensors").unlink()
    assert outcomes(go(folder, repos=["run"])) == {"local:run": "published"}


def test_a_base_that_was_named_is_kept(published, go, models, work):
    hub = published
    other = shutil.copytree(place(hub, "base"), place(hub, "other"))
    shutil.rmtree(other / "gmi", ignore_errors=True)
    done = publish(ModelRef("local", "ink"), hub, work=work, base="other", device="cpu")
    assert (done.outcome, done.plan.base_origin) == ("published", "option")
    described = read_spec(place(hub)).manifest.model
    assert (described.base_model, described.base_origin) == ("other", "option")
    assert plan(hub, work)["local:ink"][0] == "fresh"

    change(hub, models)
    assert outcomes(go(hub)) == {"local:ink": "published"}
    described = read_spec(place(hub)).manifest.model
    assert (described.base_model, described.base_origin) == ("other", "option")
    assert outcomes(go(hub)) == {}
