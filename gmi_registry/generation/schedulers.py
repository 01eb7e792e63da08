"""Schedulers by the names that people use, built from a model's own noise schedule.

Tools call schedulers ``Euler a`` or ``DPM++ 2M Karras``; in diffusers that is a class and a few
settings. What a network was trained with (betas, prediction type, zero terminal SNR, flow shift)
stays.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import numpy as np

from gmi_registry.errors import InputError
from gmi_registry.generation.model_checks import Pipeline, call_source, error_line
from gmi_registry.sanitize import one_line as shown
from gmi_registry.spec import Sampler

_LARGEST_NUMBER = 2**53 - 1

_SPACINGS: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "sgmuniform": {"timestep_spacing": "trailing"},
    "trailing": {"timestep_spacing": "trailing"},
    "simple": {"timestep_spacing": "trailing"},
}
"""What may follow a sampler's name: where its steps lie."""

_PLAIN = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
}
"""A sampler that is named means its plain steps, whatever the model's own scheduler has."""

_MULTISTEP, _SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DPM++ 2S": (_SINGLESTEP, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "DPM++ SDE": (_SINGLESTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "DPM++ 2M": (_MULTISTEP, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "DPM++ 2M SDE": (_MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "DPM++ 3M": (_MULTISTEP, {"algorithm_type": "dpmsolver++", "solver_order": 3}),
    "DDIM": ("DDIMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
    "PNDM": ("PNDMScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
}
_OTHER_NAMES = {
    "eulerancestral": "Euler a",
    "keuler": "Euler",
    "keulera": "Euler a",
    "keulerancestral": "Euler a",
    "kheun": "Heun",
    "klms": "LMS",
    "dpm2ancestral": "DPM2 a",
    "kdpm2": "DPM2",
    "kdpm2a": "DPM2 a",
    "plms": "PNDM",
    "unipcbh2": "UniPC",
    "dpmppsdegpu": "DPM++ SDE",
    "dpmpp2msdegpu": "DPM++ 2M SDE",
    "ddimuniform": "DDIM",
}
_CLASSES = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
_ON_FLOW: dict[str, tuple[str, dict[str, Any]]] = {
    "EulerDiscreteScheduler": ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": False}),
    "HeunDiscreteScheduler": ("FlowMatchHeunDiscreteScheduler", {}),
    "LCMScheduler": ("FlowMatchLCMScheduler", {}),
}
"""The flow-matching scheduler that goes by the same name."""

_TRAINED = (
    "prediction_type",
    "rescale_betas_zero_snr",
    "trained_betas",
    "beta_schedule",
    "variance_type",
)
"""What belongs to the network: a scheduler that cannot be told it would sample another model."""

_HARMLESS = (None, False, "epsilon", "fixed_small", "fixed_large")
"""Values of those that mean no more than the usual."""

_UNSEEDED = {
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "CosineDPMSolverMultistepScheduler": "DPM++ 2M SDE",
}
"""Their noise does not come from the generators of the images: an image would depend on its
neighbours in the batch. With each the name of what is near to it."""

V, EPSILON = "v_prediction", "epsilon"


def check_scheduler_name(name: str, origin: str) -> None:
    """Raise InputError for a name that is not known. Loads nothing."""
    _parsed(name, origin)


def build_scheduler(
    pipeline: Pipeline, name: str, origin: str, settings: Mapping[str, Any] | None = None
) -> Any:
    """The scheduler called ``name``, with the noise schedule of ``pipeline``'s own.

    ``origin`` says who named it; ``settings`` are more of its own. Raises InputError for an unknown
    name, and for a scheduler that does not fit the model: another kind of noise (flow matching,
    EDM), a prediction type or a zero terminal SNR that it does not know, steps that the pipeline
    lays out in a way it cannot take.
    """
    import diffusers

    spoken, class_name, changes = _parsed(name, origin)
    changes |= settings or {}
    own = pipeline.scheduler
    kind = _kind(type(own).__name__, own.config)
    if kind == "flow" and class_name in _ON_FLOW:
        class_name, more = _ON_FLOW[class_name]
        changes |= more
    new_class = getattr(diffusers, class_name, None)
    if new_class is None:
        raise _refused(
            name, origin, f"diffusers {diffusers.__version__} has no {class_name}", pipeline
        )
    takes = inspect.signature(new_class.__init__).parameters
    if _nested(pipeline):
        raise _refused(name, origin, "this pipeline passes its parts to other pipelines", pipeline)
    if kind == "flow":
        changes = _flow_changes(own, takes) | changes
    lacking = [key for key, value in changes.items() if key not in takes and value is not False]
    if lacking and kind == "flow" and "use_flow_sigmas" in lacking:
        raise _refused(name, origin, "the model was trained for flow matching", pipeline)
    if lacking:
        raise _refused(name, origin, f"a {class_name} has no {lacking[0]}", pipeline)
    spaced = next((key for key in _PLAIN if changes.get(key)), None)
    if kind == "flow" and spaced and "shift" not in takes:
        why = f"with {spaced} a {class_name} would leave the flow that the model was trained for"
        raise _refused(name, origin, why, pipeline)
    _require_kind(name, origin, pipeline, new_class, kind)
    if spoken:
        changes = {key: value for key, value in _PLAIN.items() if key in takes} | changes
    for key in _TRAINED:
        value = own.config.get(key)
        if key not in takes and value not in _HARMLESS:
            raise _refused(
                name, origin, f"a {class_name} cannot sample a model with {key} {value}", pipeline
            )
    known = {key: value for key, value in changes.items() if key in takes}
    try:
        built = new_class.from_config(own.config, **known)
        _try_steps(pipeline, built)
    except Exception as error:  # asserts, imports and compares as it likes
        raise _refused(name, origin, error_line(error), pipeline) from error
    return built


def sampler_of(scheduler: Any) -> Sampler:
    """Class and settings of a scheduler, as far as its class reads them.

    A configuration keeps what a file had in it for other classes; lists (a trained schedule) stay
    with the weights.
    """
    takes = inspect.signature(type(scheduler).__init__).parameters
    whatever = any(item.kind is item.VAR_KEYWORD for item in takes.values())
    config = {
        key: value
        for key, value in sorted(scheduler.config.items())
        if not key.startswith("_") and (whatever or key in takes) and _is_scalar(value)
    }
    return Sampler(name=type(scheduler).__name__, config=config)


def recorded_scheduler(pipeline: Pipeline, sampler: Sampler) -> Any:
    """The scheduler that a recipe's ``sampler`` names: the pipeline's own, or one made of it.

    Raises InputError for a class that diffusers lacks, and for settings that it does not take.
    """
    own = pipeline.scheduler
    if type(own).__name__ in _UNSEEDED:
        raise InputError(
            f"a {type(own).__name__} does not take its noise from the image's own seed, so an "
            f"image would depend on its neighbours",
            hint=f'give --scheduler "{_UNSEEDED[type(own).__name__]}"',
        )
    if sampler_of(own) == sampler:
        return own
    import diffusers

    named = getattr(diffusers, sampler.name, None) if sampler.name in _CLASSES else None
    if named is None and type(own).__name__ == sampler.name:
        named = type(own)
    said = f"the recipe's scheduler {shown(sampler.name, 60)}"
    hint = "generate with the recipe of default_recipe, or update diffusers"
    if named is None or not hasattr(named, "from_config"):
        raise InputError(f"{said} is not known to diffusers {diffusers.__version__}", hint=hint)
    takes = inspect.signature(named.__init__).parameters
    known = {key: value for key, value in sampler.config.items() if key in takes}
    try:
        built = named.from_config(own.config, **known)
    except Exception as error:
        raise InputError(f"{said} cannot be made: {error_line(error)}", hint=hint) from error
    made = sampler_of(built).config
    other = [key for key, value in known.items() if key in made and made[key] != value]
    if other:
        raise InputError(f"{said} cannot be made with {other[0]} {known[other[0]]}", hint=hint)
    return built


@contextmanager
def use_sampler(pipeline: Pipeline, sampler: Sampler) -> Iterator[None]:
    """Let ``pipeline``, which others may share, generate with the recorded scheduler meanwhile."""
    own = getattr(pipeline, "scheduler", None)
    recorded = None if own is None else recorded_scheduler(pipeline, sampler)
    if recorded is own:  # as where there is none, or no pipeline, since all images are kept
        yield
        return
    pipeline.scheduler = recorded
    try:
        yield
    finally:
        pipeline.scheduler = own


@contextmanager
def stepping(scheduler: Any, generators: Sequence[Any]) -> Iterator[None]:
    """Have each image's own generator make the noise that ``scheduler`` adds on the way.

    Many pipelines do not hand their generators on, and the noise would come from the state of the
    whole program: other images each time, and in each batch.
    """
    step = getattr(scheduler, "step", None)
    if step is None or "generator" not in inspect.signature(step).parameters:
        yield
        return

    @functools.wraps(step)
    def seeded(*given: Any, **named: Any) -> Any:
        sample = given[2] if len(given) > 2 else named.get("sample")
        own = getattr(sample, "shape", (None,))[0] == len(generators)
        if own and named.get("generator") is None and len(given) < 4:
            named["generator"] = list(generators)
        return step(*given, **named)

    before = vars(scheduler).get("step")
    scheduler.step = seeded
    try:
        yield
    finally:
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before


def _parsed(name: str, origin: str) -> tuple[bool, str, dict[str, Any]]:
    """Whether it is a name of people's, the class, and the settings that the name means."""
    plain = _spelt(name)
    for class_name in _CLASSES:
        if plain in (_spelt(class_name), _spelt(class_name.removesuffix("Scheduler"))):
            return False, class_name, {}
    changes: dict[str, Any] = {}
    found = _known(plain)
    while found is None:
        suffix = next((end for end in _SPACINGS if plain.endswith(end) and plain != end), None)
        if suffix is None:
            break
        changes = _SPACINGS[suffix] | changes
        plain = plain.removesuffix(suffix)
        found = _known(plain)
    if found is not None:
        class_name, own = _NAMES[found]
        return True, class_name, own | changes
    karras = (f"{known} Karras" for known in _NAMES)
    near = get_close_matches(name, [*_NAMES, *karras, *_CLASSES], n=2, cutoff=0.5)
    raise InputError(
        f"scheduler {shown(name, 60)!r} ({origin}) is not known"
        + (f"; perhaps you mean {' or '.join(near)}" if near else ""),
        hint=f"give as --scheduler one of {', '.join(_NAMES)}, perhaps with Karras, Exponential, "
        "Beta or Trailing after it, or a class of diffusers",
    )


def _known(plain: str) -> str | None:
    return next((name for name in _NAMES if _spelt(name) == plain), _OTHER_NAMES.get(plain))


def _spelt(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold().replace("+", "p"))


def _kind(class_name: str, config: Any) -> str:
    """What the noise is: ``flow``, ``edm``, ``diffusion``, or the class itself for one alone."""
    flow = config.get("prediction_type") == "flow_prediction" or config.get("use_flow_sigmas")
    if flow or class_name.startswith("FlowMatch"):
        return "flow"
    if class_name.startswith("EDM"):
        return "edm"
    from diffusers.schedulers import KarrasDiffusionSchedulers

    usual = {item.name for item in KarrasDiffusionSchedulers}
    return "diffusion" if class_name in usual or class_name in _CLASSES else class_name


def _require_kind(name: str, origin: str, pipeline: Pipeline, new_class: Any, kind: str) -> None:
    new = "flow" if kind == "flow" and "use_flow_sigmas" in _takes(new_class) else None
    new = new or _kind(new_class.__name__, {})
    consistent = type(pipeline).__name__.startswith("LatentConsistency")
    if new == kind and not (consistent and new_class.__name__ != "LCMScheduler"):
        return
    if new == kind:
        raise _refused(name, origin, "this pipeline only works with an LCMScheduler", pipeline)
    words = {
        "flow": "the model was trained for flow matching",
        "edm": "the model was trained with the noise of EDM",
        "diffusion": "the model was trained for diffusion, with noise in discrete steps",
    }
    own = type(pipeline.scheduler).__name__
    raise _refused(name, origin, words.get(kind, f"the model needs a {own}"), pipeline)


def _flow_changes(own: Any, takes: Any) -> dict[str, Any]:
    """What a flow-matching model's schedule is called by the class that ``takes`` it."""
    shift = own.config.get("shift", own.config.get("flow_shift"))
    if "shift" in takes:
        return {} if shift is None else {"shift": shift}
    changes = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    return changes if shift is None else changes | {"flow_shift": shift}


def _nested(pipeline: Pipeline) -> bool:
    from diffusers import DiffusionPipeline

    return any(isinstance(part, DiffusionPipeline) for part in vars(pipeline).values())


def _try_steps(pipeline: Pipeline, scheduler: Any) -> None:
    """Lay out steps as the pipeline would, with its own function; raises what that raises."""
    source = re.sub(r"#.*", "", call_source(type(pipeline)))
    module = sys.modules.get(type(pipeline).__module__)
    lay_out = getattr(module, "retrieve_timesteps", None)
    hands_on = re.search(r"scheduler\.step\([^()]*generator=generator", source)
    if hands_on and "generator" not in inspect.signature(scheduler.step).parameters:
        raise ValueError(
            "the pipeline gives it the generators of the images, which it does not take"
        )
    copy = type(scheduler).from_config(scheduler.config)
    steps = 8
    dynamic = bool(copy.config.get("use_dynamic_shifting"))
    if lay_out is None:
        copy.set_timesteps(steps, **({"mu": 1.0} if dynamic else {}))
        return
    more: dict[str, Any] = {}
    # An array or a list, as the pipeline gives: UniPC calculates with the first alone.
    if re.search(r"\blinspace\(", source):
        more["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    elif re.search(r"get_default_\w*sigmas\(", source):
        more["sigmas"] = np.linspace(1.0, 1 / steps, steps).tolist()
    if "original_inference_steps=" in source:
        more["original_inference_steps"] = None
    if dynamic or "mu=mu" in source or '"mu": mu' in source:
        more["mu"] = 1.0
    lay_out(copy, steps, "cpu", **more)


def _refused(name: str, origin: str, why: str, pipeline: Pipeline) -> InputError:
    own = type(pipeline.scheduler).__name__
    return InputError(
        f"scheduler {shown(name, 60)!r} ({origin}) does not fit a {type(pipeline).__name__} whose "
        f"own is {own}: {why}",
        hint="give another --scheduler, or leave it out",
    )


def _takes(some_class: Any) -> Any:
    return inspect.signature(some_class.__init__).parameters


def _is_scalar(value: object) -> bool:
    if isinstance(value, float | int) and not isinstance(value, bool):
        return math.isfinite(value) and abs(value) <= _LARGEST_NUMBER
    return value is None or isinstance(value, bool | str)
