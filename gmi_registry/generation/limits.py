"""What a loaded model can make: which sizes and steps.

Asked before anything is generated. diffusers finds out when it generates, and some of its pipelines
make a picture of another size without a word.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

from gmi_registry.errors import InputError
from gmi_registry.generation.pipelines import Pipeline
from gmi_registry.generation.refusals import one_line
from gmi_registry.generation.schedulers import recorded_scheduler
from gmi_registry.generation.settings import check_effects
from gmi_registry.spec import GenerationRecipe

__all__ = ["check_settings"]


def check_settings(pipeline: Pipeline, recipe: GenerationRecipe) -> None:
    """Raise InputError for a recipe that the model cannot follow.

    That is a size or a number of steps that it cannot make, a scheduler that does not fit, or a
    setting that has no effect on it.
    """
    check_effects(pipeline, recipe)
    _check_size(pipeline, recipe)
    _check_steps(pipeline, recipe)


def _check_size(pipeline: Pipeline, recipe: GenerationRecipe) -> None:
    multiple = _multiple(pipeline, recipe)
    for name, pixels in (("width", recipe.width), ("height", recipe.height)):
        if pixels % multiple:
            below = max(multiple, pixels // multiple * multiple)
            raise _cannot(
                pipeline,
                f"{name} {pixels}",
                f"its sides are multiples of {multiple}",
                f"--{name} {below} or {below + multiple}",
            )
    largest = _largest(pipeline)
    if largest is not None and max(recipe.width, recipe.height) > largest:
        raise _cannot(
            pipeline,
            f"{recipe.width} x {recipe.height}",
            f"its sides have at most {largest} pixels",
            "a smaller --width and --height",
        )
    other = _generated_size(pipeline, recipe.width, recipe.height)
    if other != (recipe.width, recipe.height):
        raise _cannot(
            pipeline,
            f"{recipe.width} x {recipe.height}",
            f"it generates {other[0]} x {other[1]} for that",
            f"--width {other[0]} --height {other[1]}",
        )
    said = _refusal(pipeline, recipe, recipe.width, recipe.height)
    # What is said of a size that must be right is about how it was asked here.
    usual = 8 * multiple
    if said is not None and _refusal(pipeline, recipe, usual, usual) is None:
        size = f"{recipe.width} x {recipe.height}"
        raise _cannot(pipeline, size, said, "another --width and --height")


def _check_steps(pipeline: Pipeline, recipe: GenerationRecipe) -> None:
    """Let a copy of the recorded scheduler lay out its steps."""
    scheduler = recorded_scheduler(pipeline, recipe.sampler)
    lay_out = getattr(scheduler, "set_timesteps", None)
    if lay_out is None or not hasattr(type(scheduler), "from_config"):
        return
    takes = inspect.signature(lay_out).parameters
    more = {"mu": 1.0} if "mu" in takes and scheduler.config.get("use_dynamic_shifting") else {}

    def fault(steps: int) -> str | None:
        try:
            type(scheduler).from_config(scheduler.config).set_timesteps(steps, **more)
        except Exception as error:  # asserts, indexes and divides as it likes
            return one_line(error)
        return None

    said = fault(recipe.steps)
    # A scheduler that fails at its usual number, too, wants to be asked in another way.
    if said is not None and fault(25) is None:
        raise _cannot(pipeline, f"{recipe.steps} steps", said, "another --steps")


def _multiple(pipeline: Pipeline, recipe: GenerationRecipe) -> int:
    """What the sides of a picture are multiples of, as far as the parts and the pipeline say."""
    of_parts = _multiple_of_parts(pipeline)
    for more in (1, 2, 4, 8):
        multiple = more * of_parts
        # An odd multiple, which is one of nothing larger.
        if _refusal(pipeline, recipe, 9 * multiple, 9 * multiple) is None:
            return multiple
    return of_parts


def _multiple_of_parts(pipeline: Pipeline) -> int:
    """The autoencoder's factor, times the patch that a transformer reads at once."""
    factor = _whole(getattr(pipeline, "vae_scale_factor", None))
    # Pipelines that pack latents say so in the settings of this part, and nowhere else.
    packed = _whole(_config(getattr(pipeline, "image_processor", None), "vae_scale_factor"))
    patch = _whole(_config(getattr(pipeline, "transformer", None), "patch_size"))
    return math.lcm(factor or 1, packed or 1, (factor or 1) * (patch or 1))


def _largest(pipeline: Pipeline) -> int | None:
    """The longest side in pixels that has positions of its own, where there is such a limit."""
    transformer = getattr(pipeline, "transformer", None)
    embedding = getattr(transformer, "pos_embed", None)
    # The others count patches in all, or work positions out.
    if not hasattr(embedding, "cropped_pos_embed"):
        return None
    positions = _whole(getattr(embedding, "pos_embed_max_size", None))
    patch = _whole(getattr(embedding, "patch_size", None))
    factor = _whole(getattr(pipeline, "vae_scale_factor", None))
    if positions is None or patch is None or factor is None:
        return None
    return positions * patch * factor


def _generated_size(pipeline: Pipeline, width: int, height: int) -> tuple[int, int]:
    """What the pipeline makes of a size where it maps sizes to its own and cannot be told not to.

    As HiDreamImagePipeline and Kandinsky5T2IPipeline of diffusers 0.42 do in their calls.
    """
    name = type(pipeline).__name__
    listed = getattr(pipeline, "resolutions", None)
    if name.startswith("Kandinsky5") and listed and (width, height) not in listed:
        near = min(listed, key=lambda size: abs(size[0] / size[1] - width / height))
        return int(near[0]), int(near[1])
    if name.startswith("HiDreamImage"):
        factor = int(pipeline.vae_scale_factor)
        step, side = 2 * factor, pipeline.default_sample_size * factor
        scale = math.sqrt(side**2 / (width * height))
        return int(width * scale // step * step), int(height * scale // step * step)
    return width, height


def _refusal(pipeline: Pipeline, recipe: GenerationRecipe, width: int, height: int) -> str | None:
    """What the pipeline's own check says, in one line; None where it is content, or has none."""
    check = getattr(pipeline, "check_inputs", None)
    if check is None:
        return None
    usual = inspect.signature(pipeline.__call__).parameters
    known: dict[str, Any] = {
        "prompt": "a cat",
        "width": width,
        "height": height,
        "num_inference_steps": recipe.steps,
        "callback_steps": 1,
    }
    if recipe.guidance_scale is not None:
        known["guidance_scale"] = recipe.guidance_scale
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(check).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if name in usual and usual[name].default is not parameter.empty:
            default = usual[name].default
        given[name] = known.get(name, None if default is parameter.empty else default)
    try:
        check(**given)
    except (ValueError, TypeError) as error:
        return one_line(error)
    return None


def _cannot(pipeline: Pipeline, what: str, why: str, instead: str) -> InputError:
    return InputError(
        f"a {type(pipeline).__name__} like this one generates no image with {what}: {why}",
        hint=f"give {instead}",
    )


def _config(part: Any, name: str) -> object:
    config = getattr(part, "config", None)
    return None if config is None else config.get(name)


def _whole(value: object) -> int | None:
    """``value`` where it is a whole number above 0."""
    usable = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return value if usable and isinstance(value, int) else None
