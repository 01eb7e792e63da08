"""Which files of a model's folder are its weights, and what kind of model they make."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.errors import HubError
from gmi_registry.hubs.confinement import require_inside
from gmi_registry.model import Kind
from gmi_registry.sanitize import one_line
from gmi_registry.spec import SPEC_DIR

__all__ = ["FoundWeights", "find_weights", "kind_of_file"]

_PIPELINE_NAME = "model_index.json"
_LORA_NAME = "pytorch_lora_weights.safetensors"
_SUFFIX = ".safetensors"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# Of diffusers and peft, of kohya's scripts, and of the LyCORIS family.
_LORA_MARKS = (".lora_A.", ".lora_B.", "lora_up.", "lora_down.", ".lora.", ".hada_w", ".lokr_w")
# diffusers keeps weights one folder below the pipeline; nobody nests them deeper than this.
_DEPTH = 4


@dataclass(frozen=True)
class FoundWeights:
    """``path`` is a folder or, for a single file, that file; ``files`` are sorted by ``names``.

    ``names`` are the files' paths relative to the model's folder, with ``/``.
    """

    kind: Kind
    path: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]


def find_weights(folder: Path, root: Path) -> FoundWeights:
    """The weights in ``folder``; every file must lie in ``root`` once links are followed.

    A folder with ``model_index.json`` is a checkpoint. Otherwise it holds one safetensors file,
    a LoRA by its usual name or by the names of its tensors, or else a whole model. Raises HubError
    where it holds none, several, only pickles, or a file that is no safetensors file.
    """
    if (folder / _PIPELINE_NAME).is_file():
        files = sorted(_below(folder, root, _DEPTH), key=lambda path: _name(path, folder))
        if not files:
            raise _none(folder)
        return FoundWeights(
            "checkpoint", folder, tuple(_name(path, folder) for path in files), tuple(files)
        )
    files = sorted(_below(folder, root, 0))
    adapter = [path for path in files if path.name == _LORA_NAME]
    if adapter:
        return FoundWeights("lora", folder, (_LORA_NAME,), tuple(adapter))
    if not files:
        raise _none(folder)
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:4])
        raise HubError(
            f"{folder} holds {len(files)} weight files ({names}), and which is meant is unclear",
            hint=f"keep one, name a LoRA {_LORA_NAME}, or add {_PIPELINE_NAME} for a pipeline",
        )
    kind = kind_of_file(files[0])
    path = folder if kind == "lora" else files[0]
    return FoundWeights(kind, path, (files[0].name,), (files[0],))


def kind_of_file(path: Path) -> Kind:
    """``lora`` or ``single-file``, by the file's usual name or the names of its tensors.

    Raises HubError where it is no safetensors file.
    """
    return "lora" if path.name == _LORA_NAME or _is_lora(path) else "single-file"


def _below(folder: Path, root: Path, depth: int) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name == SPEC_DIR:
                continue
            if entry.name.endswith(_SUFFIX) and entry.is_file():
                require_inside(path, root)
                yield path
            elif depth and entry.is_dir():
                require_inside(path, root)
                yield from _below(path, root, depth - 1)


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _is_lora(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as tensors:
            return any(mark in name for name in tensors.keys() for mark in _LORA_MARKS)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        reason = one_line(str(error))
        raise HubError(
            f"{path} is no safetensors file: {reason}", hint="download or copy it again"
        ) from None


def _none(folder: Path) -> HubError:
    if any(path.suffix in _PICKLES for path in folder.rglob("*")):
        return HubError(
            f"{folder} holds weights only as pickles, which can run any program when loaded",
            hint="save the model as safetensors: pipeline.save_pretrained(folder)",
        )
    below = next(iter(sorted(folder.glob(f"*/*{_SUFFIX}"))), None)
    if below is not None:
        return HubError(
            f"{folder} holds no weights but in folders below",
            hint=f"put the file that is meant beside them: cp {shlex.quote(str(below))} "
            f"{shlex.quote(str(folder))}",
        )
    return HubError(
        f"{folder} holds no weights",
        hint=f"put a diffusers folder, a LoRA ({_LORA_NAME}) or one .safetensors file there",
    )
