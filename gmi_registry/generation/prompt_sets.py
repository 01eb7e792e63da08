"""The default prompt sets, which every model of a family answers so that answers compare; and
whether a model reads a prompt to its end.

diffusers cuts long prompts, most often without a word, and how long one may be is written nowhere.
Each pipeline has limits of its own, some as numbers in its code, and many put words around a prompt
that count, too: an instruction, a chat template. So a pipeline is run once with a probe up to the
first step of its network, to see which texts it gives to which tokenizer, and where it lets that
cut them; then prompts are counted in the probe's place.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from typing import Any

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation.call_settings import call_arguments, skipping_layers
from gmi_registry.generation.model_checks import (
    SAVE_WHOLE,
    Pipeline,
    error_line,
    needed_components,
    whole_number,
)
from gmi_registry.generation.recommended_settings import ModelWithCard, recommended
from gmi_registry.generation.schedulers import use_sampler
from gmi_registry.spec import GenerationRecipe, PromptSet

DEFAULT_PROMPT_SET = "general-v1"
"""The set of every model whose card names no other."""

_FOLDER = files("gmi_registry.generation") / "prompts"
_FILE = re.compile(r"(?P<full>(?P<name>.+)-v(?P<version>[1-9][0-9]*))\.txt")

_NO_LIMIT = 100_000
"""Tokenizers without a limit state an astronomic one."""
_PROBE = "gmiprobe"
"""A text that pipelines which tidy prompts up leave as it is."""
_NEGATIVE = "the negative prompt"


def prompt_set_names() -> tuple[str, ...]:
    """The names that :func:`prompt_set_named` knows, sorted."""
    found = (_FILE.fullmatch(entry.name) for entry in _FOLDER.iterdir())
    return tuple(sorted(match["full"] for match in found if match))


@cache
def prompt_set_named(name: str) -> PromptSet:
    """The set that this package carries under ``name``: ``general-v1`` or ``icons-v1``.

    The set's own name is the part before ``-v``, its version the number after it. Raises
    InputError for any other name.
    """
    known = prompt_set_names()
    if name not in known:
        raise InputError(
            f"there is no prompt set named {name[:80]!r}",
            hint=f"known prompt sets: {', '.join(known)}",
        )
    match = _FILE.fullmatch(f"{name}.txt")
    assert match is not None
    with as_file(_FOLDER / f"{name}.txt") as path:
        return PromptSet.from_file(path, name=match["name"], version=int(match["version"]))


def default_prompt_set(model: ModelWithCard) -> PromptSet:
    """The set that the model's card names, else its base model's card, else ``general-v1``.

    Raises InputError where a card names a set that this package does not carry: another set in
    its place would make a specification that compares with none of its family.
    """
    return prompt_set_named(recommended(model, "prompt_set") or DEFAULT_PROMPT_SET)


@dataclass(frozen=True)
class _Reader:
    """One tokenizer, as a pipeline calls it.

    ``template`` is the text that it is given, with the probe where the prompt stands; ``most`` is
    how many tokens of all that are read, and ``most_of_prompt`` how many of the prompt, with the
    tokenizer's marks.
    """

    tokenizer: Any
    template: str
    marks: bool
    most: int
    most_of_prompt: int

    def fault(self, text: str) -> tuple[int, int] | None:
        """How many tokens ``text`` has and how many are read; None where all are.

        The words around a prompt are counted in neither number.
        """
        alone = self._count(text)
        around = 0
        if self.template != _PROBE:
            around = self._count(self.template.replace(_PROBE, "")) - self._count("")
        whole = self._count(self.template.replace(_PROBE, text))
        if whole > self.most or alone > self.most_of_prompt:
            return max(alone, whole - around), min(self.most - around, self.most_of_prompt)
        return None

    def _count(self, text: str) -> int:
        marks = {} if self.marks else {"add_special_tokens": False}
        read = self.tokenizer(text, verbose=False, **marks)
        return len(read["input_ids"])


def check_prompts(
    pipeline: Pipeline, prompt_sets: Sequence[PromptSet], recipe: GenerationRecipe
) -> None:
    """Raise InputError for the first prompt that the model would cut.

    Counted are the tokens of the text that a tokenizer is given (trigger words, the tokenizer's own
    marks and the pipeline's words around a prompt included), up to where the pipeline has it cut,
    or cuts itself. A pipeline with several text encoders reads a prompt to its end if one of them
    does. The negative prompt is checked as well. Raises GenerationError for a pipeline that fails
    before the first step of its network, whatever the prompt.
    """
    readers = _readers(pipeline, recipe)
    texts = [
        (f"prompt set {prompt_set.name!r}, prompt {number}", recipe.render(prompt))
        for prompt_set in prompt_sets
        for number, prompt in enumerate(prompt_set.prompts, start=1)
    ]
    texts.append((_NEGATIVE, recipe.negative_prompt))
    for place, text in texts:
        faults = [reader.fault(_converted(pipeline, text, reader.tokenizer)) for reader in readers]
        if None in faults or not faults:
            continue
        count, most = max(
            (fault for fault in faults if fault is not None), key=lambda pair: pair[1]
        )
        shown = text if len(text) <= 60 else f"{text[:59]}…"
        raise InputError(
            f"{place}: {shown!r} has {count} tokens, but the model reads {most}",
            hint=f"shorten it{'' if place == _NEGATIVE else _around(recipe)}",
        )


def _around(recipe: GenerationRecipe) -> str:
    """What else of a prompt's text may be shortened."""
    words = " or the trigger words" if recipe.trigger_words else ""
    return words + ("" if recipe.prompt_template == "{prompt}" else " or the prompt template")


def _converted(pipeline: Pipeline, text: str, tokenizer: Any) -> str:
    """``text`` with a textual inversion's word as the several tokens that it stands for."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    return text if convert is None else str(convert(text, tokenizer))


def _readers(pipeline: Pipeline, recipe: GenerationRecipe) -> list[_Reader]:
    """All tokenizers that are given the prompt. None of them may cut it: then there is no fault."""
    most_of_prompt = _longest_sequence(pipeline)
    tokenizers = _tokenizers(pipeline)
    calls = []
    if hasattr(pipeline, "components"):  # else it is not a pipeline of diffusers
        calls = _rehearse(pipeline, recipe, tokenizers)
    readers = []
    for call in calls:
        template = call.template()
        if template is None:
            continue
        most = _NO_LIMIT
        if call.named.get("truncation") not in (None, False, "do_not_truncate"):
            most = whole_number(call.named.get("max_length")) or call.tokenizer.model_max_length
        marks = bool(call.named.get("add_special_tokens", True))
        readers.append(
            _Reader(call.tokenizer, template, marks, min(most, _NO_LIMIT), most_of_prompt)
        )
    # Some pipelines tokenize a second time without a limit, to warn of what was cut.
    limited = {id(reader.tokenizer) for reader in readers if reader.most < _NO_LIMIT}
    readers = [
        reader
        for reader in readers
        if reader.most < _NO_LIMIT or id(reader.tokenizer) not in limited
    ]
    if readers:
        return readers
    return [
        _Reader(tokenizer, _PROBE, True, min(tokenizer.model_max_length, _NO_LIMIT), most_of_prompt)
        for tokenizer in tokenizers
    ]


def _longest_sequence(pipeline: Pipeline) -> int:
    """The tokens after which the pipeline cuts a prompt, whatever its tokenizers could read.

    Some cut by it what their text encoder has made of a prompt, where no tokenizer shows it.
    """
    call = getattr(pipeline, "__call__", None)  # noqa: B004, its parameters are wanted
    takes = {} if call is None else inspect.signature(call).parameters
    usual = takes["max_sequence_length"].default if "max_sequence_length" in takes else None
    return min(whole_number(usual) or _NO_LIMIT, _NO_LIMIT)


def _tokenizers(pipeline: Pipeline) -> list[Any]:
    """The pipeline's tokenizers, those inside a processor of texts and images too."""
    parts: Mapping[str, Any] = getattr(pipeline, "components", None) or {
        name: getattr(pipeline, name, None)
        for name in ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")
    }
    found: dict[int, Any] = {}
    for part in parts.values():
        for one in (part, getattr(part, "tokenizer", None)):
            # Kolors' own has another thing inside, which is called tokenizer as well.
            if hasattr(one, "model_max_length") and callable(one):
                found[id(one)] = one
                break
    return list(found.values())


# ---- a run up to the first step


class _FirstStep(BaseException):
    """The network was about to run; no pipeline catches this."""


@dataclass(frozen=True)
class _Call:
    """A tokenizer and what it was called with."""

    tokenizer: Any
    texts: tuple[Any, ...]
    named: Mapping[str, Any]

    def template(self) -> str | None:
        """The text that holds the probe."""
        given = [*self.texts, self.named.get("text"), self.named.get("text_pair")]
        while given:
            text = given.pop(0)
            if isinstance(text, str) and _PROBE in text:
                return text
            if isinstance(text, list | tuple):
                given.extend(text)
        return None


def _rehearse(
    pipeline: Pipeline, recipe: GenerationRecipe, tokenizers: Sequence[Any]
) -> list[_Call]:
    """How the pipeline calls its tokenizers with the probe for a prompt.

    Its text encoders run without their matrix products, so that it takes a second where encoding
    takes a minute. What fails like this is tried once more with them. Raises GenerationError where
    that fails as well.
    """
    import torch

    try:
        with _without_products():
            return _calls(pipeline, recipe, tokenizers)
    except Exception:  # whatever zeros do to a model that looks at them
        try:
            return _calls(pipeline, recipe, tokenizers)
        except (MemoryError, torch.OutOfMemoryError):
            return []
        except Exception as error:
            lacking = _lacking(pipeline)
            if lacking:
                raise GenerationError(
                    f"a {type(pipeline).__name__} without {' and '.join(lacking)} does not run: "
                    f"{error_line(error)}",
                    hint=SAVE_WHOLE,
                ) from error
            raise GenerationError(
                f"a {type(pipeline).__name__} like this one fails before its first step: "
                f"{error_line(error)}",
                hint="give other settings, or update diffusers: pip install --upgrade diffusers",
            ) from error


def _lacking(pipeline: Pipeline) -> list[str]:
    """The parts that are null in a pipeline, of those that it must be given or that read texts."""
    needed = needed_components(type(pipeline))
    parts = getattr(pipeline, "components", {})
    return [
        name
        for name, part in parts.items()
        if part is None and (name in needed or name.startswith(("text_encoder", "tokenizer")))
    ]


def _calls(pipeline: Pipeline, recipe: GenerationRecipe, tokenizers: Sequence[Any]) -> list[_Call]:
    import torch
    from transformers import PreTrainedModel

    def stop(*_: Any, **__: Any) -> None:
        raise _FirstStep

    arguments = call_arguments(pipeline, recipe, [_PROBE])
    generators = [torch.Generator("cpu").manual_seed(0)]
    calls: list[_Call] = []
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(use_sampler(pipeline, recipe.sampler))
        stack.enter_context(skipping_layers(pipeline, recipe))
        for tokenizer in tokenizers:
            stack.enter_context(_recorded(tokenizer, calls))
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module) and not isinstance(part, PreTrainedModel):
                stack.callback(part.register_forward_pre_hook(stop).remove)
        # The bar is shown from the first step on, however the network is called.
        stack.enter_context(_replaced(pipeline, "progress_bar", stop))
        with suppress(_FirstStep):
            pipeline(**arguments, generator=generators, output_type="np")
    return calls


@contextmanager
def _recorded(tokenizer: Any, calls: list[_Call]) -> Iterator[None]:
    """Write down in ``calls`` how ``tokenizer`` is called."""
    kind = type(tokenizer)

    class Recording(kind):  # type: ignore[valid-type, misc]
        def __call__(self, *texts: Any, **named: Any) -> Any:
            calls.append(_Call(tokenizer, texts, named))
            return super().__call__(*texts, **named)

    # Pipelines and processors look at the class's name.
    Recording.__name__, Recording.__qualname__ = kind.__name__, kind.__qualname__
    Recording.__module__ = kind.__module__
    tokenizer.__class__ = Recording
    try:
        yield
    finally:
        tokenizer.__class__ = kind


@contextmanager
def _replaced(pipeline: Pipeline, name: str, value: Any) -> Iterator[None]:
    """With an attribute of the instance in place of its class's."""
    own: dict[str, Any] = pipeline.__dict__
    before = own.get(name, own)
    own[name] = value
    try:
        yield
    finally:
        if before is own:
            del own[name]
        else:
            own[name] = before


@contextmanager
def _without_products() -> Iterator[None]:
    """Products of matrices give zeros of their shape: nothing else in a text encoder costs much.

    In inference mode linear layers and attention are seen as such.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    products = (aten.mm, aten.bmm, aten.matmul)

    class Zeros(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kind = func.overloadpacket
            if kind is aten.linear:
                return args[0].new_zeros((*args[0].shape[:-1], args[1].shape[0]))
            if kind is aten.scaled_dot_product_attention:
                return args[0].new_zeros((*args[0].shape[:-1], args[2].shape[-1]))
            if kind in products and min(args[0].ndim, args[1].ndim) > 1:
                shapes = (args[0].shape[:-2], args[1].shape[:-2])
                batch = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
                return args[0].new_zeros((*batch, args[0].shape[-2], args[1].shape[-1]))
            if kind in (aten.addmm, aten.baddbmm):
                return args[1].new_zeros((*args[1].shape[:-1], args[2].shape[-1]))
            if kind is aten.contiguous and args[0].is_floating_point():  # T5's bias of positions
                return args[0].new_zeros(args[0].shape)
            return func(*args, **(kwargs or {}))

    with Zeros():  # type: ignore[no-untyped-call]
        yield
