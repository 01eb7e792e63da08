"""Models from this disk as diffusers pipelines: a folder, an adapter on its base, or one file.

No code that comes with a model is ever run, and no pickle is ever opened. A file, of a whole model
or of a network alone, is completed by the weights of its base, whose configuration says what parts
a pipeline has; nothing is left as random numbers, and nothing is fetched. Every tensor of the file
is accounted for before any is read, and every parameter of a part must come from the file:
diffusers' own loaders leave out what they do not know, with a warning. The names are turned by
diffusers' converters, which run on tensors without values first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.bases import pipeline_architectures, require_made_for
from gmi_registry.device import DtypeName, require_device, require_dtype
from gmi_registry.errors import GenerationError, GmiError, MissingExtraError
from gmi_registry.generation.lora import adapter_file, apply_lora
from gmi_registry.generation.model_checks import (
    NETWORKS,
    PIPELINE_INDEX,
    Pipeline,
    pickled,
    refused,
    require_described_weights,
    require_parts,
    require_pipeline,
    why_other_channels,
)
from gmi_registry.generation.pipeline_folder import (
    check_unread,
    component_classes,
    component_of_network,
    dtype_argument,
    is_network_folder,
    load_network,
    load_pipeline_with,
    model_components,
    no_safety_checker,
    require_complete,
    require_finite,
    transformers_dtype,
)
from gmi_registry.generation.placement import (
    Offload,
    bytes_in,
    choose_dtype,
    keep_decoder_sane,
    place_pipeline,
    require_memory,
    require_offload,
)
from gmi_registry.generation.prediction import (
    check_lora_prediction,
    check_scheduler,
    settle_prediction,
)
from gmi_registry.generation.single_file_parts import (
    Part,
    State,
    loads_single_files,
    match_parts,
    network_component,
)
from gmi_registry.generation.textual_inversion import apply_textual_inversion
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.spec import LoraPartial
from gmi_registry.weights import (
    Header,
    WeightsFile,
    identify,
    identify_file,
    read_config,
    read_header,
)
from gmi_registry.weights.quantisation import (
    Scales,
    check_components,
    dequantised,
    has_bad_scale,
    scales_of,
)

if TYPE_CHECKING:
    import torch

_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_SINGLE_FILES = frozenset({".safetensors", ".gguf"})


def require_packages() -> None:
    """Raise MissingExtraError where a package is missing that generating needs. Loads none."""
    for package in ("torch", "diffusers", "transformers", "peft"):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="publish", purpose="generating images")


def check_model(model: ModelFiles) -> None:
    """Raise GenerationError for all that can be told of a model before its weights are loaded.

    That is a base model that is not here, pickles, several files of which one is meant, files
    that are damaged or of another kind (a VAE, a ControlNet), and what :func:`require_pipeline`
    refuses.
    """
    if model.kind == "checkpoint":
        _require_no_pickles(model)
        index = _read_index(model)
        require_described_weights(model)
        check_components(model, model_components(index))
        _check_folder(model)
    elif model.kind in ("lora", "textual-inversion"):
        adapter_file(model)
        require_described_weights(model)
        check_model(_base_of(model))
    else:
        _require_single_file(model)
        require_described_weights(model)
    if model.kind != "checkpoint":
        _require_made_for(model)


def _require_made_for(model: ModelFiles) -> None:
    """Raise HubError where the base is another kind of network than the model was made for."""
    base = _base_of(model)
    place = model.path
    if model.kind in ("lora", "textual-inversion") and place.is_dir():
        place = place / adapter_file(model)
    if place.is_dir():  # a network that diffusers saved by itself
        place = place / Path(model.weights[0].path).name
    header = read_header(place)
    told = {"option": "--base names it", "card": "its model card names it"}
    words = told.get(str(model.base_origin))
    require_made_for(
        str(model.ref.without_revision),
        identify(header),
        # Whoever names a base may know that the metadata are wrong; the layers are not.
        {} if model.base_origin == "option" else header.metadata,
        f"its base model {base.ref.without_revision}{f' ({words})' if words else ''}",
        _architectures(base),
    )


def _architectures(base: ModelFiles) -> frozenset[str]:
    """What the network of a base may be; empty where nothing is known."""
    if base.kind == "checkpoint":
        index = _read_index(base)
        configs = (read_config(base.path / part / "config.json") for part in NETWORKS)
        return pipeline_architectures(index, next(filter(None, configs), None))
    if base.kind == "single-file" and base.path.is_file():
        architecture = identify_file(base.path).architecture
        return frozenset() if architecture is None else frozenset({architecture})
    return frozenset() if base.base is None else _architectures(base.base)


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
    offload: Offload | None = None,
    allow_partial: bool = False,
    lora_scale: float | None = None,
) -> LoadedModel:
    """The model, ready to generate images, without a safety checker.

    A safety checker would put black images into a specification; ``nsfw`` in the model card
    serves instead. ``device`` is torch's name of one, by default :func:`default_device`;
    ``dtype`` is by default that of :func:`~gmi_registry.generation.placement.choose_dtype`, float32
    on a CPU. ``offload`` keeps the weights in this machine's memory, and puts on the device what
    computes just then: a whole network (``model``) or a layer (``sequential``); images are then
    decoded one by one. With ``allow_partial`` a LoRA is taken of which some tensors have no place
    in its base. ``lora_scale`` is the scale at which a LoRA is put on its base (by default 1);
    generating sets that of its recipe, which is slower where a LoRA is a part of the weights.
    Raises InputError for a device that is not there or cannot compute so;
    OutOfMemoryError where memory ran out; GenerationError for a model that is incomplete, holds
    pickles or code in place of safetensors, does not generate from a text alone, or that diffusers
    refuses; MissingExtraError without diffusers.
    """
    require_packages()
    import torch

    device = require_device(device)
    require_offload(device, offload)
    notes: list[str] = []
    if dtype is None:
        dtype, notes = choose_dtype(model, device)
    require_dtype(device, dtype)
    notes += require_memory(str(model.ref), bytes_in(model, dtype), device, offload, dtype)
    with _quiet():
        loaded = _load(
            model, getattr(torch, dtype), allow_partial=allow_partial, lora_scale=lora_scale or 1.0
        )
        require_finite(model, loaded.pipeline)
        # A watermark is added where another package happens to be installed: no model's own.
        if getattr(loaded.pipeline, "watermark", None) is not None:
            loaded.pipeline.watermark = None
        keep_decoder_sane(loaded.pipeline)
        try:
            place_pipeline(loaded.pipeline, device, offload)
        except Exception as error:
            raise refused(model, f"cannot be moved to {device}", error) from error
        loaded.pipeline.set_progress_bar_config(disable=True)
    return replace(loaded, notes=(*notes, *loaded.notes))


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
        adapter_file(model)
        below = _load(_base_of(model), dtype)
        if model.kind == "textual-inversion":
            notes = apply_textual_inversion(below.pipeline, model)
            return replace(below, notes=(*below.notes, *notes))
        partial, notes = apply_lora(
            below.pipeline, model, allow_partial=allow_partial, scale=lora_scale
        )
        said = check_lora_prediction(
            below.pipeline, model, read_header(model.path / adapter_file(model))
        )
        return LoadedModel(below.pipeline, (*below.notes, *notes, *said), partial)
    if model.kind == "single-file":
        base, index = _require_single_file(model)
        pipeline, notes = _load_single_file(model, base, index, dtype)
        _require_own_channels(model, pipeline)
        return LoadedModel(pipeline, tuple(notes))
    index = _read_index(model)
    _require_no_pickles(model)
    require_parts(model, index)
    check_components(model, component_classes(index))
    pipeline = load_pipeline_with(model, index, dtype, {}, model)
    _require_own_channels(model, pipeline)
    remarks = [*check_scheduler(model, index), *settle_prediction(pipeline, model)]
    remarks += check_unread(model, pipeline)
    return LoadedModel(pipeline, tuple(remarks))


def _require_own_channels(model: ModelFiles, pipeline: Pipeline) -> None:
    """Raise GenerationError for a network that wants an image beside the noise."""
    coder = getattr(getattr(pipeline, "vae", None), "config", {})
    for part in NETWORKS:
        network = getattr(getattr(pipeline, part, None), "config", None)
        _check_channels(model, network or {}, coder)


def _check_channels(
    model: ModelFiles, network: Mapping[str, Any], coder: Mapping[str, Any]
) -> None:
    reason = why_other_channels(network, coder)
    if reason is not None:
        raise GenerationError(
            f"{model.ref}: its network {reason}",
            hint="publish a model that generates images from a text only",
        )


def _check_folder(model: ModelFiles) -> None:
    """The same by a folder's configuration files, before its weights are loaded."""
    coder = read_config(model.path / "vae" / "config.json")
    for part in NETWORKS:
        _check_channels(model, read_config(model.path / part / "config.json"), coder)


def _require_single_file(model: ModelFiles) -> tuple[ModelFiles, dict[str, Any]]:
    """The base whose configuration describes the file, and that one's ``model_index.json``."""
    if not is_network_folder(model):
        if model.path.suffix.lower() not in _SINGLE_FILES:
            raise pickled(model, model.path.name)
        _require_readable(model)
    base = _base_of(model)
    if base.kind != "checkpoint":
        raise GenerationError(
            f"{model.ref}: its base model {base.ref} is not a diffusers folder, so it has no "
            "configuration to read the file by",
            hint="name a base model in the diffusers layout: --base REPO, or base_model in the "
            "model card",
        )
    index = _read_index(base)
    if is_network_folder(model):
        component_of_network(model, base, index)
    return base, index


def _require_no_pickles(model: ModelFiles) -> None:
    names = [Path(weight.path).name for weight in model.weights]
    if names and all(Path(name).suffix.lower() in _PICKLES for name in names):
        raise pickled(model, names[0])


def _base_of(model: ModelFiles) -> ModelFiles:
    if model.base is not None:
        if model.kind == "lora":
            _require_no_lora_below(model, model.base)
        return model.base
    named = model.card.base_model
    what = {"lora": "LoRA", "textual-inversion": "textual inversion"}.get(
        model.kind, "single-file checkpoint"
    )
    if named is None and model.base_refusal is not None:
        raise model.base_refusal
    if named is None:
        raise GenerationError(
            f"{model.ref}: the model card names no base model, which a {what} needs",
            hint="name it: --base REPO, or add base_model to the model card",
        )
    raise GenerationError(
        f"{model.ref}: its base model {named} is not here",
        hint=f"put {named} on the same hub, name one that is there (--base REPO), or correct "
        "base_model in the model card",
    )


def _require_no_lora_below(model: ModelFiles, base: ModelFiles | None) -> None:
    """Raise GenerationError where a LoRA stands on another one.

    A card that names a LoRA may mean that training went on from there, and the file then holds both
    already; or that both are to be used, at scales that nobody says.
    """
    while base is not None:
        if base.kind == "lora":
            root = "REPO" if base.base is None else str(base.base.ref.without_revision)
            raise GenerationError(
                f"{model.ref}: its base model {base.ref.without_revision} is a LoRA itself, and a "
                "LoRA is put on a whole model",
                hint=f"name the whole model that both need: --base {root}; if it takes both, "
                "merge them into one file, and publish that",
            )
        base = base.base


def _read_index(model: ModelFiles) -> dict[str, Any]:
    """``model_index.json``, once nothing in it asks for code from outside the known libraries."""
    path = model.path / PIPELINE_INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GenerationError(
            f"{model.ref}: {path} cannot be read as a diffusers pipeline",
            hint="publish a folder that save_pretrained wrote",
        ) from error
    require_pipeline(str(model.ref), index)
    check_scheduler(model, index)
    return dict(index)


# ---- a model in one file


def _load_single_file(
    model: ModelFiles, base: ModelFiles, index: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Any, list[str]]:
    """The pipeline of the file ``model``, completed from ``base``, and notes.

    ``index`` is the base's ``model_index.json``. Raises GenerationError for a file that does not
    fit, that is quantised in a way that is not read, or that needs parts which the base lacks.
    """
    classes = component_classes(index)
    if is_network_folder(model):
        component = component_of_network(model, base, index)
        _require_rest(model, base, index, {component}, None)
        network = load_network(model, dtype_argument(dtype))
        pipeline = load_pipeline_with(base, index, dtype, {component: network}, model)
        return pipeline, settle_prediction(pipeline, model)
    header, found, scales = _require_readable(model)
    parts, notes = match_parts(model, header, scales, base, index)
    present = {part.component for part in parts}
    rest = _require_rest(model, base, index, present, found)
    if rest and network_component(classes) in present and len(parts) > 1:
        notes.append(f"the file has no {', '.join(rest)}: taken from its base model {base.ref}")
    modules = {}
    for part in parts:
        modules[part.component] = _load_part(model, base, header, part, scales, dtype)
    pipeline = load_pipeline_with(base, index, dtype, modules, model)
    return pipeline, notes + settle_prediction(pipeline, model, header, found)


def _require_readable(model: ModelFiles) -> tuple[Header, WeightsFile, Scales]:
    require_described_weights(model)
    header = read_header(model.path)
    found = identify(header)
    return header, found, scales_of(f"{model.ref}: {found.title}", header, found.quantisation)


def _require_rest(
    model: ModelFiles,
    base: ModelFiles,
    index: Mapping[str, Any],
    present: set[str],
    found: WeightsFile | None,
) -> list[str]:
    """The components that the base adds, all of which it has weights for.

    Raises GenerationError where it does not: a hub may deliver a base as configuration alone.
    """
    off = no_safety_checker(index)
    rest = [name for name in component_classes(index) if name not in present and name not in off]
    weights = {weight.path.rpartition("/")[0] for weight in base.weights}
    lacking = [name for name in rest if name not in weights]
    if lacking:
        title = "a network in a folder" if found is None else found.title
        raise GenerationError(
            f"{model.ref} is {title}: it has no {', '.join(lacking)}, and its base model "
            f"{base.ref} is here without these weights",
            hint="name a base model that has all parts, with its weights: --base REPO",
        )
    return rest


def _load_part(
    model: ModelFiles,
    base: ModelFiles,
    header: Header,
    part: Part,
    scales: Scales,
    dtype: torch.dtype,
) -> Any:
    import diffusers

    try:
        state = _read_part(model.path, header, part, scales, dtype)
        kind: Any = part.module
        if loads_single_files(kind):
            return _from_single_file(kind, base, header, part, state, dtype)
        if issubclass(kind, diffusers.ModelMixin):
            return _from_state(kind, base, part, state, dtype)
        return _text_encoder(model, base, part, state, dtype)
    except GmiError:
        raise
    except Exception as error:
        raise refused(model, f"diffusers cannot load its {part.component}", error) from error


def _from_single_file(
    kind: Any,
    base: ModelFiles,
    header: Header,
    part: Part,
    state: dict[str, Any],
    dtype: torch.dtype,
) -> Any:
    import diffusers

    packed: dict[str, Any] = {}
    if header.format == "gguf":
        packed["quantization_config"] = diffusers.GGUFQuantizationConfig(compute_dtype=dtype)
    # Under the module's own names, which the loader takes as they are.
    return kind.from_single_file(
        state,
        config=str(base.path),
        subfolder=part.component,
        local_files_only=True,
        **dtype_argument(dtype),
        **packed,
    )


def _from_state(
    kind: Any, base: ModelFiles, part: Part, state: dict[str, Any], dtype: torch.dtype
) -> Any:
    """For networks of which diffusers loads no single files, under their own names all the same."""
    from accelerate import init_empty_weights

    config = kind.load_config(str(base.path), subfolder=part.component, local_files_only=True)
    with init_empty_weights():
        module = kind.from_config(config)
    module.load_state_dict(state, strict=True, assign=True)
    return module.to(dtype).eval()


def _text_encoder(
    model: ModelFiles, base: ModelFiles, part: Part, state: dict[str, Any], dtype: torch.dtype
) -> Any:
    kind: Any = part.module
    config = kind.config_class.from_pretrained(
        str(base.path), subfolder=part.component, local_files_only=True
    )
    module, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=state,
        output_loading_info=True,
        **transformers_dtype(dtype),
    )
    require_complete(model, part.component, report)
    return module.eval()


def _read_part(
    path: Path, header: Header, part: Part, scales: Scales, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The tensors of ``part`` from the file, under the names that its module has for them.

    Those in float8 are multiplied with their scales, or cast, to ``dtype``; the others are as they
    are. Raises GenerationError for a scale that is no number.
    """
    state = _from_gguf(path, header, part) if header.format == "gguf" else None
    if state is None:
        state = _from_safetensors(path, part, scales, dtype)
    converted = part.convert(state)
    return {
        name: _unpacked(converted[name], packed=name in part.linear)
        for name in part.expected
        if name in converted
    }


def _from_safetensors(path: Path, part: Part, scales: Scales, dtype: torch.dtype) -> State:
    from safetensors import safe_open

    state: State = {}
    with safe_open(path, framework="pt") as tensors:
        for ours, name in part.names.items():
            value = tensors.get_tensor(name)
            scale_name = scales.of_weights.get(name)
            if scale_name is not None:
                scale = tensors.get_tensor(scale_name)
                if has_bad_scale(scale):
                    raise GenerationError(
                        f"{path.name}: {one_line(scale_name, 100)} is not a scale: it is 0 or "
                        f"not finite",
                        hint="download the file again; if that does not help, it is damaged",
                    )
                value = dequantised(value, scale, dtype)
            elif str(value.dtype).startswith("torch.float8"):
                value = value.to(dtype)
            state[ours] = value
    return state


def _unpacked(value: Any, *, packed: bool) -> Any:
    """A tensor of GGUF as numbers, unless it is multiplied ``packed``, as linear layers do it."""
    if packed or not hasattr(value, "quant_type"):
        return value
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    return dequantize_gguf_tensor(value)


def _from_gguf(path: Path, header: Header, part: Part) -> State:
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", extra="publish", purpose="reading a GGUF file") from None
    from diffusers.models.model_loading_utils import load_gguf_checkpoint
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    loaded = load_gguf_checkpoint(str(path))
    state: State = {}
    for ours, name in part.names.items():
        value = loaded.pop(name)
        shape = header.tensors[name].shape
        kind = getattr(value, "quant_type", None)
        # Biases in 16 bits would be taken for packed ones, and convolutions cannot be packed.
        if kind is not None and (len(shape) != 2 or kind == gguf.GGMLQuantizationType.BF16):
            value = dequantize_gguf_tensor(value)
            kind = None
        if kind is None and tuple(value.shape) != shape:
            value = value.reshape(shape)
        state[ours] = value
    return state
