"""How the limits of a pipeline are found out, on a Stable Diffusion of sixteen tokens."""

from __future__ import annotations

import pytest

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation import check_prompts, default_recipe, load_pipeline
from gmi_registry.spec import PromptSet
from tests.support.tiny_models import CONTEXT

FITS = " ".join(["cat"] * (CONTEXT - 2))


def check(pipeline, base, prompt):
    check_prompts(pipeline, [PromptSet("own", 1, (prompt,))], default_recipe(pipeline, base))


@pytest.fixture
def own(base):
    """A pipeline that a test may change."""
    return load_pipeline(base, device="cpu")


@pytest.mark.parametrize(
    ("prompt", "changes", "hint"),
    [
        (FITS + " cat", {}, "shorten it"),
        (FITS, {"trigger_words": ("ink",)}, "shorten it or the trigger words"),
        (FITS, {"prompt_template": "{prompt}, ink"}, "shorten it or the prompt template"),
        # No word goes before a negative prompt.
        ("a", {"trigger_words": ("ink",), "negative_prompt": FITS + " cat"}, "shorten it"),
    ],
)
def test_what_can_be_shortened_is_named(own, base, prompt, changes, hint):
    recipe = default_recipe(own, base).model_copy(update=changes)
    with pytest.raises(InputError) as caught:
        check_prompts(own, [PromptSet("own", 1, (prompt,))], recipe)
    assert caught.value.hint == hint


def test_the_pipeline_is_as_it_was(own, base):
    tokenizer, scheduler, before = type(own.tokenizer), own.scheduler, set(vars(own))
    check(own, base, FITS)
    with pytest.raises(InputError):
        check(own, base, FITS + " cat")
    assert type(own.tokenizer) is tokenizer
    assert own.scheduler is scheduler
    assert "progress_bar" not in vars(own)
    assert set(vars(own)) - before <= {
        "_guidance_scale",
        "_guidance_rescale",
        "_clip_skip",
        "_cross_attention_kwargs",
        "_interrupt",
        "_num_timesteps",
    }
    for part in (own.unet, own.vae, own.text_encoder):
        assert not part._forward_pre_hooks


def test_neither_the_network_nor_the_products_of_the_text_encoder_run(own, base):
    import torch

    with torch.no_grad():
        for layer in own.text_encoder.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.fill_(float("nan"))
    ran, read = [], []
    for part in (own.unet, own.vae):
        part.register_forward_hook(lambda *given: ran.append(given))
    own.text_encoder.register_forward_hook(lambda module, given, made: read.append(made[0]))
    check(own, base, FITS)
    assert not ran
    assert read
    assert all(made.isfinite().all() for made in read)


def test_a_text_encoder_that_zeros_upset_is_tried_with_its_products(own, base):
    import torch

    calls = []

    def refuse(module, given, made):
        calls.append(made[0])
        if len(calls) == 1:
            raise ValueError("all zeros")

    own.text_encoder.register_forward_hook(refuse)
    check(own, base, FITS)
    with pytest.raises(InputError):
        check(own, base, FITS + " cat")
    assert len(calls) > 2
    assert not torch.equal(calls[0], calls[1])


def test_a_pipeline_that_needs_more_than_a_prompt_is_refused_here(own, base, monkeypatch):
    """One that no table knows, and whose signature does not tell."""

    def check_inputs(*given, **named):
        raise ValueError("`image` has to be of type\n`PIL.Image.Image`, but is None")

    recipe = default_recipe(own, base)
    monkeypatch.setattr(own, "check_inputs", check_inputs)
    with pytest.raises(GenerationError, match="fails before its first step: `image` has") as caught:
        check_prompts(own, [PromptSet("own", 1, ("a cat",))], recipe)
    assert "\n" not in caught.value.message


def test_running_out_of_memory_there_is_no_fault_of_the_model(own, base):
    def refuse(module, given):
        raise MemoryError

    own.text_encoder.register_forward_pre_hook(refuse)
    check(own, base, FITS)
    with pytest.raises(InputError):
        check(own, base, FITS + " cat")


def test_a_word_of_a_textual_inversion_counts_as_often_as_it_has_vectors(own, base):
    import torch

    own.load_textual_inversion(torch.randn(3, 8), token="<toy>")
    words = " ".join(["cat"] * (CONTEXT - 5))
    check(own, base, f"{words} <toy>")
    with pytest.raises(InputError, match=f"has {CONTEXT + 1} tokens"):
        check(own, base, f"{words} cat <toy>")
