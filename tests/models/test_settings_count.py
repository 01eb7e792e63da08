"""Nothing in a recipe is without effect: whatever it records changes the image, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gmi_registry import generation
from gmi_registry.errors import InputError
from tests.support.models.matrix import MATRIX


def _differ(one, other) -> bool:
    return one.shape != other.shape or bool((one != other).any())


def _compare(model, one: dict[str, Any], other: dict[str, Any]) -> bool:
    return _differ(model.image(**one), model.image(**other))


COMMON: dict[str, tuple[Any, Any]] = {
    "seeds": ((0,), (1,)),
    "trigger_words": ((), ("zap",)),
    "prompt_template": ("{prompt}", "{prompt}, pixel art"),
}
"""Settings that every pipeline reads, with two values of each."""


ALL = [
    pytest.param(name, marks=pytest.mark.slow) if row.twin else name for name, row in MATRIX.items()
]


@pytest.mark.parametrize("setting", COMMON)
@pytest.mark.parametrize("name", ALL)
def test_what_every_pipeline_reads(tiny, name, setting):
    one, other = COMMON[setting]
    assert _compare(tiny(name), {setting: one}, {setting: other})


@pytest.mark.parametrize("name", [name for name, row in MATRIX.items() if row.more_steps])
def test_steps(tiny, name):
    assert _compare(tiny(name), {}, {"steps": MATRIX[name].more_steps})


@pytest.mark.parametrize("name", ALL)
def test_size(tiny, name):
    """One side, which is recorded and is the image's; a pipeline may know no such size."""
    model = tiny(name)
    width, height = model.size
    other = 2 * width if width <= 64 else 1024
    image, refusal = _tried(lambda: model.image(width=other))
    if refusal is None:
        assert image.shape == (height, other, 3)
    else:
        assert "width" in f"{refusal.message} {refusal.hint}"


@pytest.mark.parametrize("name", MATRIX)
def test_guidance(tiny, name):
    row = MATRIX[name]
    if row.true_cfg and name == "qwen-image":  # where guidance is the true CFG scale
        model = tiny(name)
        assert _compare(model, {"guidance_scale": 1.5}, {"guidance_scale": 6.0})
        recipe = model.recipe(guidance_scale=6.0)
        assert (recipe.guidance_scale, recipe.true_cfg_scale) == (None, 6.0)
        return
    _effect_or_refused(tiny(name), "guidance_scale", 1.5, 6.0, row.guidance)


@pytest.mark.parametrize("name", ALL)
def test_true_cfg(tiny, name):
    _effect_or_refused(tiny(name), "true_cfg_scale", 2.0, 6.0, MATRIX[name].true_cfg)


@pytest.mark.parametrize("name", ALL)
def test_clip_skip(tiny, name):
    _effect_or_refused(tiny(name), "clip_skip", None, 1, MATRIX[name].clip_skip)


@pytest.mark.parametrize("name", MATRIX)
def test_negative_prompt(tiny, name):
    row = MATRIX[name]
    more = {"true_cfg_scale": 4.0} if row.true_cfg else {}
    if row.guidance and not row.true_cfg:
        more = {"guidance_scale": 5.0}
    _effect_or_refused(tiny(name), "negative_prompt", "", "ugly, text", row.negative, **more)


@pytest.mark.parametrize(
    "name", [name for name, row in MATRIX.items() if row.negative and row.true_cfg]
)
def test_a_negative_prompt_without_the_scale_that_reads_it_is_refused(tiny, name):
    model = tiny(name)
    with pytest.raises(InputError):
        model.image(negative_prompt="ugly", true_cfg_scale=1.0)


@pytest.mark.parametrize("name", ALL)
def test_scheduler(tiny, name):
    """Another scheduler that fits: another image; one that does not: refused in one line."""
    model = tiny(name)
    own = type(model.pipeline.scheduler).__name__
    flow = "FlowMatch" in own
    other = "FlowMatchHeunDiscreteScheduler" if flow else "EulerAncestralDiscreteScheduler"
    if name == "kandinsky3":  # whose untrained decoder answers that one's latents with noise
        other = "DDIMScheduler"
    recipe, refusal = _tried(lambda: model.recipe(scheduler=other))
    if refusal is not None:
        assert "\n" not in refusal.message
        return
    assert recipe.sampler.name == other
    assert _differ(model.image(scheduler=other), model.image(scheduler=own))


@pytest.mark.parametrize("name", ["flux1-dev", "qwen-image", "lumina2"])
def test_unipc_on_the_flow_of_a_pipeline_that_gives_it_an_array(tiny, name):
    model = tiny(name)
    assert _compare(model, {"scheduler": "UniPC"}, {})
    assert model.recipe(scheduler="UniPC").sampler.config["use_flow_sigmas"] is True


@pytest.mark.parametrize("name", ALL)
def test_the_type_of_the_numbers(tiny, name):
    """bfloat16 is loaded, recorded and rounds: an image, and another one."""
    model = tiny(name)
    loaded = generation.load_pipeline(model.model, device="cpu", dtype="bfloat16")
    half = type(model)(name, model.model, loaded, model.size)
    assert half.recipe().dtype == "bfloat16"
    image = half.image()
    assert image.std() > 10
    assert _differ(image, model.image())


def _tried(make: Callable[[], Any]) -> tuple[Any, InputError | None]:
    """What ``make`` gives, or how it refuses."""
    try:
        return make(), None
    except InputError as error:
        return None, error


def _effect_or_refused(model, setting: str, one: Any, other: Any, counts: bool, **more: Any):
    """A setting that counts changes the image; another one is refused, and not recorded."""
    if counts:
        assert _compare(model, {setting: one, **more}, {setting: other, **more})
        assert getattr(model.recipe(**{setting: other, **more}), setting) == other
        return
    with pytest.raises(InputError) as caught:
        model.image(**{setting: other, **more})
    assert "\n" not in caught.value.message
    assert not getattr(model.recipe(), setting)
