"""Which files of a model's folder are its weights, and what kind of model they make."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.errors import HubError
from gmi_registry.hubs.confinement import read_plain, require_inside
from gmi_registry.hubs.selection import (
    INDEX_NAME,
    LORA_NAME,
    WEIGHT_SUFFIXES,
    RepoFile,
    Selection,
    check_shard_index,
    is_shard_index,
    select_pipeline,
    select_weights,
)
from gmi_registry.model import Kind
from gmi_registry.sanitize import one_line
from gmi_registry.spec import SPEC_DIR, ModelRef

__all__ = ["FoundWeights", "all_weights", "find_weights", "kind_of_file", "require_shards"]

_INDEX_LIMIT = 1024 * 1024
_SHARD_INDEX_LIMIT = 64 * 1024 * 1024
# Of diffusers and peft, of kohya's scripts, and of the LyCORIS family.
_LORA_MARKS = (".lora_A.", ".lora_B.", "lora_up.", "lora_down.", ".lora.", ".hada_w", ".lokr_w")
# A training run puts a whole pipeline into a folder of its own; nobody nests deeper than this.
_DEPTH = 6
_MOST_FILES = 50_000


@dataclass(frozen=True)
class FoundWeights:
    """``path`` is a folder or, for a single file, that file; ``files`` are sorted by ``names``.

    ``names`` are the files' paths relative to the model's folder, with ``/``.
    """

    kind: Kind
    path: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]


def find_weights(folder: Path, root: Path, ref: ModelRef) -> FoundWeights:
    """The weights in ``folder``, which holds the model ``ref`` of the hub in ``root``.

    A folder with ``model_index.json`` is a checkpoint, unless ``ref`` names a file. Otherwise the
    weights that :func:`.select_weights` chooses are a LoRA, by its usual name or by the names of
    its tensors, or else a whole model or a network. Every file that is used must lie in ``root``
    once links are followed. Raises HubError where there are none, several, only pickles, a file
    that is no safetensors file, or a link that leads out.
    """
    files = list(_below(folder, root, _DEPTH))
    if ref.file is None and (folder / INDEX_NAME).is_file():
        selection = select_pipeline(str(folder), files, _index(folder, root))
        kind: Kind = "checkpoint"
        path = folder
    else:
        options = f" --hub {shlex.quote(str(root))}"
        selection = select_weights(ref, files, options=options)
        place = folder / selection.weights[0].path
        kind = "single-file" if selection.network is not None else kind_of_file(place)
        path = folder if kind == "lora" else place
        if selection.network is not None:
            path = folder / selection.network
    for file in (*selection.weights, *selection.others):
        require_inside(folder / file.path, root)
    require_shards(str(folder), folder, selection, root)
    names = tuple(file.path for file in selection.weights)
    return FoundWeights(kind, path, names, tuple(folder / name for name in names))


def all_weights(folder: Path, root: Path) -> Mapping[str, Path]:
    """Every weight file of a folder by its path in it, whichever of them is meant."""
    return {
        file.path: folder / file.path
        for file in _below(folder, root, _DEPTH)
        if file.path.endswith(WEIGHT_SUFFIXES)
    }


def require_shards(name: str, folder: Path, selection: Selection, root: Path) -> None:
    """Raise HubError where an index among the files of a model names a shard that is not there."""
    for file in selection.others:
        if is_shard_index(file.path):
            content = read_plain(folder / file.path, _SHARD_INDEX_LIMIT, root)
            inside = file.path.rpartition("/")[0]
            beside = (weight.path.rpartition("/") for weight in selection.weights)
            check_shard_index(
                f"{name}: {inside}" if inside else name,
                content,
                [own for place, _, own in beside if place == inside],
            )


def kind_of_file(path: Path) -> Kind:
    """``lora`` or ``single-file``, by the file's usual name or the names of its tensors.

    Raises HubError where it is no safetensors file.
    """
    return "lora" if path.name == LORA_NAME or _is_lora(path) else "single-file"


def _index(folder: Path, root: Path) -> Mapping[str, object]:
    try:
        index = json.loads(read_plain(folder / INDEX_NAME, _INDEX_LIMIT, root))
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise HubError(
            f"{folder / INDEX_NAME} is not a JSON object",
            hint="save the pipeline again: pipeline.save_pretrained(folder)",
        )
    return index


def _below(folder: Path, root: Path, depth: int) -> Iterator[RepoFile]:
    """All files of a model but its specification and hidden ones, with sizes in bytes."""
    pending, count = [(folder, "", depth)], 0
    while pending:
        here, prefix, left = pending.pop()
        with os.scandir(here) as entries:
            for entry in entries:
                count += 1
                if count > _MOST_FILES:
                    raise HubError(
                        f"{folder} holds more than {_MOST_FILES:,} files",
                        hint="keep only the model's files there",
                    )
                if entry.name.startswith(".") or (not prefix and entry.name == SPEC_DIR):
                    continue
                path = f"{prefix}{entry.name}"
                if entry.is_file():
                    if entry.name.endswith(WEIGHT_SUFFIXES):
                        require_inside(Path(entry.path), root)
                    yield RepoFile(path, entry.stat().st_size)
                elif left and entry.is_dir():
                    require_inside(Path(entry.path), root)
                    pending.append((Path(entry.path), f"{path}/", left - 1))


def _is_lora(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    if path.suffix == ".gguf":
        return False
    try:
        with safe_open(path, framework="numpy") as tensors:
            return any(mark in name for name in tensors.keys() for mark in _LORA_MARKS)  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        reason = one_line(str(error))
        raise HubError(
            f"{path} is no safetensors file: {reason}", hint="download or copy it again"
        ) from None
