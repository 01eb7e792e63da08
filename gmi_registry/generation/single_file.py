"""Models in one file: whole ones, and networks alone, completed by the weights of their base.

The base's configuration says what parts a pipeline has. What the file holds of them comes from the
file, all else from the base's weights; nothing is left as random numbers, and nothing is fetched.
Every tensor of the file is accounted for before any is read, and every parameter of a part must
come from the file: diffusers' own loaders leave out what they do not know, with a warning. The
names are turned by diffusers' converters, which run on tensors without values first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError, GmiError, MissingExtraError
from gmi_registry.generation.model_checks import refused, require_described_weights
from gmi_registry.generation.pipeline_folder import (
    component_classes,
    dtype_argument,
    is_network_folder,
    load_network,
    load_pipeline_with,
    no_safety_checker,
    require_complete,
    transformers_dtype,
)
from gmi_registry.generation.pipeline_folder import component_of_network as folder_component
from gmi_registry.generation.prediction import settle_prediction
from gmi_registry.generation.single_file_parts import (
    Part,
    State,
    loads_single_files,
    match_parts,
    network_component,
)
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.weights import Header, WeightsFile, identify, read_header
from gmi_registry.weights.quantisation import Scales, dequantised, has_bad_scale, scales_of

if TYPE_CHECKING:
    import torch


def check_single_file(model: ModelFiles) -> None:
    """Raise GenerationError for what the header of the file ``model`` tells: another kind of file,
    a damaged one, weights that are quantised in a way that is not read."""
    if not is_network_folder(model):
        _require_readable(model)


def load_single_file(
    model: ModelFiles, base: ModelFiles, index: Mapping[str, Any], dtype: torch.dtype
) -> tuple[Any, list[str]]:
    """The pipeline of the file ``model``, completed from ``base``, and notes.

    ``index`` is the base's ``model_index.json``. Raises GenerationError for a file that does not
    fit, that is quantised in a way that is not read, or that needs parts which the base lacks.
    """
    classes = component_classes(index)
    if is_network_folder(model):
        component = folder_component(model, base, index)
        _require_rest(model, base, index, {component}, None)
        network = load_network(model, dtype_argument(dtype))
        pipeline = load_pipeline_with(base, index, dtype, {component: network}, model)
        return pipeline, settle_prediction(pipeline, model)
    header, found, scales = _require_readable(model)
    parts, notes = match_parts(model, header, scales, base, index)
    present = {part.component for part in parts}
    rest = _require_rest(model, base, index, present, found)
    if rest and network_component(classes) in present and len(parts) > 1:
        notes.append(f"the file has no {_words(rest)}: taken from its base model {base.ref}")
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
            f"{model.ref} is {title}: it has no {_words(lacking)}, and its base model {base.ref} "
            "is here without these weights",
            hint="name a base model that has all parts, with its weights: --base REPO",
        )
    return rest


def _words(names: list[str]) -> str:
    return ", ".join(names)


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
        state = read_part(model.path, header, part, scales, dtype)
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


# ---- which part a tensor belongs to


def read_part(
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


# ---- groups of names


# ---- conversion without values
