"""A diffusers folder with just the files that were chosen, whatever lies beside them.

Left alone with a folder, diffusers and transformers each choose for themselves: one takes shards
where a whole file is beside them, the other the whole file; one variant is meant for all parts; and
a file that was downloaded for something else counts too. What a specification records must be what
made the images, so both are shown a folder of links that leaves them nothing to choose.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError
from gmi_registry.generation.refusals import needs_code, refused
from gmi_registry.model import ModelFiles

if TYPE_CHECKING:
    import torch

__all__ = [
    "chosen_folder",
    "is_network_folder",
    "load_network",
    "network_class",
    "network_component",
]

NETWORK_CONFIG = "config.json"
_CONFIG_LIMIT = 1024 * 1024
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


@contextmanager
def chosen_folder(model: ModelFiles, components: Iterable[str] = ()) -> Iterator[Path]:
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
    try:
        with path.open("rb") as stream:
            name = json.loads(stream.read(_CONFIG_LIMIT))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        name = None
    if not isinstance(name, str):
        raise GenerationError(
            f"{model.ref}: {path} does not describe a network of diffusers",
            hint="publish a folder that save_pretrained wrote",
        )
    found = getattr(diffusers, name, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.ModelMixin)):
        raise needs_code(str(model.ref), name)
    return name


def network_component(model: ModelFiles, base: ModelFiles, index: Mapping[str, Any]) -> str:
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
    with chosen_folder(model) as folder:
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
