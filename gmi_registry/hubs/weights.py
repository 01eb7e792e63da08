"""Which files of a model's folder are its weights, and what kind of model they make."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.errors import AuthError, HubError, OfflineError, RateLimitError
from gmi_registry.hubs.files import read_plain, require_inside
from gmi_registry.hubs.selection import (
    INDEX_NAME,
    WEIGHT_SUFFIXES,
    FileSelection,
    RepoFile,
    check_shard_index,
    is_shard_index,
    select_pipeline,
    select_weights,
)
from gmi_registry.model import Kind
from gmi_registry.spec import SPEC_DIR, ModelRef
from gmi_registry.weights import (
    HEADER_LIMIT,
    FileKind,
    Header,
    WeightsFile,
    WeightsFormatError,
    header_from_bytes,
    header_length,
    identify_file,
    require_described,
)

_INDEX_LIMIT = 1024 * 1024
_SHARD_INDEX_LIMIT = 64 * 1024 * 1024
# A training run puts a whole pipeline into a folder of its own; nobody nests deeper than this.
_DEPTH = 6
_MOST_FILES = 50_000
_FIRST_RANGE = 256 * 1024
_KINDS: Mapping[FileKind, Kind] = {
    "checkpoint": "single-file",
    "network": "single-file",
    "lora": "lora",
    "lycoris": "lora",
    "textual-inversion": "textual-inversion",
}
_OWN_PARTS = {"network", "vae", "text-encoder"}
_SD3_TEXT_ENCODERS = 3
# A LoRA on a LoRA is odd already; a chain this long is a mistake or a trap.
_LONGEST_CHAIN = 8
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundWeights:
    """``path`` is a folder or, for a single file, that file; ``files`` are sorted by ``names``.

    ``names`` are the files' paths relative to the model's folder, with ``/``; ``main`` is the file
    that says what the model is, of a pipeline any.
    """

    kind: Kind
    path: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    main: str


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
        place = folder / selection.first.path
        kind = kind_of_file(place)
        if kind == "lora":
            selection = selection.joined(
                file for file in selection.beside if is_embedding(folder / file.path)
            )
        path = place if kind == "single-file" else folder
        if selection.network is not None:
            path = folder / selection.network
    for file in (*selection.weights, *selection.others):
        require_inside(folder / file.path, root)
    require_shards(str(folder), folder, selection, root)
    names = tuple(file.path for file in selection.weights)
    files_there = tuple(folder / name for name in names)
    return FoundWeights(kind, path, names, files_there, selection.first.path)


def all_weights(folder: Path, root: Path) -> Mapping[str, Path]:
    """Every weight file of a folder by its path in it, whichever of them is meant."""
    return {
        file.path: folder / file.path
        for file in _below(folder, root, _DEPTH)
        if file.path.endswith(WEIGHT_SUFFIXES)
    }


def require_shards(name: str, folder: Path, selection: FileSelection, root: Path | None) -> None:
    """Raise HubError where an index among the files of a model names a shard that is not there.

    Links are followed inside ``root``, and anywhere where that is None.
    """
    for file in selection.others:
        if is_shard_index(file.path):
            content = read_plain(folder / file.path, _SHARD_INDEX_LIMIT, root or True)
            inside = file.path.rpartition("/")[0]
            beside = (weight.path.rpartition("/") for weight in selection.weights)
            check_shard_index(
                f"{name}: {inside}" if inside else name,
                content,
                [own for place, _, own in beside if place == inside],
            )


def kind_of_file(path: Path, name: str | None = None) -> Kind:
    """What kind of model a file makes, by the names of its tensors; people call it ``name``.

    Raises HubError where no specification can be made of it, or where it is no weight file.
    """
    return described_kind(identify_file(path), name or str(path))


def is_embedding(path: Path) -> bool:
    """Whether a file holds the words that a text encoder was taught."""
    return identify_file(path).kind == "textual-inversion"


def described_kind(file: WeightsFile, name: str) -> Kind:
    """The kind of model that a file makes. Raises HubError where no specification is made of it."""
    require_described(file, name)
    return _KINDS[file.kind]


def require_no_circle(chain: tuple[str, ...], card: str) -> None:
    """Raise HubError where the last model of a ``chain`` of bases is in it already, or it is long.

    ``card`` is where the last one names its base.
    """
    if chain[-1] in chain[:-1] or len(chain) > _LONGEST_CHAIN:
        raise HubError(
            f"the base models go round in a circle, or on for too long: {' -> '.join(chain)}",
            hint=f"correct base_model in {card}",
        )


def needs_base_weights(file: WeightsFile) -> bool:
    """Whether a file is completed from the weights of its base, and not by its configuration alone.

    That is a network without text encoders or VAE, and whatever is put on a base.
    """
    if file.kind != "checkpoint" or not _OWN_PARTS.issubset(file.parts):
        return True
    # Some are shared without the largest of three text encoders.
    return file.architecture == "sd3" and len(file.text_encoders) < _SD3_TEXT_ENCODERS


def header_from_ranges(read: Callable[[int], bytes], size: int | None, name: str) -> Header | None:
    """The header of a file that is far away; ``read(n)`` gives its first ``n`` bytes.

    ``size`` is the file's (None: not known), ``name`` is for messages. None where it is malformed,
    since what arrived may be spoilt and only the whole file has a digest, and where its hub does
    not give out the beginning: then the whole file tells. Raises WeightsFormatError for a file of
    another format, and for one that is shorter than its header says; AuthError, OfflineError and
    RateLimitError of its hub.
    """
    try:
        return _header_from_ranges(read, size, name)
    except (WeightsFormatError, AuthError, OfflineError, RateLimitError):
        raise
    except HubError as error:
        _log.info("%s: its header cannot be read before the file: %s", name, error.message)
        return None


def _header_from_ranges(read: Callable[[int], bytes], size: int | None, name: str) -> Header | None:
    most = HEADER_LIMIT if size is None else min(size, HEADER_LIMIT)
    length = min(most, _FIRST_RANGE)
    while True:
        beginning = read(length)
        exact = header_length(beginning)
        try:
            if exact is None or exact <= len(beginning) or len(beginning) < length:
                return header_from_bytes(beginning, size=size, name=name)
        except WeightsFormatError as error:
            # The header of a GGUF file does not say how long it is.
            whole = length >= most or len(beginning) < length
            if error.damage != "cut-short" or whole or not beginning.startswith(b"GGUF"):
                if error.damage == "malformed":
                    return None
                raise
        length = min(most, 4 * length if exact is None else exact)


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
