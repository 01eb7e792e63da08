"""Models from this disk as diffusers pipelines: a folder, an adapter on its base, or one file.

No code that comes with a model is ever run, and no pickle is ever opened.
"""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.device import DtypeName, default_device, require_device, require_dtype
from gmi_registry.errors import GenerationError, MissingExtraError
from gmi_registry.generation.adapters import apply_lora, apply_textual_inversion, check_adapter
from gmi_registry.generation.folder import chosen_folder
from gmi_registry.generation.refusals import needs_code, pickled, refused
from gmi_registry.generation.single_file import (
    dtype_argument,
    load_single_file,
    no_safety_checker,
)
from gmi_registry.model import ModelFiles
from gmi_registry.spec import LoraPartial

if TYPE_CHECKING:
    import torch

__all__ = [
    "DtypeName",
    "LoadedModel",
    "Pipeline",
    "check_model",
    "default_device",
    "load_model",
    "load_pipeline",
    "require_packages",
    "require_pipeline",
]

Pipeline = Any
"""A diffusers ``DiffusionPipeline``; diffusers ships no types."""

_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_INDEX = "model_index.json"
_LIBRARIES = frozenset({"diffusers", "transformers"})


def require_packages() -> None:
    """Raise MissingExtraError where a package is missing that generating needs. Loads none."""
    for package in ("torch", "diffusers", "transformers", "peft"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="publish", purpose="generating images")


def check_model(model: ModelFiles) -> None:
    """Raise GenerationError for all that can be told of a model before its weights are loaded.

    That is a base model that is not at hand, pickles, several files of which one is meant, and what
    :func:`require_pipeline` refuses.
    """
    if model.kind == "checkpoint":
        _require_no_pickles(model)
        _read_index(model)
    elif model.kind in ("lora", "textual-inversion"):
        check_adapter(model)
        check_model(_base_of(model))
    else:
        _require_single_file(model)


def require_pipeline(who: str, index: Mapping[str, Any]) -> None:
    """Raise GenerationError where ``who``, with this ``model_index.json``, makes no pictures here.

    That is a pipeline with code of its own, one that diffusers lacks, or one that does not draw
    from a text alone.
    """
    import diffusers

    try:
        wanted = index["_class_name"]
        components = {
            name: value
            for name, value in index.items()
            if isinstance(value, list) and not name.startswith("_")
        }
        libraries = {name: value[0] for name, value in components.items() if value[0] is not None}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise GenerationError(
            f"{who}: {_INDEX} does not describe a diffusers pipeline",
            hint="publish a folder that save_pretrained wrote",
        ) from error
    if not isinstance(wanted, str):
        raise needs_code(who, str(wanted[0] if wanted else wanted))
    for name, library in libraries.items():
        if library not in _LIBRARIES and not hasattr(diffusers.pipelines, str(library)):
            raise needs_code(who, f"{library} (component {name})")
    pipeline = getattr(diffusers, wanted, None)
    if pipeline is None:
        raise GenerationError(
            f"{who}: diffusers {diffusers.__version__} has no {wanted[:80]}",
            hint="pip install --upgrade diffusers",
        )
    reason = _why_no_text_to_image(pipeline)
    if reason is not None:
        raise GenerationError(
            f"{who}: a {wanted[:80]} {reason}", hint="publish a pipeline that draws from a text"
        )


def _why_no_text_to_image(pipeline: Any) -> str | None:
    from diffusers.pipelines import auto_pipeline

    takes = inspect.signature(pipeline.__call__).parameters
    if "prompt" not in takes:
        return "takes no prompt"

    def listed(task: str) -> set[str]:
        table = getattr(auto_pipeline, f"AUTO_{task}_PIPELINES_MAPPING", {})
        return {getattr(known, "__name__", str(known)) for known in table.values()}

    name = pipeline.__name__
    if "image" in takes:
        required = takes["image"].default is inspect.Parameter.empty
        other = name in listed("IMAGE2IMAGE") | listed("INPAINT")
        if required or (other and name not in listed("TEXT2IMAGE")):
            return "needs a picture to begin with"
    if name in listed("TEXT2VIDEO") and name not in listed("TEXT2IMAGE"):
        return "makes videos"
    return None


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate images.

    ``notes`` are lines for people about what was guessed or left out while it was loaded;
    ``lora_partial`` is the share of a LoRA's tensors that was applied, None for all of them.
    """

    pipeline: Pipeline
    notes: tuple[str, ...] = ()
    lora_partial: LoraPartial | None = None


def load_model(
    model: ModelFiles,
    *,
    device: str | None = None,
    dtype: DtypeName | None = None,
    allow_partial: bool = False,
    lora_scale: float | None = None,
) -> LoadedModel:
    """The model, ready to generate images, without a safety checker.

    A safety checker would put black images into a specification; ``nsfw`` in the model card
    serves instead. ``device`` is torch's name of one, by default :func:`default_device`;
    ``dtype`` is by default float32 on a CPU and float16 elsewhere. With ``allow_partial`` a LoRA is
    taken of which some tensors have no place in its base. ``lora_scale`` is the scale at which a
    LoRA is put on its base (by default 1); generating sets that of its recipe, which is slower
    where a LoRA is a part of the weights. Raises InputError for a device
    that is not there or cannot compute so; GenerationError for a model that is incomplete, holds
    pickles or code in place of safetensors, does not generate from a text alone, or that diffusers
    refuses; MissingExtraError without diffusers.
    """
    require_packages()
    import torch

    device = require_device(device)
    if dtype is None:
        dtype = "float32" if device.startswith("cpu") else "float16"
    require_dtype(device, dtype)
    with _quiet():
        loaded = _load(
            model, getattr(torch, dtype), allow_partial=allow_partial, lora_scale=lora_scale or 1.0
        )
        try:
            loaded.pipeline.to(device)
        except Exception as error:
            raise refused(model, f"cannot be moved to {device}", error) from error
        loaded.pipeline.set_progress_bar_config(disable=True)
    return loaded


def load_pipeline(
    model: ModelFiles, *, device: str | None = None, dtype: DtypeName | None = None
) -> Pipeline:
    """The pipeline of :func:`load_model` alone."""
    return load_model(model, device=device, dtype=dtype).pipeline


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bars and warnings that the two libraries print while they load."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    levels = [library.get_verbosity() for library in (diffusers_logging, transformers_logging)]
    bars = [
        library.is_progress_bar_enabled() for library in (diffusers_logging, transformers_logging)
    ]
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        with warnings.catch_warnings(category=FutureWarning, action="ignore"):
            yield
    finally:
        for library, level, bar in zip(
            (diffusers_logging, transformers_logging), levels, bars, strict=True
        ):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()


def _load(
    model: ModelFiles, dtype: torch.dtype, *, allow_partial: bool = False, lora_scale: float = 1.0
) -> LoadedModel:
    if model.kind in ("lora", "textual-inversion"):
        check_adapter(model)
        below = _load(_base_of(model), dtype)
        if model.kind == "textual-inversion":
            notes = apply_textual_inversion(below.pipeline, model)
            return replace(below, notes=(*below.notes, *notes))
        partial, notes = apply_lora(
            below.pipeline, model, allow_partial=allow_partial, scale=lora_scale
        )
        return LoadedModel(below.pipeline, (*below.notes, *notes), partial)
    if model.kind == "single-file":
        base, index = _require_single_file(model)
        pipeline, notes = load_single_file(model, base, index, dtype)
        _require_own_channels(model, pipeline)
        return LoadedModel(pipeline, tuple(notes))
    return LoadedModel(_load_folder(model, dtype))


def _load_folder(model: ModelFiles, dtype: torch.dtype) -> Pipeline:
    import diffusers

    index = _read_index(model)
    _require_no_pickles(model)
    components = [
        name for name, value in index.items() if isinstance(value, list) and value[0] is not None
    ]
    off = no_safety_checker(index)
    with chosen_folder(model, [name for name in components if name not in off]) as folder:
        try:
            pipeline = diffusers.DiffusionPipeline.from_pretrained(
                str(folder),
                **dtype_argument(dtype),
                use_safetensors=True,
                local_files_only=True,
                **off,
            )
        except Exception as error:
            raise refused(model, "cannot be loaded by diffusers", error, shown=folder) from error
    _require_own_channels(model, pipeline)
    return pipeline


def _require_own_channels(model: ModelFiles, pipeline: Pipeline) -> None:
    """Raise GenerationError for a network that wants a picture beside the noise, to paint in."""
    network, coder = (
        getattr(getattr(pipeline, name, None), "config", {}) for name in ("unet", "vae")
    )
    wanted, given = network.get("in_channels"), coder.get("latent_channels")
    if isinstance(wanted, int) and isinstance(given, int) and wanted > given:
        raise GenerationError(
            f"{model.ref}: its network reads {wanted} channels, and {given} are the noise's: it "
            "needs a picture to begin with",
            hint="publish a model that draws from a text",
        )


def _require_single_file(model: ModelFiles) -> tuple[ModelFiles, dict[str, Any]]:
    """The base whose configuration describes the file, and that one's ``model_index.json``."""
    if model.path.suffix.lower() != ".safetensors":
        raise pickled(model, model.path.name)
    base = _base_of(model)
    if base.kind != "checkpoint":
        raise GenerationError(
            f"{model.ref}: its base model {base.ref} is no diffusers folder, so it has no "
            "configuration to read the file by",
            hint="name a base model in the diffusers layout in the model card",
        )
    return base, _read_index(base)


def _require_no_pickles(model: ModelFiles) -> None:
    names = [Path(weight.path).name for weight in model.weights]
    if names and all(Path(name).suffix.lower() in _PICKLES for name in names):
        raise pickled(model, names[0])


def _base_of(model: ModelFiles) -> ModelFiles:
    if model.base is not None:
        return model.base
    named = model.card.base_model
    what = {"lora": "LoRA", "textual-inversion": "textual inversion"}.get(
        model.kind, "single-file checkpoint"
    )
    if named is None:
        raise GenerationError(
            f"{model.ref}: the model card names no base model, which a {what} needs",
            hint="add base_model to the model card",
        )
    raise GenerationError(
        f"{model.ref}: its base model {named} is not at hand",
        hint=f"put {named} on the same hub, or correct base_model in the model card",
    )


def _read_index(model: ModelFiles) -> dict[str, Any]:
    """``model_index.json``, once nothing in it asks for code from outside the known libraries."""
    path = model.path / _INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenerationError(
            f"{model.ref}: {path} cannot be read as a diffusers pipeline",
            hint="publish a folder that save_pretrained wrote",
        ) from error
    require_pipeline(str(model.ref), index)
    return dict(index)
