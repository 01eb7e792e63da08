"""How a model is asked to draw when nobody says otherwise, and what a caller may change."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from pydantic import ValidationError

from gmi_registry.device import DtypeName
from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation.adapters import learned_words
from gmi_registry.generation.advice import Carded, adviser
from gmi_registry.generation.pipelines import Pipeline
from gmi_registry.model import Kind, ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.spec import GenerationRecipe, LoraPartial, Sampler

__all__ = ["RecipeOverrides", "check_advice", "check_overrides", "default_recipe", "recipe_origins"]

DEFAULT_STEPS = 25
"""At most this many: pipelines default to 50, and the second half hardly changes a picture."""

_BATCH_PIXELS = 4 * 512 * 512
_LARGEST_BATCH = 16
_LARGEST_NUMBER = 2**53 - 1
_LIBRARIES = ("diffusers", "peft", "torch", "transformers")


@dataclass(frozen=True)
class RecipeOverrides:
    """What a caller wants instead of :func:`default_recipe`'s choice; None leaves it.

    ``width`` and ``height`` are in pixels. All fields have the meaning that they have in
    GenerationRecipe. ``dtype`` is for ``load_pipeline`` as well: a recipe records what is loaded.
    """

    steps: int | None = None
    scheduler: str | None = None
    guidance_scale: float | None = None
    true_cfg_scale: float | None = None
    clip_skip: int | None = None
    seeds: tuple[int, ...] | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None
    lora_scale: float | None = None
    trigger_words: tuple[str, ...] | None = None
    prompt_template: str | None = None
    batch_size: int | None = None
    dtype: DtypeName | None = None


_NO_OVERRIDES = RecipeOverrides()
_OPTIONS = {
    "guidance_scale": "--guidance",
    "trigger_words": "--trigger-word",
}
_CALLER, _PIPELINE, _PACKAGE = "as asked for", "the pipeline's own", "this package's default"


_PLAIN: dict[str, Any] = {
    "sampler": Sampler(name="any", config={}),
    "steps": 1,
    "guidance_scale": 0.0,
    "width": 1,
    "height": 1,
    "seeds": (0,),
}
"""A recipe for any model, in whose place single settings are checked."""


def check_overrides(overrides: RecipeOverrides) -> None:
    """Raise InputError for an override that no model's recipe may hold. Loads nothing."""
    _validated(_PLAIN | _given(overrides), dict.fromkeys(vars(overrides), _CALLER))
    if overrides.lora_scale == 0:
        raise InputError(
            "a LoRA of scale 0 has no effect, and its specification would be the base model's",
            hint="give another --lora-scale, or publish the base model",
        )
    if overrides.dtype not in (None, *get_args(DtypeName)):
        raise InputError(
            f"dtype {one_line(str(overrides.dtype), 60)} ({_CALLER}) is none that is known",
            hint=f"give one of {', '.join(get_args(DtypeName))}",
        )


def check_advice(model: Carded, kind: Kind | None, overrides: RecipeOverrides) -> None:
    """Raise InputError for what ``model``'s cards advise and no recipe may hold, as far as
    ``overrides`` leave it; and for an override that no model of its ``kind`` takes (None: which it
    is only its weights tell). Loads nothing."""
    if overrides.lora_scale is not None and kind not in (None, "lora"):
        raise InputError(
            f"{model.ref} is no LoRA, so it has no LoRA scale", hint="leave out --lora-scale"
        )
    found = {
        field: advice
        for field in ("steps", "guidance_scale", "prompt_template")
        if (advice := _advice(model, field)) is not None and getattr(overrides, field) is None
    }
    values = {field: value for field, (value, _) in found.items()}
    _validated(_PLAIN | values, {field: origin for field, (_, origin) in found.items()})


def default_recipe(
    pipeline: Pipeline,
    model: ModelFiles,
    overrides: RecipeOverrides = _NO_OVERRIDES,
    *,
    lora_partial: LoraPartial | None = None,
) -> GenerationRecipe:
    """The recipe of one publication: the model's own scheduler and size, seed 0.

    Steps and guidance are those that the model card advises, else the pipeline's own (of steps
    at most 25); the size in pixels is the network's sample size times the autoencoder's factor;
    trigger words and the prompt's template come from the card. The batch size follows from the
    picture size alone, so that a recipe does not depend on the machine (but ``dtype`` does).
    Raises InputError for an override, or a card's advice, out of range, GenerationError where the
    size is unknown.
    """
    values, origins = _settings(pipeline, model, overrides)
    return _validated(values | {"lora_partial": lora_partial}, origins)


def recipe_origins(
    pipeline: Pipeline, model: ModelFiles, overrides: RecipeOverrides = _NO_OVERRIDES
) -> dict[str, str]:
    """Where each setting of :func:`default_recipe` comes from, in words for people."""
    return _settings(pipeline, model, overrides)[1]


def _settings(
    pipeline: Pipeline, model: ModelFiles, overrides: RecipeOverrides
) -> tuple[dict[str, Any], dict[str, str]]:
    """The recipe's fields and their origins."""
    check_overrides(overrides)
    check_advice(model, model.kind, overrides)
    asks = inspect.signature(pipeline.__call__).parameters
    if overrides.negative_prompt and "negative_prompt" not in asks:
        raise InputError(
            f"a {type(pipeline).__name__} takes no negative prompt",
            hint="leave out --negative-prompt",
        )
    width, height = _size(pipeline, model, overrides)
    found: dict[str, tuple[Any, str]] = {
        "sampler": (_sampler(pipeline), _PIPELINE),
        "steps": _advice(model, "steps")
        or _default(asks, "num_inference_steps", DEFAULT_STEPS, most=DEFAULT_STEPS),
        "guidance_scale": _advice(model, "guidance_scale") or _default(asks, "guidance_scale", 0.0),
        "width": (width, _PIPELINE),
        "height": (height, _PIPELINE),
        "seeds": ((0,), _PACKAGE),
        "dtype": (str(pipeline.dtype).removeprefix("torch."), "the device's usual one"),
        "lora_scale": (1.0 if model.kind == "lora" else None, _PACKAGE),
        "trigger_words": _trigger_words(pipeline, model),
        "prompt_template": _advice(model, "prompt_template") or ("{prompt}", _PACKAGE),
        "negative_prompt": _negative_words(pipeline),
        "batch_size": (
            max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // max(1, width * height))),
            "follows from the size",
        ),
        "libraries": (_library_versions(), "installed here"),
    }
    given = _given(overrides)
    values = {name: value for name, (value, _) in found.items()} | given
    origins = {name: origin for name, (_, origin) in found.items()}
    asked_for = given.keys() | ({"dtype"} if overrides.dtype is not None else set())
    return values, origins | dict.fromkeys(asked_for, _CALLER)


def _trigger_words(pipeline: Pipeline, model: ModelFiles) -> tuple[tuple[str, ...], str]:
    """Those of the card, and the words of textual inversions that these do not hold."""
    words = model.card.trigger_words
    learned = learned_words(pipeline)
    # What the card calls a word that goes by another spelling here, or is for negative prompts.
    words = tuple(word for word in words if word not in learned.replaced)
    missing = tuple(word for word in learned.words if not any(word in text for text in words))
    if missing:
        return (*missing, *words), "the words that its file teaches"
    return words, _card_of(model) if words else _PACKAGE


def _negative_words(pipeline: Pipeline) -> tuple[str, str]:
    negative = learned_words(pipeline).negative
    return (", ".join(negative), "the words that its file teaches") if negative else ("", _PACKAGE)


def _given(overrides: RecipeOverrides) -> dict[str, Any]:
    chosen = {name: value for name, value in vars(overrides).items() if value is not None}
    chosen.pop("dtype", None)  # that of the pipeline is the truth
    return chosen


def _validated(values: dict[str, Any], origins: dict[str, str]) -> GenerationRecipe:
    try:
        return GenerationRecipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        if not first["loc"]:
            raise InputError(message, hint="gmi-publish --help") from error
        name = str(first["loc"][0])
        option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        origin = origins.get(name, _CALLER)
        raise InputError(
            f"{name.replace('_', ' ')} {one_line(str(first['input']), 60)} ({origin}): {message}",
            hint=f"give another {option}",
        ) from error


def _advice(model: Carded, field: str) -> tuple[Any, str] | None:
    found = adviser(model, field)
    return None if found is None else (getattr(found.card, field), _card_of(found))


def _card_of(model: Carded) -> str:
    return f"the model card of {model.ref.without_revision}"


def _sampler(pipeline: Pipeline) -> Sampler:
    """Class and settings of the scheduler; lists (a trained schedule) stay with the weights."""
    scheduler = pipeline.scheduler
    config = {
        name: value
        for name, value in sorted(scheduler.config.items())
        if not name.startswith("_") and _is_scalar(value)
    }
    return Sampler(name=type(scheduler).__name__, config=config)


def _is_scalar(value: object) -> bool:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return math.isfinite(value) and abs(value) <= _LARGEST_NUMBER
    return value is None or isinstance(value, bool | str)


def _size(pipeline: Pipeline, model: ModelFiles, overrides: RecipeOverrides) -> tuple[int, int]:
    """Width and height in pixels."""
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    sample = getattr(pipeline, "default_sample_size", None)
    if sample is None and network is not None:
        sample = network.config.get("sample_size")
    factor = getattr(pipeline, "vae_scale_factor", None)
    width, height = overrides.width, overrides.height
    if sample is not None and factor is not None:
        rows, columns = (sample, sample) if isinstance(sample, int) else (sample[0], sample[1])
        width = columns * factor if width is None else width
        height = rows * factor if height is None else height
    if width is None or height is None:
        raise GenerationError(
            f"{model.ref}: the model does not say how large its pictures are",
            hint="give width and height",
        )
    return width, height


def _default(
    parameters: Any, name: str, otherwise: Any, *, most: float = math.inf
) -> tuple[Any, str]:
    value = parameters[name].default if name in parameters else None
    if value in (None, inspect.Parameter.empty):
        return otherwise, _PACKAGE
    return (value, _PIPELINE) if value <= most else (most, f"{_PIPELINE} {value}, at most {most}")


def _library_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path: nothing to record
            continue
    return found
