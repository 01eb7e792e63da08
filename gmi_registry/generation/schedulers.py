"""The scheduler of a model: what its network predicts, and schedulers by the names that people use.

A network that was trained for v-prediction and is sampled as if it predicted noise makes images of
nothing, without an error. Who says what a network predicts: its own file (a tensor ``v_pred``, the
metadata ``modelspec.prediction_type`` and ``ss_v_parameterization``), the ``gmi`` section of its
card, the scheduler of its folder or of its base, and, as a guess, its name. Source of zero terminal
SNR: https://arxiv.org/abs/2305.08891, whose section 3.3 asks for steps that begin at the last one
(``timestep_spacing`` ``trailing``).

Tools call schedulers ``Euler a`` or ``DPM++ 2M Karras``; in diffusers that is a class and a few
settings. What a network was trained with (betas, prediction type, zero terminal SNR, flow shift)
stays.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation.model_checks import Pipeline, call_source, error_line
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.sanitize import one_line as shown
from gmi_registry.spec import Sampler
from gmi_registry.weights import Header, WeightsFile, identify

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

_SET_BY = "_gmi_prediction_source"
V, EPSILON = "v_prediction", "epsilon"
_CARD_HINT = "set prediction_type (epsilon or v_prediction) in the gmi section of the model card"
_NAMED_V = re.compile(
    r"(?i:(?<![a-z])v[-_ ]?(?:pred(?:iction)?|param(?:eteri[sz]ation)?)(?![a-z])"
    r"|(?<=[a-z])vpred(?![a-z])|(?<=xl)v[-_]?pred(?![a-z]))|(?<=[a-z])V[-_ ]?[Pp]red(?![a-z])"
)
_NAMED_EPSILON = re.compile(r"(?i)(?<![a-z])eps(?:ilon)?(?:[-_ ]?pred(?:iction)?)?(?![a-z])")
_SD2_BIAS = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias"
_SD2_SPREAD = 0.09
"""Of that layer's values, above which ComfyUI takes a Stable Diffusion 2 for v-prediction."""
_EDM = re.compile(r"edm_(?:mean|std)|edm_vpred\.sigma_(?:max|min)")
_NO = ("false", "0", "no")
_CONFIG_LIMIT = 1024 * 1024


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
        raise _refused(name, origin, "this pipeline hands its parts to others inside it", pipeline)
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
            f"a {type(own).__name__} takes its noise from elsewhere than the image's own seed, so "
            "that an image would depend on its neighbours",
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
        + (f"; perhaps {' or '.join(near)} is meant" if near else ""),
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
        raise _refused(name, origin, "this pipeline drives an LCMScheduler alone", pipeline)
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


@dataclass(frozen=True)
class _Statement:
    """``kind`` is :data:`V` or :data:`EPSILON`; ``source`` is the subject of "says"."""

    kind: str
    source: str


def settle_prediction(
    pipeline: Any,
    model: ModelFiles,
    header: Header | None = None,
    found: WeightsFile | None = None,
) -> list[str]:
    """Make the scheduler of ``pipeline`` read what the network of ``model`` predicts; notes.

    ``header`` is that of a single file, and ``found`` what it is; None for a folder, whose own
    scheduler counts as a word of it. Raises GenerationError where two sources contradict each
    other, or for a scheduler that cannot do it.
    """
    _require_sampled(pipeline, model)
    _require_known(pipeline, model, header)
    present = _predicts(pipeline)
    of_file = None
    if header is not None and found is not None:
        of_file = _of_file(header, found)
    of_card = None
    if model.card.prediction_type is not None:
        of_card = _Statement(model.card.prediction_type, "the gmi section of its card")
    if of_file is not None and of_card is not None and of_file.kind != of_card.kind:
        raise GenerationError(
            f"{model.ref}: {of_file.source} says {of_file.kind}, and {of_card.source} says "
            f"{of_card.kind}",
            hint="correct prediction_type in the gmi section of the model card, or leave it out",
        )
    stated = of_file or of_card
    notes = list(_inner_contradiction(header))
    guess = _named(model)
    if stated is not None:
        if guess is not None and guess.kind != stated.kind:
            notes.append(
                f"{guess.source} suggests {guess.kind}; {stated.source} says {stated.kind}, "
                "which is taken"
            )
        if present is None and stated.kind == EPSILON:
            if stated is of_card:
                notes.append(
                    f"{stated.source} says {EPSILON}, which a {type(pipeline.scheduler).__name__} "
                    "does not read: left as it is"
                )
            return notes  # some trainers write it for networks of flow matching as well
        return notes + _change(pipeline, model, header, found, stated, sure=True)
    if present is None:
        if guess is not None and guess.kind == V:
            notes.append(
                f"{guess.source} suggests v-prediction, which a "
                f"{type(pipeline.scheduler).__name__} does not do: left as it is"
            )
        return notes
    if guess is not None and guess.kind != present:
        if header is None:
            notes.append(
                f"{guess.source} suggests {guess.kind}; its scheduler is configured for {present}, "
                f"which is taken: if that is wrong, {_CARD_HINT}"
            )
            return notes
        return notes + _change(pipeline, model, header, found, guess, sure=False)
    if found is not None and found.architecture == "sd2" and guess is None:
        if present == EPSILON and _looks_like_sd2_v(pipeline):
            layers = _Statement(V, "the spread of one of its layers, by which ComfyUI tells it,")
            return notes + _change(pipeline, model, header, found, layers, sure=False)
        notes.append(
            f"nothing says what this Stable Diffusion 2 predicts: {present} is taken, as its base "
            f"does (a guess; {_CARD_HINT})"
        )
    return notes


def scheduler_origin(pipeline: Any) -> str:
    """Where the scheduler of a loaded pipeline comes from, in words for people."""
    source = getattr(pipeline, _SET_BY, None)
    own = "the pipeline's own"
    if source is None:
        return own
    return f"{own}, set to {pipeline.scheduler.config.get('prediction_type')} by {source}"


def check_lora_prediction(pipeline: Any, model: ModelFiles, header: Header) -> list[str]:
    """Notes on a LoRA and what its base, ready in ``pipeline``, predicts.

    Its card's word changes the scheduler. Raises GenerationError for a LoRA that was trained for
    v-prediction and whose base predicts noise, unless its card says what to do.
    """
    found = identify(header)
    present = _predicts(pipeline)
    of_card = model.card.prediction_type
    if of_card is not None:
        card = _Statement(of_card, "the gmi section of its card")
        if present is None and of_card == EPSILON:
            return [f"{card.source} says {EPSILON}, which its base does not read: left as it is"]
        return _change(pipeline, model, header, found, card, sure=True)
    of_file = _of_file(header, found)
    if of_file is None or of_file.kind == present:
        return []
    if of_file.kind == V:
        raise GenerationError(
            f"{model.ref} is {found.title} trained for v-prediction ({of_file.source} says so), "
            f"and its base {_base(model)} predicts {present or 'something else'}",
            hint=f"name a base for v-prediction: --base REPO; or {_CARD_HINT}",
        )
    if present is None:
        return []
    return [
        f"{of_file.source} says {of_file.kind}, and its base {_base(model)} is sampled for "
        f"{present}, which is left as it is"
    ]


def check_scheduler(model: ModelFiles, index: Mapping[str, Any]) -> list[str]:
    """Notes on the configuration of a folder's schedulers, which is read without its class's name.

    diffusers takes the class that ``model_index.json`` names, and says in a warning where the
    configuration was written for another. Raises GenerationError for a configuration that cannot be
    read, or that is of a class which diffusers lacks.
    """
    import diffusers

    notes: list[str] = []
    for component, value in index.items():
        if component.startswith("_") or not isinstance(value, list) or value[0] != "diffusers":
            continue
        kind = getattr(diffusers, str(value[1]), None)
        if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
            continue
        path = model.path / component / "scheduler_config.json"
        try:
            with path.open("rb") as stream:
                config = json.loads(stream.read(_CONFIG_LIMIT))
            name = dict(config).get("_class_name", value[1])
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise GenerationError(
                f"{model.ref}: the scheduler's {component}/scheduler_config.json cannot be read: "
                f"{one_line(str(error), 120)}",
                hint="publish a folder that save_pretrained wrote",
            ) from error
        if not isinstance(name, str) or name not in dir(diffusers):
            raise GenerationError(
                f"{model.ref}: its {component}/scheduler_config.json is of a "
                f"{one_line(str(name), 80)}, which diffusers {diffusers.__version__} lacks",
                hint="pip install --upgrade diffusers",
            )
        if name != value[1]:
            notes.append(
                f"its {component}/scheduler_config.json was written for a {name}; a {value[1]} is "
                "taken, as model_index.json says"
            )
    return notes


def _base(model: ModelFiles) -> str:
    return str(model.base.ref) if model.base is not None else "model"


def _predicts(pipeline: Any) -> str | None:
    """What the scheduler takes the network's output for: noise or velocity.

    None where it has no such setting, and for what is neither, as in flow matching.
    """
    config = getattr(getattr(pipeline, "scheduler", None), "config", None)
    kind = None if config is None else config.get("prediction_type")
    return kind if kind in (EPSILON, V) else None


def _of_file(header: Header, found: WeightsFile) -> _Statement | None:
    if found.prediction_type is None:
        return None
    said = header.metadata
    if "v_pred" in header.tensors:
        source = "its tensor v_pred"
    elif "modelspec.prediction_type" in said:
        source = "modelspec.prediction_type in its metadata"
    elif any(key.startswith("ss_v_p") for key in said):
        source = "ss_v_parameterization in its metadata"
    else:
        source = "its metadata"
    return _Statement(found.prediction_type, source)


def _inner_contradiction(header: Header | None) -> list[str]:
    """A note where a file's own marks do not agree."""
    if header is None or "v_pred" not in header.tensors:
        return []
    stated = header.metadata.get("modelspec.prediction_type", "").strip().casefold()
    if stated in ("epsilon", "eps"):
        return [
            "its tensor v_pred says v_prediction and modelspec.prediction_type says epsilon: the "
            "tensor is taken, as ComfyUI does"
        ]
    return []


def _require_known(pipeline: Any, model: ModelFiles, header: Header | None) -> None:
    """Raise GenerationError for what is said of a file and no scheduler here is set to."""
    if header is None:
        return
    scheduler = type(pipeline.scheduler).__name__
    edm = next((name for name in header.tensors if _EDM.fullmatch(name)), None)
    if edm is not None and not scheduler.startswith("EDM"):
        raise GenerationError(
            f"{model.ref}: its tensor {edm} says that it was trained for the noise levels of EDM, "
            f"and its base model has a {scheduler}",
            hint="name a base model that was trained so, such as "
            "playgroundai/playground-v2.5-1024px-aesthetic: --base REPO",
        )
    stated = header.metadata.get("modelspec.prediction_type", "").strip().casefold()
    known = (
        "", "epsilon", "eps", "v", "v_pred", "v-pred", "vpred", "v_prediction", "v-prediction"
    )  # fmt: skip
    if stated not in known and _predicts(pipeline) is not None and "v_pred" not in header.tensors:
        raise GenerationError(
            f"{model.ref}: modelspec.prediction_type in its metadata is "
            f"{one_line(stated, 40)!r}, and a {scheduler} is set to epsilon or v_prediction",
            hint="name a base model that predicts it: --base REPO",
        )


def _require_sampled(pipeline: Any, model: ModelFiles) -> None:
    """Raise GenerationError for a prediction type that the pipeline's scheduler does not sample.

    Schedulers take any word as their setting, and fail at the first step. ``flow_prediction`` is
    left to them: some need the size of an image to begin with.
    """
    import torch

    config = getattr(getattr(pipeline, "scheduler", None), "config", None)
    kind = None if config is None else config.get("prediction_type")
    if kind in (None, EPSILON, V, "flow_prediction"):
        return
    scheduler = type(pipeline.scheduler)
    try:
        tried = scheduler.from_config(config)
        tried.set_timesteps(2)
        tried.step(torch.ones(1, 4, 8, 8), tried.timesteps[0], torch.ones(1, 4, 8, 8))
    except Exception as error:
        raise GenerationError(
            f"{model.ref}: its scheduler is configured for prediction_type "
            f"{one_line(str(kind), 40)!r}, which the {scheduler.__name__} does not sample",
            hint="correct prediction_type in its scheduler/scheduler_config.json",
        ) from error


def _named(model: ModelFiles) -> _Statement | None:
    """What names suggest; None where they suggest nothing, or both."""
    names = {
        "its title": model.card.title,
        "its name": model.ref.id,
        "its file name": model.path.name if model.path.suffix else "",
        "the name of its base model": model.card.base_model or "",
    }
    if model.ref.file:
        names["its file name"] = model.ref.file
    kinds: dict[str, str] = {}
    for source, name in names.items():
        for kind, pattern in ((V, _NAMED_V), (EPSILON, _NAMED_EPSILON)):
            if pattern.search(name):
                # A file says more of itself than its base does.
                if source == "the name of its base model" and kinds:
                    continue
                kinds.setdefault(kind, source)
    if len(kinds) != 1:
        return None
    kind, source = next(iter(kinds.items()))
    return _Statement(kind, f"{source} ({one_line(names[source], 60)!r})")


def _looks_like_sd2_v(pipeline: Any) -> bool:
    """ComfyUI's way to tell (``supported_models.SD20.model_type``)."""
    for name, value in pipeline.unet.named_parameters():
        if name == _SD2_BIAS:
            return float(value.detach().float().std(unbiased=False)) > _SD2_SPREAD
    return False


def _zero_snr(header: Header | None, found: WeightsFile | None) -> bool | None:
    """Whether a file says that it was trained with zero terminal SNR; None where it is silent."""
    if header is None or found is None:
        return None
    if found.zero_terminal_snr:
        return True
    said: Mapping[str, str] = header.metadata
    stated = said.get("ss_zero_terminal_snr", said.get("ztsnr", "")).strip().casefold()
    return False if stated in _NO else None


def _change(
    pipeline: Any,
    model: ModelFiles,
    header: Header | None,
    found: WeightsFile | None,
    statement: _Statement,
    *,
    sure: bool,
) -> list[str]:
    """Set the scheduler to what ``statement`` says; notes where that changes something."""
    present = _predicts(pipeline)
    config = pipeline.scheduler.config
    rescaled = bool(config.get("rescale_betas_zero_snr"))
    zero = _zero_snr(header, found)
    notes: list[str] = []
    if statement.kind == EPSILON:
        if zero:
            notes.append(
                "the file says zero terminal SNR but not v-prediction: that is ignored, as other "
                "programs do"
            )
        if present == EPSILON:
            return notes
        changes: dict[str, Any] = {"prediction_type": EPSILON}
        if rescaled:
            changes["rescale_betas_zero_snr"] = False
        pipeline.scheduler = type(pipeline.scheduler).from_config(config, **changes)
        setattr(pipeline, _SET_BY, statement.source)
        return [*notes, _said(statement, present, sure=sure)]
    guessed_zero = False
    if zero is None:
        if present == V:
            zero = rescaled
        else:
            # Stable Diffusion 2 has v-prediction without it; of the others nearly all have it.
            zero = found is None or found.architecture != "sd2"
            guessed_zero = zero
    if present == V and zero == rescaled:
        return notes
    notes += _set_v(pipeline, model, zero_snr=zero)
    setattr(pipeline, _SET_BY, statement.source)
    if present != V:
        notes.append(_said(statement, present, sure=sure))
    if guessed_zero:
        notes.append(
            "nothing says whether it was trained with zero terminal SNR: betas are rescaled to it, "
            "as nearly all models for v-prediction were (a guess)"
        )
    return notes


def _said(statement: _Statement, present: str | None, *, sure: bool) -> str:
    if sure:
        return (
            f"{statement.source} says {statement.kind}: the scheduler is set to it in place of "
            f"{present or 'its own'}"
        )
    return (
        f"{statement.source} suggests {statement.kind}: the scheduler is set to it in place of "
        f"{present or 'its own'} (a guess: if it is wrong, {_CARD_HINT})"
    )


def _scheduler_settings(pipeline: Any) -> frozenset[str]:
    return frozenset(inspect.signature(type(pipeline.scheduler).__init__).parameters)


def _set_v(pipeline: Any, model: ModelFiles, *, zero_snr: bool) -> list[str]:
    """Set the scheduler to v-prediction, another one where it cannot rescale its betas; notes."""
    import diffusers

    scheduler = pipeline.scheduler
    kind = type(scheduler)
    able = "prediction_type" in _scheduler_settings(pipeline) and _knows_v(kind)
    if not able or _predicts(pipeline) is None:
        raise GenerationError(
            f"{model.ref}: its network predicts v, and a {kind.__name__} cannot sample that",
            hint="name a base model with a scheduler for v-prediction: --base REPO",
        )
    changes: dict[str, Any] = {"prediction_type": V}
    notes: list[str] = []
    if zero_snr and "rescale_betas_zero_snr" not in _scheduler_settings(pipeline):
        notes.append(
            f"a {kind.__name__} cannot rescale its betas to zero terminal SNR: a DDIMScheduler "
            "takes its place"
        )
        kind = diffusers.DDIMScheduler
        changes["clip_sample"] = False
    if zero_snr or scheduler.config.get("rescale_betas_zero_snr"):
        changes["rescale_betas_zero_snr"] = zero_snr
    if zero_snr:
        changes["timestep_spacing"] = "trailing"
    pipeline.scheduler = kind.from_config(scheduler.config, **changes)
    return notes


def _knows_v(scheduler: type) -> bool:
    """Whether its code speaks of v-prediction: some take the setting and then refuse it."""
    try:
        return f'"{V}"' in Path(inspect.getfile(scheduler)).read_text(encoding="utf-8")
    except (OSError, TypeError):
        return False
