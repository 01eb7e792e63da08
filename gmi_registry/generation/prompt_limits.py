"""Whether a model reads a prompt to its end."""

from __future__ import annotations

from collections.abc import Sequence

from gmi_registry.errors import InputError
from gmi_registry.generation.pipelines import Pipeline
from gmi_registry.spec import GenerationRecipe, PromptSet

__all__ = ["check_prompts"]

_NO_LIMIT = 100_000
"""Tokenizers without a limit state an astronomic one."""


def check_prompts(
    pipeline: Pipeline, prompt_sets: Sequence[PromptSet], recipe: GenerationRecipe
) -> None:
    """Raise InputError for the first prompt that the model would cut.

    Counted are the tokens of the text that the model is given (trigger words included, and the
    tokenizer's own start and end marks). A pipeline with several text encoders reads a prompt to
    its end if one of its tokenizers does. The negative prompt is checked as well.
    """
    tokenizers = [
        tokenizer
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3")
        if (tokenizer := getattr(pipeline, name, None)) is not None
    ]
    texts = [
        (f"prompt set {prompt_set.name!r}, prompt {number}", recipe.render(prompt))
        for prompt_set in prompt_sets
        for number, prompt in enumerate(prompt_set.prompts, start=1)
    ]
    texts.append(("the negative prompt", recipe.negative_prompt))
    for place, text in texts:
        counts = [
            (len(tokenizer(text, verbose=False)["input_ids"]), tokenizer.model_max_length)
            for tokenizer in tokenizers
        ]
        if not counts or any(count <= min(limit, _NO_LIMIT) for count, limit in counts):
            continue
        count, limit = max(counts, key=lambda pair: pair[1])
        shown = text if len(text) <= 60 else f"{text[:59]}…"
        raise InputError(
            f"{place}: {shown!r} has {count} tokens, but the model reads {limit}",
            hint="shorten it" + (" or the trigger words" if recipe.trigger_words else ""),
        )
