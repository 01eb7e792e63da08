"""The settings of a model where nobody says otherwise, and what a caller may change."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from pydantic import ValidationError

from gmi_registry.device import DtypeName
from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation.call_settings import (
    BATCH_OF_ONE,
    WHY_ONE,
    CallSettings,
    call_settings,
    stated_size,
    why_no_skip,
)
from gmi_registry.generation.model_checks import Pipeline
from gmi_registry.generation.placement import computing_dtypes
from gmi_registry.generation.prediction import scheduler_origin
from gmi_registry.generation.recommended_settings import (
    FamilySettings,
    ModelWithCard,
    family_settings,
    looks_distilled,
    recommending_model,
)
from gmi_registry.generation.schedulers import build_scheduler, check_scheduler_name, sampler_of
from gmi_registry.generation.textual_inversion import LearnedWords, learned_words
from gmi_registry.model import Kind, ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.spec import GenerationRecipe, LoraPartial, Sampler

DEFAULT_STEPS = 25
"""At most this many: pipelines default to 50, and the second half hardly changes a picture."""

_BATCH_PIXELS = 4 * 512 * 512
_LARGEST_BATCH = 16
_LIBRARIES = ("diffusers", "peft", "torch", "transformers")


@dataclass(frozen=True)
class RecipeOverrides:
    """What a caller wants instead of :func:`default_recipe`'s choice; None leaves it.

    ``width`` and ``height`` are in pixels. All fields have the meaning that they have in
    GenerationRecipe, and ``scheduler`` is a name as people use it (``Euler a``, ``DPM++ 2M
    Karras``) or a class of diffusers, of which the recipe records class and settings. Where
    guidance is a pipeline's true CFG scale, as in Qwen-Image, ``guidance_scale`` means that.
    ``dtype`` is for ``load_pipeline`` as well: a recipe records what is loaded.
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
_TAUGHT = "the words that its file teaches"
_CALLER, _PIPELINE, _PACKAGE = "as requested", "the pipeline's own", "this package's default"
_NETWORK = "the network's own"

_ADVISED = (
    "steps",
    "guidance_scale",
    "true_cfg_scale",
    "clip_skip",
    "negative_prompt",
    "width",
    "height",
    "prompt_template",
)
"""Fields of a recipe that a card may advise; a scheduler's name is another."""

_PLAIN: dict[str, Any] = {
    "sampler": Sampler(name="any", config={}),
    "steps": 1,
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
            f"dtype {one_line(str(overrides.dtype), 60)} ({_CALLER}) is not known",
            hint=f"give one of {', '.join(get_args(DtypeName))}",
        )
    if overrides.scheduler is not None:
        check_scheduler_name(overrides.scheduler, _CALLER)


def check_recommended(model: ModelWithCard, kind: Kind | None, overrides: RecipeOverrides) -> None:
    """Raise InputError for what ``model``'s cards advise and no recipe may hold, as far as
    ``overrides`` leave it; and for an override that no model of its ``kind`` takes (None: which it
    is only its weights tell). Loads nothing."""
    if overrides.lora_scale is not None and kind not in (None, "lora"):
        raise InputError(
            f"{model.ref} is not a LoRA, so it has no LoRA scale", hint="leave out --lora-scale"
        )
    found = {
        name: advice
        for name in _ADVISED
        if getattr(overrides, name) is None and (advice := _card_advice(model, name)) is not None
    }
    values = {name: value for name, (value, _) in found.items()}
    _validated(_PLAIN | values, {name: origin for name, (_, origin) in found.items()})
    named = _card_advice(model, "scheduler")
    if named is not None and overrides.scheduler is None:
        check_scheduler_name(*named)


def default_recipe(
    pipeline: Pipeline,
    model: ModelFiles,
    overrides: RecipeOverrides = _NO_OVERRIDES,
    *,
    lora_partial: LoraPartial | None = None,
) -> GenerationRecipe:
    """The recipe of one publication: the model's own scheduler and size, seed 0.

    What ``overrides`` leave comes from the model's card, else from what is known of models that
    were distilled in the same way, else likewise from its base, else from the pipeline (of steps at
    most 25). The size in pixels is that of the
    pipeline's call, else the network's sample size times the autoencoder's factor. A setting that
    the pipeline does not read is None. The batch size follows from the picture size alone, so that
    a recipe does not depend on the machine (but ``dtype`` does). ``pipeline`` stays as it is:
    :func:`~gmi_registry.generation.generate` gives it the recorded scheduler.

    Raises InputError for an override, or a card's advice, out of range, for an override that has no
    effect here, and for a scheduler that does not fit; GenerationError where the size is unknown.
    """
    chosen = _settings(pipeline, model, overrides)
    return _validated(chosen.values | {"lora_partial": lora_partial}, chosen.origins)


def recipe_origins(
    pipeline: Pipeline, model: ModelFiles, overrides: RecipeOverrides = _NO_OVERRIDES
) -> dict[str, str]:
    """Where each setting of :func:`default_recipe` comes from, in words for people."""
    return _settings(pipeline, model, overrides).origins


def recipe_notes(
    pipeline: Pipeline, model: ModelFiles, overrides: RecipeOverrides = _NO_OVERRIDES
) -> tuple[str, ...]:
    """What people should know of :func:`default_recipe`'s choice: what of it was guessed, and what
    a card advises that has no effect. One line each."""
    return tuple(_settings(pipeline, model, overrides).notes)


@dataclass
class _Settings:
    """A recipe's fields, where each comes from, and what people should know."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def put(self, name: str, value: Any, origin: str) -> None:
        self.values[name] = value
        self.origins[name] = origin


class _Advice:
    """What cards and families say of one model: its own first, then its base's."""

    def __init__(self, pipeline: Pipeline, model: ModelFiles) -> None:
        self.model = model
        self._chain: list[tuple[ModelWithCard, FamilySettings | None]] = []
        part: ModelFiles | None = model
        while part is not None:
            self._chain.append((part, family_settings(part, pipeline)))
            part = part.base
        self.used: dict[str, FamilySettings] = {}
        """The families whose advice was taken, by field."""

    def brought_by(self, family: FamilySettings) -> bool:
        """Whether the pipeline's scheduler comes from the model that ``family`` was known of."""
        part, of_last = self._chain[-1]
        return family is of_last and getattr(part, "kind", None) == "checkpoint"

    @property
    def own_family(self) -> FamilySettings | None:
        """The model's own, whatever its base is."""
        return self._chain[0][1]

    @property
    def family(self) -> FamilySettings | None:
        """The nearest that is known."""
        return next((family for _, family in self._chain if family is not None), None)

    def of(self, name: str) -> tuple[Any, str, FamilySettings | None] | None:
        """The value for a field, its origin, and the family that it comes from, if any."""
        for part, family in self._chain:
            value = getattr(part.card, name, None)
            if value is not None:
                return value, _card_of(part), None
            value = None if family is None else _of_family(family, name)
            if value is not None and family is not None:
                return value, family.origin, family
        return None


def _of_family(advice: FamilySettings, name: str) -> Any:
    family = advice.family
    known = {
        "steps": advice.steps,
        "guidance_scale": family.guidance,
        "scheduler": family.scheduler,
        "lora_scale": family.lora_scale,
    }
    return known.get(name)


def _settings(pipeline: Pipeline, model: ModelFiles, overrides: RecipeOverrides) -> _Settings:
    check_overrides(overrides)
    check_recommended(model, model.kind, overrides)
    takes = inspect.signature(pipeline.__call__).parameters
    reads = call_settings(pipeline)
    advice = _Advice(pipeline, model)
    chosen = _Settings()
    _choose_sampler(chosen, pipeline, overrides, advice)
    if not _choose(chosen, "steps", overrides, advice):
        usual = _default(takes, "num_inference_steps", DEFAULT_STEPS, most=DEFAULT_STEPS)
        chosen.put("steps", *usual)
    _choose_guidance(chosen, reads, overrides, advice)
    _choose_skip(chosen, pipeline, reads, overrides, advice)
    _choose_negative(chosen, reads, overrides, advice, learned_words(pipeline))
    for side in ("width", "height"):
        if not _choose(chosen, side, overrides, advice):
            _choose_own_side(chosen, side, pipeline, model)
    chosen.put("seeds", overrides.seeds or (0,), _CALLER if overrides.seeds else _PACKAGE)
    asked_type = overrides.dtype is not None  # that of the pipeline is the truth
    dtype, vae_dtype = computing_dtypes(pipeline)
    by_rule = "the usual one of the device and the architecture"
    chosen.put("dtype", dtype, _CALLER if asked_type else by_rule)
    chosen.put("vae_dtype", vae_dtype, "the autoencoder's own")
    _choose_lora_scale(chosen, model, overrides, advice)
    words = overrides.trigger_words
    if words is not None:
        chosen.put("trigger_words", words, _CALLER)
    else:
        chosen.put("trigger_words", *_trigger_words(pipeline, model))
    if not _choose(chosen, "prompt_template", overrides, advice):
        chosen.put("prompt_template", "{prompt}", _PACKAGE)
    pixels = max(1, chosen.values["width"] * chosen.values["height"])
    if overrides.batch_size is not None:
        chosen.put("batch_size", overrides.batch_size, _CALLER)
    elif type(pipeline).__name__ in BATCH_OF_ONE:
        chosen.put("batch_size", 1, WHY_ONE)
    else:
        fitting = max(1, min(_LARGEST_BATCH, _BATCH_PIXELS // pixels))
        chosen.put("batch_size", fitting, "follows from the size")
    chosen.put("libraries", _library_versions(), "installed here")
    chosen.notes.extend(_family_notes(chosen, pipeline, advice, overrides))
    return chosen


def _choose(chosen: _Settings, name: str, overrides: RecipeOverrides, advice: _Advice) -> bool:
    """Take ``name`` from the caller, else from what is advised; whether either says it."""
    value = getattr(overrides, name)
    if value is not None:
        chosen.put(name, value, _CALLER)
        return True
    found = advice.of(name)
    if found is None:
        return False
    chosen.put(name, found[0], found[1])
    if found[2] is not None:
        advice.used[name] = found[2]
    return True


def _choose_sampler(
    chosen: _Settings, pipeline: Pipeline, overrides: RecipeOverrides, advice: _Advice
) -> None:
    own = pipeline.scheduler
    if overrides.scheduler is not None:
        built = build_scheduler(pipeline, overrides.scheduler, _CALLER)
        chosen.put("sampler", sampler_of(built), _CALLER)
        return
    chosen.put("sampler", sampler_of(own), scheduler_origin(pipeline))
    found = advice.of("scheduler")
    if found is None:
        return
    name, origin, family = found
    if family is None:
        chosen.put("sampler", sampler_of(build_scheduler(pipeline, name, origin)), origin)
        return
    # A whole model brings the scheduler that its author saved with it. Where the family is certain
    # that is the right one; else it may be what was left of the model that it was made from.
    few = type(own).__name__ in ("LCMScheduler", "TCDScheduler") or (
        own.config.get("timestep_spacing") == "trailing"
    )
    if advice.brought_by(family) and (family.certain or few):
        return
    try:
        built = build_scheduler(pipeline, name, origin, family.family.settings)
    except InputError as error:
        chosen.notes.append(f"{error.message}; the model's own is used")
        return
    chosen.put("sampler", sampler_of(built), origin)
    advice.used["sampler"] = family


def _choose_guidance(
    chosen: _Settings, reads: CallSettings, overrides: RecipeOverrides, advice: _Advice
) -> None:
    """Both scales: each None where the pipeline does not read it."""
    asked, asked_true = overrides.guidance_scale, overrides.true_cfg_scale
    if asked is not None and reads.guidance is None and not reads.guides_by_true_cfg:
        other = ", or guide by --true-cfg-scale" if reads.true_cfg else ""
        raise InputError(
            f"guidance {asked:g} has no effect: {reads.why_no_guidance}",
            hint=f"leave out --guidance{other}",
        )
    if asked_true is not None and not reads.true_cfg:
        raise InputError(
            f"a {reads.name} takes no true CFG scale",
            hint="leave out --true-cfg-scale" + (": --guidance is read" if reads.guidance else ""),
        )
    # Where the call's own is above 1, such a value turns it off.
    idle = (reads.default_true_cfg or 0) <= 1
    if asked_true is not None and asked_true <= 1 and idle:
        raise InputError(
            f"true CFG scale {asked_true:g} has no effect: a {reads.name} reads one above 1",
            hint="leave out --true-cfg-scale, or give --true-cfg-scale 4",
        )
    if asked is not None and asked_true is not None and reads.guides_by_true_cfg:
        raise InputError(
            f"in a {reads.name} --guidance is the true CFG scale, and both are given",
            hint="leave out --guidance",
        )
    by_true = f"{{}}: in a {reads.name} guidance is the true CFG scale"
    chosen.put("guidance_scale", None, "not read")
    chosen.put("true_cfg_scale", None, "not used")
    advised = advice.of("guidance_scale")
    if asked is not None:
        name = "true_cfg_scale" if reads.guides_by_true_cfg else "guidance_scale"
        chosen.put(name, asked, by_true.format(_CALLER) if name[0] == "t" else _CALLER)
    elif reads.guidance is not None:
        if not _choose(chosen, "guidance_scale", overrides, advice):
            if reads.default_guidance is None:
                raise InputError(
                    f"the network of this {reads.name} takes a guidance scale as its input, and no "
                    "usual one is known",
                    hint="give --guidance, such as --guidance 3.5",
                )
            chosen.put("guidance_scale", reads.default_guidance, _PIPELINE)
    elif advised is not None and not reads.guides_by_true_cfg and advised[2] is None:
        chosen.notes.append(
            f"guidance_scale {advised[0]:g} ({advised[1]}) has no effect and is left out: "
            f"{reads.why_no_guidance}"
        )
    true = advice.of("true_cfg_scale")
    if asked_true is not None:
        chosen.put("true_cfg_scale", asked_true, _CALLER)
    elif chosen.values["true_cfg_scale"] is not None:
        pass
    elif true is not None and not reads.true_cfg:
        chosen.notes.append(
            f"true_cfg_scale {true[0]:g} ({true[1]}) has no effect and is left out: a {reads.name} "
            "takes none"
        )
    elif true is not None and true[0] <= 1 and idle:
        chosen.notes.append(
            f"true_cfg_scale {true[0]:g} ({true[1]}) has no effect and is left out: a {reads.name} "
            "reads one above 1"
        )
    elif true is not None:
        chosen.put("true_cfg_scale", true[0], true[1])
    elif advised is not None and reads.guides_by_true_cfg:
        chosen.put("true_cfg_scale", advised[0], by_true.format(advised[1]))
        if advised[2] is not None:
            advice.used["true_cfg_scale"] = advised[2]
    elif (reads.default_true_cfg or 0) > 1:
        chosen.put("true_cfg_scale", reads.default_true_cfg, _PIPELINE)


def _choose_skip(
    chosen: _Settings,
    pipeline: Pipeline,
    reads: CallSettings,
    overrides: RecipeOverrides,
    advice: _Advice,
) -> None:
    if not _choose(chosen, "clip_skip", overrides, advice):
        chosen.put("clip_skip", None, _PIPELINE)
        return
    skip, origin = chosen.values["clip_skip"], chosen.origins["clip_skip"]
    if skip <= reads.most_skip:
        return
    why = why_no_skip(pipeline, reads)
    if overrides.clip_skip is not None:
        smaller = f", or give at most {reads.most_skip}" if reads.most_skip else ""
        raise InputError(f"CLIP skip {skip}: {why}", hint=f"leave out --clip-skip{smaller}")
    chosen.put("clip_skip", None, _PIPELINE)
    chosen.notes.append(f"clip_skip {skip} ({origin}) has no effect and is left out: {why}")


def _trigger_words(pipeline: Pipeline, model: ModelFiles) -> tuple[tuple[str, ...], str]:
    """Those of the card, and the words of textual inversions that these do not hold."""
    learned = learned_words(pipeline)
    # What the card calls a word that goes by another spelling here, or is for negative prompts.
    words = tuple(word for word in model.card.trigger_words if word not in learned.replaced)
    missing = tuple(word for word in learned.words if not any(word in text for text in words))
    if missing:
        return (*missing, *words), _TAUGHT
    return words, _card_of(model) if words else _PACKAGE


def _choose_negative(
    chosen: _Settings,
    reads: CallSettings,
    overrides: RecipeOverrides,
    advice: _Advice,
    learned: LearnedWords,
) -> None:
    if not _choose(chosen, "negative_prompt", overrides, advice):
        negative = ", ".join(learned.negative)
        chosen.put("negative_prompt", negative, _TAUGHT if negative else _PACKAGE)
    guidance, true_cfg = chosen.values["guidance_scale"], chosen.values["true_cfg_scale"]
    if not chosen.values["negative_prompt"] or reads.guided(guidance, true_cfg):
        return
    why, help_ = reads.why_not_negative(guidance)
    if overrides.negative_prompt:
        raise InputError(
            why, hint="leave out --negative-prompt" + (f", or give {help_}" if help_ else "")
        )
    chosen.notes.append(
        f"the negative prompt ({chosen.origins['negative_prompt']}) has no effect and is left out: "
        f"{why}"
    )
    chosen.put("negative_prompt", "", _PACKAGE)


def _choose_lora_scale(
    chosen: _Settings, model: ModelFiles, overrides: RecipeOverrides, advice: _Advice
) -> None:
    if model.kind != "lora":
        chosen.put("lora_scale", None, _PACKAGE)
    elif overrides.lora_scale is not None:
        chosen.put("lora_scale", overrides.lora_scale, _CALLER)
    else:
        own = advice.own_family
        scale = None if own is None else own.family.lora_scale
        if scale is None or own is None:
            chosen.put("lora_scale", 1.0, _PACKAGE)
        else:
            chosen.put("lora_scale", scale, own.origin)
            advice.used["lora_scale"] = own


def _choose_own_side(chosen: _Settings, side: str, pipeline: Pipeline, model: ModelFiles) -> None:
    """Pixels of one side: those of the pipeline's call, else the network's."""
    stated = stated_size(pipeline, side)
    if stated is not None:
        chosen.put(side, stated, _PIPELINE)
        return
    pixels = _network_size(pipeline, side)
    if pixels is None:
        raise GenerationError(
            f"{model.ref}: the model does not say how large its images are",
            hint="give --width and --height",
        )
    chosen.put(side, pixels, _NETWORK)


def _family_notes(
    chosen: _Settings, pipeline: Pipeline, advice: _Advice, overrides: RecipeOverrides
) -> Iterator[str]:
    """What was guessed of a distilled model, or might be one."""
    guesses = {name: used for name, used in advice.used.items() if not used.certain}
    if guesses:
        guess = next(iter(guesses.values()))
        said = ", ".join(_in_words(name, chosen.values[name]) for name in guesses)
        yield (
            f"by {guess.why} this looks like {guess.family.title}, which is distilled to a few "
            f"steps: {said}. That is a guess: --steps, --guidance and --scheduler, or the gmi "
            "section of the model card, say otherwise"
        )
    elif advice.family is None and overrides.steps is None and advice.of("steps") is None:
        sign = looks_distilled(advice.model, pipeline)
        if sign is not None:
            yield (
                f"{sign}: if the model is distilled to a few steps, {chosen.values['steps']} steps "
                "and these settings are wrong for it; give --steps, --guidance and --scheduler, or "
                "state them in the gmi section of the model card"
            )


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, Sampler):
        spacing = value.config.get("timestep_spacing")
        return value.name + (f" ({spacing})" if spacing else "")
    words = {
        "steps": f"{value} steps",
        "guidance_scale": f"guidance {value:g}",
        "true_cfg_scale": f"true CFG scale {value:g}",
        "lora_scale": f"LoRA scale {value:g}",
    }
    return words.get(name, f"{name} {value}")


def _given(overrides: RecipeOverrides) -> dict[str, Any]:
    chosen = {name: value for name, value in vars(overrides).items() if value is not None}
    for name in ("dtype", "scheduler"):  # checked apart: a recipe holds what became of them
        chosen.pop(name, None)
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
            hint=f"give another {option}"
            if origin == _CALLER
            else f"correct the model card, or give {option}",
        ) from error


def _card_advice(model: ModelWithCard, name: str) -> tuple[Any, str] | None:
    found = recommending_model(model, name)
    return None if found is None else (getattr(found.card, name), _card_of(found))


def _card_of(model: ModelWithCard) -> str:
    return f"the model card of {model.ref.without_revision}"


def _network_size(pipeline: Pipeline, side: str) -> int | None:
    """Pixels of one side by the network's configuration; None where it has no size."""
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    sample = getattr(pipeline, "default_sample_size", None)
    if sample is None and network is not None:
        sample = network.config.get("sample_size")
    factor = getattr(pipeline, "vae_scale_factor", None)
    if (
        factor is None and not hasattr(pipeline, "vae") and hasattr(pipeline, "unet")
    ):  # the network makes the pixels themselves
        factor = 1
    if type(pipeline).__name__.startswith("PRX"):  # its setting is in pixels already
        sample, factor = pipeline.config.get("default_sample_size", sample), 1
    if sample is None or factor is None:
        return None
    rows, columns = (sample, sample) if isinstance(sample, int) else (sample[0], sample[1])
    return int(factor * (columns if side == "width" else rows))


def _default(
    parameters: Any, name: str, otherwise: Any, *, most: float = math.inf
) -> tuple[Any, str]:
    value = parameters[name].default if name in parameters else None
    if value in (None, inspect.Parameter.empty):
        return otherwise, _PACKAGE
    return (value, _PIPELINE) if value <= most else (most, f"{_PIPELINE} {value}, at most {most}")


@cache
def _library_versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a source tree on the path: nothing to record
            continue
    return found
