"""What a recipe holds by default, what a caller may change, and what a model can read."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation import RecipeOverrides, check_prompts, default_recipe
from gmi_registry.spec import PromptSet
from tests.support.tiny_models import CONTEXT, SIDE


def test_the_default_comes_from_the_pipeline(pipeline, base):
    recipe = default_recipe(pipeline, base)
    assert recipe.sampler.name == "DDIMScheduler"
    assert recipe.sampler.config["beta_schedule"] == "scaled_linear"
    assert not any(name.startswith("_") for name in recipe.sampler.config)
    assert (recipe.width, recipe.height) == (SIDE, SIDE)
    assert (recipe.steps, recipe.guidance_scale, recipe.seeds) == (25, 7.5, (0,))
    assert (recipe.dtype, recipe.lora_scale, recipe.negative_prompt) == ("float32", None, "")
    assert recipe.batch_size == 16
    assert {"diffusers", "torch", "transformers"} <= recipe.libraries.keys()


def test_a_lora_has_a_scale_and_its_trigger_words(pipeline, lora):
    worded = replace(lora, card=replace(lora.card, trigger_words=("zap style",)))
    recipe = default_recipe(pipeline, worded)
    assert recipe.lora_scale == 1.0
    assert recipe.render("a cat") == "zap style, a cat"


def test_overrides_win(pipeline, lora):
    overrides = RecipeOverrides(
        steps=3,
        guidance_scale=1.5,
        seeds=(4, 5),
        width=32,
        negative_prompt="blur",
        lora_scale=0.5,
        trigger_words=(),
        batch_size=2,
    )
    recipe = default_recipe(pipeline, lora, overrides)
    assert (recipe.steps, recipe.guidance_scale, recipe.seeds) == (3, 1.5, (4, 5))
    assert (recipe.width, recipe.height, recipe.batch_size) == (32, SIDE, 2)
    assert (recipe.negative_prompt, recipe.lora_scale) == ("blur", 0.5)


def test_the_card_advises_and_the_base_card_in_its_stead(pipeline, base, lora):
    advice = replace(base.card, steps=40, guidance_scale=0.0)
    family = replace(lora, base=replace(base, card=advice))
    recipe = default_recipe(pipeline, family)
    assert (recipe.steps, recipe.guidance_scale) == (40, 0)
    assert recipe.prompt_template == "{prompt}"
    own = replace(family, card=replace(lora.card, steps=8, prompt_template="{prompt}, flat"))
    assert default_recipe(pipeline, own).steps == 8
    assert default_recipe(pipeline, own).render("frog").endswith("frog, flat")
    assert default_recipe(pipeline, own, RecipeOverrides(steps=2)).steps == 2


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (RecipeOverrides(steps=0), "steps"),
        (RecipeOverrides(guidance_scale=-1.0), "guidance scale"),
        (RecipeOverrides(seeds=()), "seeds"),
        (RecipeOverrides(seeds=(1, 1)), "a seed appears twice"),
        (RecipeOverrides(width=-8), "width"),
        (RecipeOverrides(prompt_template="a picture"), "must hold {prompt} exactly once"),
        (RecipeOverrides(lora_scale=1.0), "not a LoRA"),
    ],
)
def test_an_override_out_of_range_is_named(pipeline, base, overrides, named):
    with pytest.raises(InputError, match=named):
        default_recipe(pipeline, base, overrides)


class _Odd:
    """A pipeline that lacks what a Stable Diffusion pipeline has."""

    dtype = "torch.float32"

    def __init__(self, **parts):
        config = {"schedule": [1, 2], "limit": float("inf"), "shift": 3.0}
        self.scheduler = SimpleNamespace(config=config)
        self.__dict__.update(parts)

    def __call__(self, prompt, num_inference_steps=4):
        raise AssertionError("a recipe is made without drawing")


def test_a_transformer_of_an_uneven_size_and_few_steps(base):
    network = SimpleNamespace(config={"sample_size": (4, 6)})
    recipe = default_recipe(_Odd(transformer=network, vae_scale_factor=8), base)
    assert (recipe.width, recipe.height, recipe.steps) == (48, 32, 4)
    assert recipe.guidance_scale is None
    assert recipe.sampler.config == {"shift": 3.0}


def test_a_model_without_a_size_asks_for_one(base):
    with pytest.raises(GenerationError, match="how large") as caught:
        default_recipe(_Odd(), base, RecipeOverrides(width=64))
    assert "height" in caught.value.hint
    recipe = default_recipe(_Odd(), base, RecipeOverrides(width=64, height=32))
    assert (recipe.width, recipe.height) == (64, 32)


def test_a_negative_prompt_needs_a_pipeline_that_reads_it(base):
    with pytest.raises(InputError, match="takes no negative prompt"):
        default_recipe(_Odd(), base, RecipeOverrides(negative_prompt="blur"))


def test_a_long_prompt_is_named_with_its_tokens(pipeline, base):
    recipe = default_recipe(pipeline, base)
    fits = " ".join(["cat"] * (CONTEXT - 2))
    check_prompts(pipeline, [PromptSet("own", 1, ("a cat", fits))], recipe)
    with pytest.raises(InputError) as caught:
        check_prompts(pipeline, [PromptSet("own", 1, ("a cat", fits + " cat"))], recipe)
    assert "'own', prompt 2" in caught.value.message
    assert f"{CONTEXT + 1} tokens" in caught.value.message
    assert f"reads {CONTEXT}" in caught.value.message


def test_trigger_words_and_the_negative_prompt_count(pipeline, base):
    fits = " ".join(["cat"] * (CONTEXT - 2))
    worded = default_recipe(pipeline, base, RecipeOverrides(trigger_words=("zap",)))
    with pytest.raises(InputError) as caught:
        check_prompts(pipeline, [PromptSet("own", 1, (fits,))], worded)
    assert "trigger words" in caught.value.hint
    negative = default_recipe(pipeline, base, RecipeOverrides(negative_prompt=fits + " cat"))
    with pytest.raises(InputError, match="the negative prompt"):
        check_prompts(pipeline, [PromptSet("own", 1, ("a cat",))], negative)


def test_one_tokenizer_that_reads_to_the_end_is_enough(pipeline, base):
    two = SimpleNamespace(tokenizer=pipeline.tokenizer, tokenizer_2=_Counting(10**30))
    words = PromptSet("own", 1, (" ".join(["cat"] * 100),))
    check_prompts(two, [words], default_recipe(pipeline, base))


def test_the_limit_of_the_pipeline_counts_where_it_is_smaller(pipeline, base):
    class Short:
        tokenizer = SimpleNamespace(tokenizer=_Counting(512))  # as a processor has it

        def __call__(self, prompt, max_sequence_length=5):
            raise AssertionError("nothing is drawn")

    recipe = default_recipe(pipeline, base)
    check_prompts(Short(), [PromptSet("own", 1, ("one two three four five",))], recipe)
    with pytest.raises(InputError, match="has 6 tokens, but the model reads 5"):
        check_prompts(Short(), [PromptSet("own", 1, ("one two three four five six",))], recipe)


class _Counting:
    def __init__(self, limit):
        self.model_max_length = limit

    def __call__(self, text, verbose):
        return {"input_ids": text.split()}
