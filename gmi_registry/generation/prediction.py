"""What a network predicts, noise (epsilon) or velocity (v), and whether its scheduler agrees.

A network that was trained for v-prediction and is sampled as if it predicted noise makes images of
nothing, without an error. Who says what a network predicts: its own file (a tensor ``v_pred``, the
metadata ``modelspec.prediction_type`` and ``ss_v_parameterization``), the ``gmi`` section of its
card, the scheduler of its folder or of its base, and, as a guess, its name. Source of zero terminal
SNR: https://arxiv.org/abs/2305.08891, whose section 3.3 asks for steps that begin at the last one
(``timestep_spacing`` ``trailing``).
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmi_registry.errors import GenerationError
from gmi_registry.generation.schedulers import EPSILON, V
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.weights import Header, WeightsFile, identify

_SET_BY = "_gmi_prediction_source"

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
                f"which is used"
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
                f"{guess.source} suggests {guess.kind}; its scheduler is configured for "
                f"{present}, which is used; if that is wrong, {_CARD_HINT}"
            )
            return notes
        return notes + _change(pipeline, model, header, found, guess, sure=False)
    if found is not None and found.architecture == "sd2" and guess is None:
        if present == EPSILON and _looks_like_sd2_v(pipeline):
            layers = _Statement(V, "the spread of one of its layers, by which ComfyUI tells it,")
            return notes + _change(pipeline, model, header, found, layers, sure=False)
        notes.append(
            f"nothing says what this Stable Diffusion 2 predicts: {present} is used, as with its "
            f"base (a guess; {_CARD_HINT})"
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
            "tensor is used, as in ComfyUI"
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
