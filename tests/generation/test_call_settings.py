"""What a pipeline reads of a recipe is recorded and given to it, and nothing else is."""

import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from gmi_registry.errors import InputError
from gmi_registry.generation import (
    BatchCache,
    RecipeOverrides,
    check_settings,
    default_recipe,
    generate,
    load_pipeline,
    recipe_notes,
)
from gmi_registry.generation.call_settings import call_arguments, call_settings, stated_size


class _Parts:
    """A pipeline with given parts; each test has a call of its own."""

    dtype = "torch.float32"

    def __init__(self, **parts):
        self.scheduler = SimpleNamespace(config={})
        self.__dict__.update(parts)


def _network(**config):
    return SimpleNamespace(config=config)


class _Flux(_Parts):
    def __call__(
        self, prompt, negative_prompt=None, true_cfg_scale=1.0, height=64, width=64,
        num_inference_steps=28, guidance_scale=3.5,
    ): ...  # fmt: skip


class _Qwen(_Parts):
    def __call__(
        self, prompt, negative_prompt=None, true_cfg_scale=4.0, height=64, width=64,
        num_inference_steps=50, guidance_scale=None,
    ): ...  # fmt: skip


class _Classic(_Parts):
    threshold = 1

    @property
    def do_classifier_free_guidance(self):
        return self._guidance_scale > self.threshold and not self.distilled

    distilled = False

    def __call__(
        self, prompt, negative_prompt=None, height=64, width=64, num_inference_steps=50,
        guidance_scale=5.0,
    ): ...  # fmt: skip


class _WithoutLoop(_Parts):
    def __call__(self, prompt, negative_prompt="", height=64, width=64, guidance_scale=4.5): ...


class _Embedded(_Parts):
    def __call__(self, prompt, height=64, width=64, guidance_scale=4.0): ...


class _Consistent(_Classic):
    @property
    def do_classifier_free_guidance(self):
        return self._guidance_scale > 1 and self.unet.config["time_cond_proj_dim"] is None


DEV = _Flux(transformer=_network(guidance_embeds=True))
SCHNELL = _Flux(transformer=_network(guidance_embeds=False))
QWEN = _Qwen(transformer=_network(guidance_embeds=False))
LCM = _Consistent(unet=_network(time_cond_proj_dim=256))


@pytest.mark.parametrize(
    ("pipeline", "guidance", "true_cfg"),
    [
        (DEV, 3.5, None),
        (SCHNELL, None, None),
        (QWEN, None, 4.0),
        (_Classic(), 5.0, None),
        (_Classic(distilled=True), None, None),
        (_WithoutLoop(), 4.5, None),
        (_WithoutLoop(transformer=_network(guidance_embeds=False)), 4.5, None),
        (_Embedded(transformer=_network(guidance_embeds=True)), 4.0, None),
        (_Embedded(transformer=_network(guidance_embeds=False)), None, None),
        (_Embedded(transformer=_network()), 4.0, None),
        (LCM, 8.0, None),  # a consistency model's, by its configuration
    ],
)
def test_the_scale_that_counts_is_recorded(base, pipeline, guidance, true_cfg):
    recipe = default_recipe(pipeline, base)
    assert (recipe.guidance_scale, recipe.true_cfg_scale) == (guidance, true_cfg)
    given = call_arguments(pipeline, recipe, ["a cat"])
    assert given.get("guidance_scale") == guidance
    assert given.get("true_cfg_scale") == true_cfg
    check_settings(pipeline, recipe)


@pytest.mark.parametrize(
    ("pipeline", "overrides", "why", "hint"),
    [
        (SCHNELL, {"guidance_scale": 3.0}, "trained without a guidance", "--true-cfg-scale"),
        (_Classic(distilled=True), {"guidance_scale": 3.0}, "no effect", "leave out --guidance"),
        (_Classic(), {"true_cfg_scale": 3.0}, "no true CFG scale", "--guidance is read"),
        (DEV, {"true_cfg_scale": 1.0}, "reads one above 1", "leave out --true-cfg-scale"),
        (SCHNELL, {"true_cfg_scale": 0.5}, "0.5 has no effect", "--true-cfg-scale 4"),
        (QWEN, {"true_cfg_scale": 3.0, "guidance_scale": 2.0}, "both are given", "leave out"),
        (DEV, {"negative_prompt": "blur"}, "true CFG scale above 1", "--true-cfg-scale 4"),
        (QWEN, {"negative_prompt": "blur", "guidance_scale": 1.0}, "above 1", "--true-cfg-scale"),
        (_Classic(), {"negative_prompt": "blur", "guidance_scale": 1.0}, "guidance 1", "larger"),
        (LCM, {"negative_prompt": "blur"}, "an input of this network", "leave out"),
        (_Embedded(), {"negative_prompt": "blur"}, "takes no negative prompt", "leave out"),
        (_Classic(), {"clip_skip": 1}, "takes no CLIP skip", "leave out --clip-skip"),
        (
            _Qwen(transformer=_network(guidance_embeds=True)),
            {},
            "no usual one is known",
            "--guidance",
        ),
    ],
)
def test_an_option_without_effect_is_refused(base, pipeline, overrides, why, hint):
    with pytest.raises(InputError) as caught:
        default_recipe(pipeline, base, RecipeOverrides(**overrides))
    assert why in caught.value.message
    assert hint in caught.value.hint


def test_guidance_is_the_true_scale_where_that_is_what_counts(base):
    recipe = default_recipe(QWEN, base, RecipeOverrides(guidance_scale=2.5))
    assert (recipe.guidance_scale, recipe.true_cfg_scale) == (None, 2.5)
    assert call_arguments(QWEN, recipe, ["a", "b"])["negative_prompt"] == ["", ""]
    advised = replace(base, card=replace(base.card, guidance_scale=3.0))
    assert default_recipe(QWEN, advised).true_cfg_scale == 3.0


def test_a_threshold_of_the_pipeline_is_asked_for(base):
    low = _Classic(threshold=0)
    recipe = default_recipe(low, base, RecipeOverrides(guidance_scale=0.5, negative_prompt="x"))
    assert call_arguments(low, recipe, ["a"])["negative_prompt"] == ["x"]
    with pytest.raises(InputError, match="no effect"):
        default_recipe(_Classic(), base, RecipeOverrides(guidance_scale=0.5, negative_prompt="x"))


def test_without_a_negative_prompt_none_is_given(base):
    """SDXL has an answer of its own for none, which an empty one is not."""
    recipe = default_recipe(_Classic(), base)
    assert "negative_prompt" not in call_arguments(_Classic(), recipe, ["a"])


def test_captions_are_not_cleaned_where_other_packages_happen_to_be_installed(base):
    class Cleaning(_Parts):
        def __call__(self, prompt, height=64, width=64, guidance_scale=4.0, clean_caption=True): ...

    assert call_arguments(Cleaning(), default_recipe(Cleaning(), base), ["a"])["clean_caption"] is (
        False
    )


def test_advice_without_effect_is_left_out_and_said(base):
    card = replace(base.card, guidance_scale=0.0, negative_prompt="blur", clip_skip=2)
    advised = replace(base, card=card)
    recipe = default_recipe(SCHNELL, advised)
    assert (recipe.guidance_scale, recipe.negative_prompt, recipe.clip_skip) == (None, "", None)
    advised = replace(base, card=replace(card, true_cfg_scale=1.0))
    assert default_recipe(SCHNELL, advised).true_cfg_scale is None
    assert default_recipe(QWEN, advised).true_cfg_scale == 1.0  # there it turns the call's own off
    assert "true_cfg_scale 1" in "\n".join(recipe_notes(SCHNELL, advised))
    notes = "\n".join(recipe_notes(SCHNELL, advised))
    assert all(word in notes for word in ("guidance_scale 0", "negative prompt", "clip_skip 2"))


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": None},
        {"true_cfg_scale": 2.0},
        {"clip_skip": 9},
        {"negative_prompt": "blur", "guidance_scale": 1.0},
    ],
)
def test_a_recipe_that_is_not_what_is_read_is_refused(pipeline, base, changes):
    recipe = default_recipe(pipeline, base)
    check_settings(pipeline, recipe)
    with pytest.raises(InputError, match="the recipe has"):
        check_settings(pipeline, recipe.model_copy(update=changes))


def test_clip_skip_leaves_out_layers_that_are_there(pipeline, base, tmp_path):
    assert call_settings(pipeline).most_skip == 1
    with pytest.raises(InputError, match="1 layers that can be left out"):
        default_recipe(pipeline, base, RecipeOverrides(clip_skip=2))
    images = [np.asarray(_image(pipeline, base, tmp_path, clip_skip=skip)) for skip in (None, 1)]
    assert (images[0] != images[1]).any()
    assert not hasattr(pipeline.text_encoder, "text_model")


def test_the_card_states_size_skip_and_negative_prompt(pipeline, base):
    card = replace(base.card, width=32, height=48, clip_skip=1, negative_prompt="blur")
    recipe = default_recipe(pipeline, replace(base, card=card))
    assert (recipe.width, recipe.height, recipe.clip_skip) == (32, 48, 1)
    assert recipe.negative_prompt == "blur"
    overrides = RecipeOverrides(width=16, negative_prompt="")
    recipe = default_recipe(pipeline, replace(base, card=card), overrides)
    assert (recipe.width, recipe.height, recipe.negative_prompt) == (16, 48, "")


class _Written:
    def __call__(self, prompt, height=None, width=None):
        height = height or 1024
        width = width or 768
        return height, width


class _Binned:
    def __call__(self, prompt, height=1024, width=1024, use_resolution_binning=True): ...


def test_the_size_of_the_call_comes_first(base):
    assert (stated_size(_Written(), "height"), stated_size(_Written(), "width")) == (1024, 768)
    assert stated_size(_Embedded(), "height") == 64
    # It is that of the largest model of the family, whatever the network is.
    assert stated_size(_Binned(), "height") is None


def test_a_pipeline_is_told_not_to_choose_another_size(base):
    pipeline = _Parts(
        default_sample_size=8, vae_scale_factor=32, transformer=_network(guidance_embeds=None)
    )
    pipeline.__class__ = type("Sized", (_Parts,), {"__call__": _Binned.__call__})
    recipe = default_recipe(pipeline, base)
    assert (recipe.width, recipe.height) == (256, 256)
    assert call_arguments(pipeline, recipe, ["a"])["use_resolution_binning"] is False


@pytest.mark.parametrize(
    ("name", "size", "other"),
    [
        ("HiDreamImagePipeline", (512, 512), "--width 1024 --height 1024"),
        ("Kandinsky5T2IPipeline", (900, 1000), "--width 1024 --height 1024"),
    ],
)
def test_a_size_that_becomes_another_is_refused_before_an_image(base, name, size, other):
    parts = {
        "default_sample_size": 128, "vae_scale_factor": 8,
        "resolutions": [(1024, 1024), (640, 1408)],
    }  # fmt: skip
    pipeline = type(name, (_WithoutLoop,), {})(**parts)
    overrides = RecipeOverrides(width=size[0] // 16 * 16, height=size[1] // 16 * 16)
    with pytest.raises(InputError) as caught:
        check_settings(pipeline, default_recipe(pipeline, base, overrides))
    assert other in caught.value.hint
    usual = RecipeOverrides(width=1024, height=1024)
    check_settings(pipeline, default_recipe(pipeline, base, usual))


def test_every_override_is_used(pipeline, lora):
    """A new field of RecipeOverrides without an effect would be found here."""
    values = {
        "steps": 3, "scheduler": "Euler a", "guidance_scale": 1.5, "true_cfg_scale": 2.0,
        "clip_skip": 1, "seeds": (4,), "width": 32, "height": 32, "negative_prompt": "blur",
        "lora_scale": 0.5, "trigger_words": ("zap",), "prompt_template": "{prompt}, flat",
        "batch_size": 2, "dtype": "float32",
    }  # fmt: skip
    assert values.keys() == inspect.signature(RecipeOverrides).parameters.keys()
    usual = default_recipe(pipeline, lora)
    for name, value in values.items():
        overrides = RecipeOverrides(**{name: value})
        if name == "true_cfg_scale":
            with pytest.raises(InputError):
                default_recipe(pipeline, lora, overrides)
        elif name != "dtype":
            assert default_recipe(pipeline, lora, overrides).id != usual.id, name


def _image(pipeline, model, folder, **overrides):
    recipe = default_recipe(pipeline, model, RecipeOverrides(steps=2, **overrides))
    return generate(pipeline, ["a cat"], recipe, cache=BatchCache(folder, model, recipe))[0]


def test_lora_scale_and_scheduler_change_the_image(lora, tmp_path):
    pipeline = load_pipeline(lora, device="cpu")
    usual = np.asarray(_image(pipeline, lora, tmp_path))
    for changes in ({"lora_scale": 0.5}, {"scheduler": "Euler a"}, {"guidance_scale": 1.0}):
        assert (np.asarray(_image(pipeline, lora, tmp_path, **changes)) != usual).any(), changes
