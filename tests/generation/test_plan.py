"""When a specification at the target counts as up to date."""

from dataclasses import replace

import pytest

from gmi_registry.generation import draft_spec
from gmi_registry.generation.specification import make_plan
from gmi_registry.spec import GenerationRecipe, ModelRef, PromptSet, Sampler, WeightFile
from tests.support.grey_encoder import GreyEncoder
from tests.support.tiny_models import model_files

SETS = (PromptSet("default", 1, ("a cat", "snow")),)
RECIPE = GenerationRecipe(
    sampler=Sampler(name="DDIMScheduler"),
    steps=1,
    guidance_scale=1.0,
    width=8,
    height=8,
    seeds=(0, 1),
)


@pytest.fixture
def lora(tmp_path):
    for name in ("base", "lora"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.safetensors").write_bytes(name.encode())
    base = model_files(tmp_path / "base", "tiny/base")
    return model_files(tmp_path / "lora", "tiny/lora", "lora", base=base)


def with_base(model, **changes):
    weights = tuple(weight.model_copy(update=changes) for weight in model.base.weights)
    return replace(model, base=replace(model.base, weights=weights))


def draft(model, recipe=RECIPE):
    return draft_spec(model, GreyEncoder.ref, SETS, recipe)


def plan(model, existing, recipe=RECIPE):
    return make_plan(model, draft(model, recipe), kept=1, existing=existing, target="t")


def test_nothing_changed(lora):
    found = plan(lora, draft(lora))
    assert (found.up_to_date, found.reuses_images) == (True, False)
    assert found.images_kept == found.images == 4


def test_a_changed_base_is_drawn_again(lora):
    retrained = with_base(lora, sha256="7" * 64)
    assert draft(retrained).manifest.model.weights_digest == (
        draft(lora).manifest.model.weights_digest
    )
    found = plan(retrained, draft(lora))
    assert (found.up_to_date, found.reuses_images) == (False, False)
    assert found.images_kept == 1


def test_another_file_of_the_base_is_drawn_again(lora):
    more = (*lora.base.weights, WeightFile(path="x.safetensors", size=1, sha256="8" * 64))
    found = plan(replace(lora, base=replace(lora.base, weights=more)), draft(lora))
    assert (found.up_to_date, found.reuses_images) == (False, False)


def test_a_specification_that_does_not_know_its_base_is_made_again(lora):
    existing = draft(replace(lora, base=None))
    assert existing.manifest.model.base_weights is None
    found = plan(lora, existing)
    assert (found.up_to_date, found.reuses_images) == (False, False)


def test_a_renamed_base_with_the_same_weights_only_needs_another_description(lora):
    base = replace(lora.base, ref=ModelRef("local", "base-renamed"))
    renamed = replace(lora, base=base)
    assert draft(renamed).manifest.model.base_model == "base-renamed"
    found = plan(renamed, draft(lora))
    assert (found.up_to_date, found.reuses_images) == (False, True)
    assert found.images_kept == found.images
    # The card has the old name still.
    assert "is not there under that name; base-renamed is used" in found.warnings[0]


@pytest.mark.parametrize(
    ("changes", "same"),
    [({}, True), ({"title": "new"}, True), ({"title": "Other"}, False), ({"tags": ("x",)}, False)],
)
def test_a_renamed_model_keeps_its_specification(lora, changes, same):
    lora = replace(lora, card=replace(lora.card, title="lora"))
    renamed = replace(
        lora,
        ref=ModelRef("local", "new"),
        url="https://example.org/new",
        card=replace(lora.card, **{"title": "new", **changes}),
    )
    assert draft(lora).manifest.model.id == "tiny/lora"
    found = plan(renamed, draft(lora))
    assert (found.up_to_date, found.reuses_images) == (same, not same)
    assert found.images_kept == found.images


@pytest.mark.parametrize("changes", [{"steps": 2}, {"seeds": (0, 2)}, {"lora_scale": 0.5}])
def test_another_recipe_is_drawn_again(lora, changes):
    recipe = RECIPE.model_copy(update=changes)
    found = plan(lora, draft(lora), recipe)
    assert (found.up_to_date, found.reuses_images) == (False, False)


def test_a_checkpoint_does_not_depend_on_what_it_was_made_from(lora):
    whole = replace(lora, kind="checkpoint")
    found = plan(with_base(whole, sha256="7" * 64), draft(whole))
    assert (found.up_to_date, found.reuses_images) == (True, False)
