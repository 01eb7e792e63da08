"""Models in one file: whole ones, and networks alone, completed by the weights of their base.

The base's configuration says what parts a pipeline has. What the file holds of them comes from the
file, all else from the base's weights; nothing is left as random numbers, and nothing is fetched.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError, GmiError
from gmi_registry.generation.folder import (
    chosen_folder,
    is_network_folder,
    load_network,
)
from gmi_registry.generation.folder import network_component as folder_component
from gmi_registry.generation.prediction import settle_prediction
from gmi_registry.generation.quantisation import Scales, scales_of
from gmi_registry.generation.refusals import refused, require_described_weights
from gmi_registry.generation.tensors import (
    Part,
    component_classes,
    loads_single_files,
    match_parts,
    network_component,
    read_part,
)
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.weights import Header, WeightsFile, identify, read_header

if TYPE_CHECKING:
    import torch

__all__ = [
    "check_single_file",
    "check_unread",
    "dtype_argument",
    "load_pipeline_with",
    "load_single_file",
    "model_components",
    "no_safety_checker",
]


_NETWORKS = ("unet", "transformer")


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
    return header, found, scales_of(str(model.ref), header, found)


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
            "is here without weights for that",
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
        raise refused(
            model, f"its {part.component} cannot be loaded by diffusers", error
        ) from error


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
        **_transformers_dtype(dtype),
    )
    require_complete(model, part.component, report)
    return module.eval()


def require_complete(model: ModelFiles, component: str, report: Mapping[str, Any]) -> None:
    """Raise GenerationError where transformers made up weights that were not there."""
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise GenerationError(
            f"{model.ref}: its {component} lacks {', '.join(missing[:3])}{more}, which would be "
            "random numbers",
            hint="download the model again; if that does not help, its author must save it anew",
        )


_ADAPTER_NAME = re.compile(r"(?:^|[._])(?:lora|hada|lokr|ia3)[._]")
_OLD_ATTENTION = re.compile(r"\.(?:query|key|value|proj_attn)\.(?:weight|bias)$")


def check_unread(model: ModelFiles, pipeline: Any) -> list[str]:
    """Notes on tensors of the folder ``model`` that none of the networks of its pipeline reads.

    Raises GenerationError where they are an adapter's, such as a LoRA that was saved with its base:
    the images would be the base's.
    """
    import diffusers

    notes: list[str] = []
    for component, module in pipeline.components.items():
        if not isinstance(module, diffusers.ModelMixin) or "quantization_config" in module.config:
            continue
        read = module.state_dict().keys()
        files = [
            model.path / weight.path
            for weight in model.weights
            if weight.path.rpartition("/")[0] == component
            and weight.path.lower().endswith(".safetensors")
        ]
        names = [name for file in files for name in read_header(file).tensors]
        # diffusers reads the names that attention had in its first releases.
        unread = [it for it in names if it not in read and not _OLD_ATTENTION.search(it)]
        _require_no_adapter(model, component, unread)
        if unread and component in _NETWORKS:
            more = ", …" if len(unread) > 3 else ""
            listed = ", ".join(one_line(name, 90) for name in unread[:3])
            notes.append(
                f"{len(unread):,} tensors of its {component} belong to no layer of it, and are "
                f"left out ({listed}{more})"
            )
    return notes


def _require_no_adapter(model: ModelFiles, component: str, unread: Iterable[str]) -> None:
    names = [name for name in unread if _ADAPTER_NAME.search(name)]
    if names:
        raise GenerationError(
            f"{model.ref}: {len(names):,} tensors of its {component} are those of a LoRA or of "
            f"another adapter, which diffusers leaves out of a folder ({one_line(names[0], 90)})",
            hint="merge the adapter before the folder is saved: pipeline.fuse_lora(), "
            "pipeline.unload_lora_weights(), pipeline.save_pretrained(folder)",
        )


def load_pipeline_with(
    model: ModelFiles,
    index: Mapping[str, Any],
    dtype: torch.dtype,
    modules: Mapping[str, Any],
    who: ModelFiles,
) -> Any:
    """The pipeline in the folder of ``model`` with ``modules`` in place of some of its own.

    Text encoders are loaded first, so that one with missing weights is refused. ``who`` is the
    model in messages. Raises GenerationError.
    """
    import diffusers

    off = no_safety_checker(index) | _left_out_encoders(index)
    components = [name for name in model_components(index) if name not in off]
    shown = [name for name in components if name not in modules]
    with chosen_folder(model, shown) as folder:
        try:
            ready = dict(modules)
            for name, kind in component_classes(index).items():
                if name in shown and not issubclass(kind, diffusers.ModelMixin):
                    ready[name] = _complete_encoder(who, kind, folder, name, dtype)
            return diffusers.DiffusionPipeline.from_pretrained(
                str(folder),
                **dtype_argument(dtype),
                use_safetensors=True,
                local_files_only=True,
                **off,
                **ready,
            )
        except GmiError:
            raise
        except Exception as error:
            raise refused(who, "cannot be loaded by diffusers", error, shown=folder) from error


def _complete_encoder(
    who: ModelFiles, kind: Any, folder: Any, component: str, dtype: torch.dtype
) -> Any:
    module, report = kind.from_pretrained(
        str(folder / component),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        **_transformers_dtype(dtype),
    )
    require_complete(who, component, report)
    _require_no_adapter(who, component, sorted(report["unexpected_keys"]))
    return module


def _left_out_encoders(index: Mapping[str, Any]) -> dict[str, None]:
    """Text encoders that a model was saved without, as Stable Diffusion 3 often is without its T5.

    diffusers writes null for them, and asks for them again unless it is handed None.
    """
    return {
        name: None
        for name, value in index.items()
        if name.startswith(("text_encoder", "tokenizer"))
        and isinstance(value, list)
        and value[0] is None
    }


def model_components(index: Mapping[str, Any]) -> list[str]:
    """The names of a pipeline's components, tokenizers and schedulers included."""
    return [
        name for name, value in index.items() if isinstance(value, list) and value[0] is not None
    ]


def dtype_argument(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The loaders' argument for the element type, which diffusers 0.42 renamed."""
    import diffusers

    major, minor = (int(number) for number in diffusers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (0, 42) else "torch_dtype": dtype}


def _transformers_dtype(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The same of transformers, which renamed it in 4.56."""
    import transformers

    major, minor = (int(number) for number in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": dtype}


def no_safety_checker(index: Mapping[str, Any]) -> dict[str, Any]:
    """The loaders' arguments that leave out a checker that would blacken images."""
    import diffusers

    takes = inspect.signature(getattr(diffusers, index["_class_name"]).__init__).parameters
    off: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    return {name: value for name, value in off.items() if name in takes}
