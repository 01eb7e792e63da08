"""What the call of a pipeline reads of a recipe, and which sizes and steps it can make.

diffusers' pipelines take arguments that they ignore: a guidance scale of a network that was trained
without one, a negative prompt without the guidance that would read it. A recipe must hold nothing
that has no effect, so that what a pipeline reads is found out here, once, for every class: from the
signature of its call, from its own ``do_classifier_free_guidance``, and from what its network's
configuration says of embedded guidance. Some pipelines generate an image of another size without a
word; sizes and steps are checked before anything is generated. Checked with diffusers 0.42.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from gmi_registry.errors import InputError
from gmi_registry.generation.model_checks import Pipeline, call_source, error_line, whole_number
from gmi_registry.generation.schedulers import recorded_scheduler
from gmi_registry.spec import GenerationRecipe

_IGNORING = frozenset({"DreamLiteMobilePipeline"})
"""Pipelines whose call takes guidance and negative prompt for company's sake, and says so."""

BATCH_OF_ONE = frozenset(
    {
        # They append negative prompts to the prompts, for which there are no generators.
        "KandinskyCombinedPipeline",
        "KandinskyV22CombinedPipeline",
        # They cut or pad prompts to the longest in the batch, and let that show in the images.
        "CogView4Pipeline",
        "Kandinsky3Pipeline",
    }
)
"""Pipelines whose images depend on their neighbours in a batch, or that fail with several."""

WHY_ONE = "images of this pipeline would depend on their neighbours in a batch"

_SCALES = ("guidance_scale", "distilled_guidance_scale", "prior_guidance_scale")
"""What pipelines call the first scale of their guidance."""

_HIGH = 1000.0


@dataclass(frozen=True)
class CallSettings:
    """What the call of one loaded pipeline reads.

    ``guidance`` is the name of the argument that a recipe's ``guidance_scale`` is given as, None
    where no such scale has an effect; ``why_no_guidance`` says why then. ``embedded`` is set where
    the network takes that scale as an input, as guidance-distilled ones do. ``true_cfg`` tells
    whether there is a ``true_cfg_scale``, ``guides_by_true_cfg`` whether that is what people mean
    by guidance there. ``negative`` tells whether the call takes a negative prompt, ``most_skip`` is
    the largest ``clip_skip``, 0 where it has no effect. The defaults are the call's own, None where
    it has none.
    """

    name: str
    guidance: str | None
    why_no_guidance: str
    default_guidance: float | None
    embedded: bool
    true_cfg: bool
    guides_by_true_cfg: bool
    default_true_cfg: float | None
    negative: bool
    most_skip: int
    _pipeline: Pipeline

    def guided(self, guidance_scale: float | None, true_cfg_scale: float | None) -> bool:
        """Whether the network is asked without the prompt, too, and what it says is moved away
        from: a negative prompt has an effect then, and only then."""
        if not self.negative:
            return False
        if self.true_cfg:
            return true_cfg_scale is not None and true_cfg_scale > 1
        if getattr(self._pipeline, "guider", None) is not None:  # a component that guides
            return True
        if self.guidance == "distilled_guidance_scale":
            return False
        if self.name in ("KandinskyCombinedPipeline", "KandinskyV22CombinedPipeline"):
            return True  # in its prior, whose scale is another
        own = _own_rule(self._pipeline, guidance_scale)
        return own if own is not None else guidance_scale is not None and guidance_scale > 1

    def why_not_negative(self, guidance_scale: float | None) -> tuple[str, str]:
        """Why a negative prompt has no effect, and what would help (empty: nothing)."""
        if not self.negative:
            return f"a {self.name} takes no negative prompt", ""
        if self.true_cfg:
            return (
                f"a {self.name} reads a negative prompt only with a true CFG scale above 1",
                "--true-cfg-scale 4",
            )
        if self.guidance is None:
            return f"without guidance a negative prompt has no effect ({self.why_no_guidance})", ""
        if _own_rule(self._pipeline, _HIGH) is False:
            return (
                "the guidance is an input of this network, so that a negative prompt has no effect",
                "",
            )
        shown = "none" if guidance_scale is None else f"{guidance_scale:g}"
        return f"with guidance {shown} a negative prompt has no effect", "a larger --guidance"


def call_settings(pipeline: Pipeline) -> CallSettings:
    """What the call of ``pipeline`` reads, in its present configuration. Generates nothing."""
    takes = inspect.signature(pipeline.__call__).parameters
    name = type(pipeline).__name__
    embeds = _embeds_guidance(pipeline)
    true_cfg = "true_cfg_scale" in takes
    argument = next((scale for scale in _SCALES if scale in takes), None)
    why = ""
    if argument is None:
        why = f"a {name} takes no guidance scale"
    elif name in _IGNORING:
        why = f"a {name} does not read its guidance scale"
    elif embeds is not True and not _reads_scale(pipeline, argument, takes, embeds):
        why = f"the network of this {name} was trained without a guidance scale as its input"
    default_true = _number(takes, "true_cfg_scale")
    return CallSettings(
        name=name,
        guidance=None if why else argument,
        why_no_guidance=why,
        default_guidance=None if argument is None else _default_scale(takes, argument),
        embedded=embeds is True,
        true_cfg=true_cfg,
        guides_by_true_cfg=true_cfg and bool(why) and (argument is None or (default_true or 0) > 1),
        default_true_cfg=default_true,
        negative="negative_prompt" in takes and name not in _IGNORING,
        most_skip=_most_skip(pipeline) if "clip_skip" in takes else 0,
        _pipeline=pipeline,
    )


def call_arguments(
    pipeline: Pipeline, recipe: GenerationRecipe, prompts: list[str]
) -> dict[str, Any]:
    """The arguments that ``recipe`` stands for, for one batch of ``prompts``.

    Nothing but what is recorded: a setting that is None is not given. A pipeline that would map the
    size to one that it knows is told not to, since the recorded size would not be generated then.
    """
    takes = inspect.signature(pipeline.__call__).parameters
    reads = call_settings(pipeline)
    arguments: dict[str, Any] = {
        "prompt": prompts,
        "num_inference_steps": recipe.steps,
        "width": recipe.width,
        "height": recipe.height,
        "clip_skip": recipe.clip_skip,
        "true_cfg_scale": recipe.true_cfg_scale,
        "use_resolution_binning": False,
        "max_area": recipe.width * recipe.height,
        # It would be done where two other packages happen to be installed, and nowhere else.
        "clean_caption": False,
    }
    if reads.guidance is not None:
        arguments[reads.guidance] = recipe.guidance_scale
    # Guidance by true_cfg_scale starts with a negative prompt that is given, though it be empty.
    # Elsewhere none and an empty one differ: SDXL and Kandinsky 3 have an answer of their own for
    # no negative prompt at all, which is what their users get.
    needed = reads.true_cfg and reads.guided(recipe.guidance_scale, recipe.true_cfg_scale)
    if recipe.negative_prompt or needed:
        arguments["negative_prompt"] = [recipe.negative_prompt] * len(prompts)
    given = {
        name: value for name, value in arguments.items() if name in takes and value is not None
    }
    if "intermediate_timesteps" in takes and recipe.steps != 2:
        given["intermediate_timesteps"] = None  # SANA-Sprint's is for two steps, its usual number
    if "guidance_schedule" in takes and recipe.guidance_scale is not None:
        given["guidance_schedule"] = None  # one value a step, of which a recipe has one for all
    return given


def check_effects(pipeline: Pipeline, recipe: GenerationRecipe) -> None:
    """Raise InputError for a recipe with a setting that ``pipeline`` does not read, or without one
    that it does."""
    reads = call_settings(pipeline)
    fault = None
    if recipe.guidance_scale is not None and reads.guidance is None:
        fault = f"guidance scale {recipe.guidance_scale:g}: {reads.why_no_guidance}"
    elif recipe.guidance_scale is None and reads.guidance is not None:
        fault = f"no guidance scale: a {reads.name} like this one reads one"
    elif recipe.true_cfg_scale is not None and not reads.true_cfg:
        fault = f"true CFG scale {recipe.true_cfg_scale:g}: a {reads.name} takes none"
    elif recipe.clip_skip is not None and recipe.clip_skip > reads.most_skip:
        fault = f"CLIP skip {recipe.clip_skip}: {why_no_skip(pipeline, reads)}"
    elif recipe.batch_size > 1 and reads.name in BATCH_OF_ONE:
        fault = f"a batch size of {recipe.batch_size}: {WHY_ONE}"
    elif recipe.negative_prompt and not reads.guided(recipe.guidance_scale, recipe.true_cfg_scale):
        fault = f"a negative prompt: {reads.why_not_negative(recipe.guidance_scale)[0]}"
    if fault is not None:
        raise InputError(
            f"the recipe has {fault}",
            hint="give --batch-size 1"
            if recipe.batch_size > 1 and WHY_ONE in fault
            else "publish the model again, with settings that have an effect",
        )


def why_no_skip(pipeline: Pipeline, reads: CallSettings) -> str:
    """Why a ``clip_skip`` is refused."""
    if "clip_skip" not in inspect.signature(pipeline.__call__).parameters:
        return f"a {reads.name} takes no CLIP skip"
    if reads.most_skip == 0:
        return f"this {reads.name} has no CLIP text encoder with layers to leave out"
    return f"its CLIP text encoders have {reads.most_skip} layers that can be left out"


@contextmanager
def skipping_layers(pipeline: Pipeline, recipe: GenerationRecipe) -> Iterator[None]:
    """Let ``clip_skip`` work with transformers 5, where a CLIPTextModel has no ``text_model``.

    The Stable Diffusion pipelines of diffusers 0.42 look there for the norm after the last layer.
    """
    encoder = getattr(pipeline, "text_encoder", None)
    norm = getattr(encoder, "final_layer_norm", None)
    if recipe.clip_skip is None or norm is None or hasattr(encoder, "text_model"):
        yield
        return
    vars(encoder)["text_model"] = SimpleNamespace(final_layer_norm=norm)
    try:
        yield
    finally:
        del vars(encoder)["text_model"]


def stated_size(pipeline: Pipeline, side: str) -> int | None:
    """What the call itself takes for ``side`` (``height`` or ``width``) where none is given.

    In pixels; None where it goes by the network. Pipelines that map sizes to a list of their own
    state the size of their largest model, whatever network they have: it does not count.
    """
    takes = inspect.signature(pipeline.__call__).parameters
    if "use_resolution_binning" in takes:
        return None
    for name in (side, "output_resolution"):
        value = whole_number(takes[name].default if name in takes else None)
        if value is not None:
            return value
    written = re.search(rf"\b{side} = {side} or (\d+)", call_source(type(pipeline)))
    return None if written is None else int(written[1])


def _own_rule(pipeline: Pipeline, scale: float | None) -> bool | None:
    """What the pipeline's own ``do_classifier_free_guidance`` says at ``scale``; None: has none.

    The pipelines differ: above 1, above 0, never where the network embeds the scale or where a
    setting of theirs says that it was distilled. So theirs is asked, on a stand-in with that scale.
    """
    if re.search(r"do_classifier_free_guidance = guidance_scale > 1", call_source(type(pipeline))):
        # Of its own in the call, as in StableDiffusionPanoramaPipeline, whose property says never.
        return scale is not None and scale > 1
    rule = getattr(type(pipeline), "do_classifier_free_guidance", None)
    if not isinstance(rule, property) or rule.fget is None:
        return None
    if scale is None:
        return False
    try:
        return bool(rule.fget(_AtScale(pipeline, scale)))
    except Exception:  # it reads what is there while the pipeline runs alone
        return None


class _AtScale:
    """A pipeline as it would be while it runs with a guidance scale."""

    def __init__(self, pipeline: Pipeline, scale: float) -> None:
        self._pipeline = pipeline
        self._guidance_scale = scale
        self.guidance_scale = scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)


def _reads_scale(pipeline: Pipeline, argument: str, takes: Any, embeds: bool | None) -> bool:
    """Whether a scale that is no input of the network has another effect."""
    if argument == "distilled_guidance_scale" or "true_cfg_scale" in takes:
        return False
    own = _own_rule(pipeline, _HIGH)
    if own is not None:
        return own
    # Without a negative prompt, and with a network that could embed the scale and does not.
    return not (embeds is False and "negative_prompt" not in takes)


def _embeds_guidance(pipeline: Pipeline) -> bool | None:
    """Whether the network takes the scale as an input; None where it has no such setting."""
    width = _setting(getattr(pipeline, "unet", None), "time_cond_proj_dim")
    if width is not None:
        return True
    embeds = _setting(getattr(pipeline, "transformer", None), "guidance_embeds")
    return None if embeds is None else bool(embeds)


def _most_skip(pipeline: Pipeline) -> int:
    """Layers that can be left out of every CLIP text encoder.

    With a second one the pipelines read the last layer but one to begin with.
    """
    encoders = [
        encoder
        for name in ("text_encoder", "text_encoder_2")
        if (encoder := getattr(pipeline, name, None)) is not None
        and "CLIP" in type(encoder).__name__
    ]
    layers = [_setting(encoder, "num_hidden_layers") for encoder in encoders]
    counts = [count for count in layers if isinstance(count, int)]
    if not counts or len(counts) < len(layers):
        return 0
    return max(0, min(counts) - int(hasattr(pipeline, "text_encoder_2")))


def _setting(part: Any, name: str) -> Any:
    config = getattr(part, "config", None)
    if config is None:
        return None
    return config.get(name) if hasattr(config, "get") else getattr(config, name, None)


def _number(takes: Any, name: str) -> float | None:
    value = takes[name].default if name in takes else None
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and value is not None else None


def _default_scale(takes: Any, argument: str) -> float | None:
    value = _number(takes, argument)
    if value is None and "guidance_schedule" in takes:
        schedule = takes["guidance_schedule"].default
        if isinstance(schedule, tuple) and schedule:
            return float(schedule[0])
    return value


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
            type(scheduler).from_setting(scheduler.config).set_timesteps(steps, **more)
        except Exception as error:  # asserts, indexes and divides as it likes
            return error_line(error)
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
    factor = whole_number(getattr(pipeline, "vae_scale_factor", None))
    # Pipelines that pack latents say so in the settings of this part, and nowhere else.
    packed = whole_number(_setting(getattr(pipeline, "image_processor", None), "vae_scale_factor"))
    patch = whole_number(_setting(getattr(pipeline, "transformer", None), "patch_size"))
    return math.lcm(factor or 1, packed or 1, (factor or 1) * (patch or 1))


def _largest(pipeline: Pipeline) -> int | None:
    """The longest side in pixels that has positions of its own, where there is such a limit."""
    transformer = getattr(pipeline, "transformer", None)
    embedding = getattr(transformer, "pos_embed", None)
    # The others count patches in all, or work positions out.
    if not hasattr(embedding, "cropped_pos_embed"):
        return None
    positions = whole_number(getattr(embedding, "pos_embed_max_size", None))
    patch = whole_number(getattr(embedding, "patch_size", None))
    factor = whole_number(getattr(pipeline, "vae_scale_factor", None))
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
        return error_line(error)
    return None


def _cannot(pipeline: Pipeline, what: str, why: str, instead: str) -> InputError:
    return InputError(
        f"a {type(pipeline).__name__} like this one generates no image with {what}: {why}",
        hint=f"give {instead}",
    )
