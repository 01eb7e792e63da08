"""Generation recipes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gmi_registry.spec import GenerationRecipe, Spec


def changed(recipe: GenerationRecipe, **changes: Any) -> GenerationRecipe:
    return GenerationRecipe(**{**recipe.model_dump(), **changes})


def test_id_covers_all_fields_but_libraries(spec: Spec) -> None:
    recipe = spec.manifest.generation.recipe
    assert changed(recipe).id == recipe.id
    assert changed(recipe, libraries={"diffusers": "2"}).id == recipe.id
    assert changed(recipe, field_of_a_newer_minor=1).id == recipe.id
    others: dict[str, Any] = {
        "sampler": {"name": "DDIMScheduler", "config": {"beta_start": 0.00086}},
        "steps": 6,
        "guidance_scale": 2.5,
        "true_cfg_scale": 4.0,
        "clip_skip": 1,
        "vae_dtype": "bfloat16",
        "vae_tiling": True,
        "width": 65,
        "height": 65,
        "seeds": (1, 0),
        "negative_prompt": "blurry",
        "dtype": "float16",
        "lora_scale": 1.0,
        "trigger_words": ("x",),
        "prompt_template": "{prompt}!",
        "batch_size": 2,
    }
    # A share of a LoRA needs its scale.
    partial = {"lora_scale": 1.0, "lora_partial": {"applied": 1, "tensors": 2}}
    assert {*others, *partial} == set(GenerationRecipe.model_fields) - {"libraries"}
    ids = {changed(recipe, **{name: value}).id for name, value in others.items()}
    assert len(ids | {recipe.id, changed(recipe, **partial).id}) == len(others) + 2


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": ()},
        {"seeds": (1, 1)},
        {"seeds": (-1,)},
        {"seeds": (2**53,)},
        {"steps": 0},
        {"guidance_scale": float("nan")},
        {"prompt_template": "none"},
        {"prompt_template": "{prompt} {prompt}"},
        {"dtype": "int8"},
        {"negative_prompt": "a\nb"},
        {"sampler": {"name": "S", "config": {"a": [1]}}},
    ],
)
def test_refused(spec: Spec, changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        changed(spec.manifest.generation.recipe, **changes)


def test_scalars_of_the_sampler_keep_their_kind(spec: Spec) -> None:
    config = {"a": True, "b": 1, "c": 0.5, "d": "x", "e": None}
    recipe = changed(spec.manifest.generation.recipe, sampler={"name": "S", "config": config})
    kinds = {name: type(value) for name, value in recipe.sampler.config.items()}
    assert kinds == {"a": bool, "b": int, "c": float, "d": str, "e": type(None)}


def test_render(spec: Spec) -> None:
    recipe = spec.manifest.generation.recipe
    assert recipe.render("a fox") == "a fox"
    styled = changed(recipe, trigger_words=("xyz", "flat"), prompt_template="icon of {prompt}")
    assert styled.render("a {prompt}") == "xyz, flat, icon of a {prompt}"
