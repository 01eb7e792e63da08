"""How a model is asked to draw when nobody says otherwise, and what a caller may change."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import ValidationError

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation.advice import advised
from gmi_registry.generation.pipelines import DtypeName, Pipeline
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import fault_place, first_fault
from gmi_registry.spec import GenerationRecipe, Sampler

__all__ = ["RecipeOverrides", "default_recipe"]

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
    guidance_scale: float | None = None
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


def default_recipe(
    pipeline: Pipeline, model: ModelFiles, overrides: RecipeOverrides = _NO_OVERRIDES
) -> GenerationRecipe:
    """The recipe of one publication: the model's own scheduler and size, seed 0.

    Steps and guidance are those that the model card advises, else the pipeline's own (of steps
    at most 25); the size in pixels is the network's sample size times the autoencoder's factor;
    trigger words and the prompt's template come from the card. The batch size follows from the
    picture size alone, so that a recipe does not depend on the machine (but ``dtype`` does).
    Raises InputError for an override out of range, GenerationError where the size is unknown.
    """
    asks = inspect.signature(pipeline.__call__).parameters
    if overrides.lora_scale is not None and model.kind != "lora":
        raise InputError(f"{model.ref} is no LoRA, so it has no LoRA scale")
    if overrides.negative_prompt and "negative_prompt" not in asks:
        raise InputError(f"a {type(pipeline).__name__} takes no negative prompt")
    width, height = _size(pipeline, model, overrides)
    wanted: dict[str, Any] = {
        "sampler": _sampler(pipeline),
        "steps": _first(
            advised(model, "steps"),
            min(_default(asks, "num_inference_steps", DEFAULT_STEPS), DEFAULT_STEPS),
        ),
        "guidance_scale": _first(
            advised(model, "guidance_scale"), _default(asks, "guidance_scale", 0.0)
        ),
        "width": width,
        "height": height,
        "seeds": (0,),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "lora_scale": 1.0 if model.kind == "lora" else None,
        "trigger_words": model.card.trigger_words,
        "prompt_template": advised(model, "prompt_template") or "{prompt}",
        "batch_size": max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // max(1, width * height))),
        "libraries": _library_versions(),
    }
    chosen = {name: value for name, value in vars(overrides).items() if value is not None}
    chosen.pop("dtype", None)  # that of the pipeline is the truth
    try:
        return GenerationRecipe.model_validate(wanted | chosen)
    except ValidationError as error:
        place = fault_place(error).partition(".")[0] or "recipe"
        message = first_fault(error).removeprefix(f"{fault_place(error)}: ")
        raise InputError(f"{place.replace('_', ' ')}: {message}") from error


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


def _first(advice: float | None, otherwise: Any) -> Any:
    return otherwise if advice is None else advice


def _default(parameters: Any, name: str, otherwise: Any) -> Any:
    value = parameters[name].default if name in parameters else None
    return otherwise if value in (None, inspect.Parameter.empty) else value


def _library_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path: nothing to record
            continue
    return found
