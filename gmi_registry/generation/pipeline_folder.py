"""A diffusers folder with just the files that were chosen, whatever lies beside them.

Left alone with a folder, diffusers and transformers each choose for themselves: one takes shards
where a whole file is beside them, the other the whole file; one variant is meant for all parts; and
a file that was downloaded for something else counts too. What a specification records must be what
made the images, so both are shown a folder of links that leaves them nothing to choose.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError, GmiError
from gmi_registry.generation.model_checks import needs_code, refused
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.weights import read_config, read_header

if TYPE_CHECKING:
    import torch

NETWORK_CONFIG = "config.json"
_SUFFIX = ".safetensors"
# Weights of every kind, and programs: none of them is shown to a library unless it was chosen.
_NOT_SHOWN = frozenset(
    {
        _SUFFIX, ".gguf", ".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle", ".msgpack", ".h5",
        ".onnx", ".onnx_data", ".npz", ".npy", ".py", ".pyc", ".so", ".dll", ".dylib",
    }
)  # fmt: skip
_SHARD_INDEX = re.compile(r".+\.index(\.[A-Za-z0-9_.]+)?\.json")
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}")
_DEPTH = 3
_NETWORKS = ("unet", "transformer", "prior")

# Where the scales (float16) of a block of GGUF lie, in bytes from its beginning or its end.
_GGUF_SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (-4, -2),
    "Q3_K": (-2,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (-2,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
_FEW_MATRICES = 4
"""Of fewer, zeros say nothing: a layer may begin as zeros and learn little."""
_ADAPTER_NAME = re.compile(r"(?:^|[._])(?:lora|hada|lokr|ia3)[._]")
_OLD_ATTENTION = re.compile(r"\.(?:query|key|value|proj_attn)\.(?:weight|bias)$")


@contextmanager
def linked_folder(model: ModelFiles, components: Iterable[str] = ()) -> Iterator[Path]:
    """A folder of links to the configuration of ``components`` and to the weights of ``model``.

    Weights have the names that libraries load without a variant, and the index of shards is made
    from the shards. Without ``components`` the model is a network, whose files lie in ``path``
    itself. The folder is there within the block. Raises GenerationError where it cannot be made.
    """
    components = tuple(components)
    with ExitStack() as stack:
        try:
            made = tempfile.TemporaryDirectory(prefix="gmi-model-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
            if components:
                shutil.copy(model.path / "model_index.json", folder)
            for component in components or ("",):
                _show_configuration(model.path / component, folder / component)
            _show_weights(model, folder, inside=components)
        except OSError as error:
            raise GenerationError(
                f"{model.ref}: its files cannot be laid out for diffusers: "
                f"{error.strerror or error}",
                hint="name another folder for temporary files, on a disk with room: TMPDIR=...",
            ) from error
        yield folder


def is_network_folder(model: ModelFiles) -> bool:
    """Whether a model is a network that diffusers saved by itself, with its ``config.json``."""
    return model.kind == "single-file" and model.path.is_dir()


def network_class(model: ModelFiles) -> str:
    """The class that the ``config.json`` of a network names.

    Raises GenerationError where it names none of diffusers.
    """
    import diffusers

    path = model.path / NETWORK_CONFIG
    name = read_config(path).get("_class_name")
    if not isinstance(name, str):
        raise GenerationError(
            f"{model.ref}: {path} does not describe a network of diffusers",
            hint="publish a folder that save_pretrained wrote",
        )
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        raise needs_code(str(model.ref), name)
    return name


def component_of_network(model: ModelFiles, base: ModelFiles, index: Mapping[str, Any]) -> str:
    """The part of ``base``, by its name in ``index``, in whose place the network ``model`` goes.

    Raises GenerationError where the base has a network of another class.
    """
    own = network_class(model)
    networks = {
        name: value[1]
        for name, value in index.items()
        if name in _NETWORKS and isinstance(value, list) and value[0] is not None
    }
    found = next((name for name, kind in networks.items() if kind == own), None)
    if found is None:
        theirs = ", ".join(str(kind) for kind in networks.values()) or "none"
        raise GenerationError(
            f"{model.ref}: it is a {own}, and the network of its base model {base.ref} is {theirs}",
            hint="name the base that it was made for: --base REPO, or base_model in the model card",
        )
    return found


def load_network(model: ModelFiles, dtype: dict[str, torch.dtype]) -> Any:
    """The network in a folder of its own; ``dtype`` is the loaders' argument for its elements.

    Raises GenerationError for one that diffusers refuses.
    """
    import diffusers

    loader = getattr(diffusers, network_class(model))
    with linked_folder(model) as folder:
        try:
            return loader.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, **dtype
            )
        except Exception as error:
            raise refused(model, "cannot be loaded by diffusers", error, shown=folder) from error


def _show_configuration(source: Path, target: Path, depth: int = _DEPTH) -> None:
    if not source.is_dir():
        return
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth and target.name:
                _show_configuration(path, target / path.name, depth - 1)
        elif path.suffix.lower() not in _NOT_SHOWN and not _SHARD_INDEX.fullmatch(path.name):
            _link(path, target / path.name)


def _show_weights(model: ModelFiles, folder: Path, *, inside: tuple[str, ...]) -> None:
    shards: dict[str, dict[str, Path]] = {}
    for weight in model.weights:
        path = PurePosixPath(weight.path)
        if inside:
            component, source = path.parent.as_posix(), model.path / path
            if component not in inside:
                continue
        else:
            component, source = "", model.path / path.name
        if _SHARD.search(path.name):
            shards.setdefault(component, {})[path.name] = source
            name = path.name
        else:
            name = f"{path.name.partition('.')[0]}{_SUFFIX}"
        (folder / component).mkdir(exist_ok=True)
        _link(source, folder / component / name)
    for component, files in shards.items():
        base = re.split(r"[.]|-[0-9]{5}-of-", min(files))[0]
        index = folder / component / f"{base}{_SUFFIX}.index.json"
        index.write_text(json.dumps(_index_of(files)), encoding="utf-8")


def _index_of(files: dict[str, Path]) -> dict[str, Any]:
    """What the libraries read to know which tensor is in which shard."""
    from safetensors import safe_open

    names: dict[str, str] = {}
    for name, path in sorted(files.items()):
        with safe_open(path, framework="numpy") as tensors:
            names |= dict.fromkeys(tensors.keys(), name)
    size = sum(path.stat().st_size for path in files.values())
    return {"metadata": {"total_size": size}, "weight_map": names}


def _link(source: Path, target: Path) -> None:
    """A link where the system makes them; else a second name, else a copy."""
    source = source.resolve()
    for make in (os.symlink, os.link):
        try:
            make(source, target)
        except (OSError, NotImplementedError):
            continue
        return
    shutil.copyfile(source, target)


def component_classes(index: Mapping[str, Any]) -> dict[str, type]:
    """The classes of a pipeline's networks, encoders and decoders, by component."""
    import diffusers
    import torch
    import transformers

    known: dict[str, Any] = {"diffusers": diffusers, "transformers": transformers}
    classes: dict[str, type] = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or value[0] is None:
            continue
        library = known.get(value[0]) or getattr(diffusers.pipelines, str(value[0]), None)
        found = getattr(library, str(value[1]), None)
        if isinstance(found, type) and issubclass(found, torch.nn.Module):
            classes[name] = found
    return classes


def require_finite(model: ModelFiles, pipeline: Any) -> None:
    """Raise GenerationError for a parameter of ``pipeline`` that is no number, or is not there.

    One such number makes every image black, or noise. A component of which over half of the
    matrices hold nothing but zeros is refused as well: a download that was cut short may leave such
    a file, and a text encoder like that gives images of no prompt.
    """
    import torch

    for component, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        matrices = [value.detach() for value in module.parameters() if value.ndim > 1]
        empty = sum(map(_is_empty, matrices))
        if len(matrices) >= _FEW_MATRICES and 2 * empty > len(matrices):
            raise GenerationError(
                f"{model.ref}: {empty:,} of the {len(matrices):,} matrices of its {component} hold "
                "nothing but zeros",
                hint="download the model again; if that does not help, the file is damaged",
            )
        # A mask that is made anew and is infinite on purpose is no weight.
        saved = module.state_dict().keys()
        buffers = [(name, value) for name, value in module.named_buffers() if name in saved]
        for name, value in (*module.named_parameters(), *buffers):
            if value.is_meta:
                raise GenerationError(
                    f"{model.ref}: its {component} has no weights for {one_line(name, 120)}",
                    hint="download the model again; if that does not help, its author must save "
                    "it again",
                )
            count = _not_finite(value.detach())
            if count:
                dtype = str(value.dtype).removeprefix("torch.")
                where = "" if dtype == "float32" else f" in {dtype}"
                raise GenerationError(
                    f"{model.ref}: {component}.{one_line(name, 120)} holds numbers that are not "
                    f"finite{where}: {count:,} of {value.numel():,}",
                    hint="download the model again"
                    + ("; or try --dtype bfloat16 or float32" if dtype == "float16" else "")
                    + "; if that does not help, the file is damaged",
                )


def _is_empty(value: Any) -> bool:
    """Whether a matrix is there and all of it is zero; of packed ones that is not told."""
    if value.is_meta or getattr(value, "quant_type", None) is not None or not value.numel():
        return False
    # Its first row tells nearly always.
    return not bool(value[0].any()) and not bool(value.any())


def _not_finite(value: Any) -> int:
    """How many numbers of a tensor are infinite or none; of packed ones, how many scales."""
    import torch

    kind = getattr(value, "quant_type", None)
    if kind is not None:
        import gguf

        _, size = gguf.GGML_QUANT_SIZES[kind]
        blocks = value.as_tensor().view(torch.uint8).reshape(-1, size)
        scales = [
            blocks[:, start % size : start % size + 2].contiguous().view(torch.float16)
            for start in _GGUF_SCALES.get(kind.name, ())
        ]
        return sum(int((~torch.isfinite(part)).sum()) for part in scales)
    if not value.is_floating_point() or not value.numel():
        return 0
    # Smallest and largest tell it, 50 times as fast: beside NaN neither is a number.
    ends = torch.stack(torch.aminmax(value))
    if bool(torch.isfinite(ends).all()):
        return 0
    return int((~torch.isfinite(value)).sum())


def require_complete(model: ModelFiles, component: str, report: Mapping[str, Any]) -> None:
    """Raise GenerationError where transformers made up weights that were not there."""
    missing = sorted(report["missing_keys"])
    if missing:
        more = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        raise GenerationError(
            f"{model.ref}: its {component} lacks {', '.join(missing[:3])}{more}, which would be "
            "random numbers",
            hint="download the model again; if that does not help, its author must save it again",
        )


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
        if unread and component in ("unet", "transformer"):
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
    with linked_folder(model, shown) as folder:
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
        **transformers_dtype(dtype),
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


def transformers_dtype(dtype: torch.dtype) -> dict[str, torch.dtype]:
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
