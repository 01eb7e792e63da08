"""Which files of a repository generation needs, told from their names alone."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from gmi_registry.errors import HubError, InputError
from gmi_registry.sanitize import one_line
from gmi_registry.spec import ModelRef

__all__ = ["INDEX_NAME", "LORA_NAME", "RepoFile", "Selection", "select_pipeline", "select_root"]

INDEX_NAME = "model_index.json"
LORA_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA's file."""

_SUFFIX = ".safetensors"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# A tokenizer's chat template is a file of its own.
_CONFIGS = (".json", ".txt", ".model", ".jinja")
# "fp16" stands before or after the number of a shard, by the library that wrote it.
_WEIGHT = re.compile(
    r"(?P<base>[A-Za-z0-9_-]+?)"
    r"(?:\.(?P<before>[A-Za-z0-9_]+))?(?P<shard>-[0-9]{5}-of-[0-9]{5})?(?:\.(?P<after>[A-Za-z0-9_]+))?"
    r"\.safetensors"
)
_INDEX = re.compile(
    r"(?P<base>[A-Za-z0-9_-]+?)(?:\.(?P<before>[A-Za-z0-9_]+))?"
    r"\.safetensors\.index(?:\.(?P<after>[A-Za-z0-9_]+))?\.json"
)
_SHARD = re.compile(r"-[0-9]{5}-of-[0-9]{5}\.")
_BASES = ("diffusion_pytorch_model", "model")
_HALF = "fp16"
_COMPONENT = re.compile(r"[A-Za-z0-9_]+")
# It would put black pictures into a specification, and is not loaded.
_UNUSED = frozenset({"safety_checker"})
_MOST_WEIGHTS = 200
_MOST_COMMANDS = 6


@dataclass(frozen=True)
class RepoFile:
    """A file as the hub describes it: bytes, and SHA-256 (hex) where it is stored as a large one.

    ``size`` and ``sha256`` are None where the hub did not say.
    """

    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Selection:
    """``weights`` and ``others`` are sorted by path, and nothing else is downloaded."""

    weights: tuple[RepoFile, ...]
    others: tuple[RepoFile, ...]


def select_pipeline(
    name: str, files: Iterable[RepoFile], index: Mapping[str, object], *, weights: bool = True
) -> Selection:
    """The files of a diffusers pipeline whose ``model_index.json`` is ``index``.

    Of each component that it names: the configuration, and one set of safetensors files. Full
    precision is taken where every component has it, else ``fp16`` where every one has that, and
    whole files before shards. ``weights=False`` is for a base model whose configuration alone is
    used. Raises HubError, with ``name`` in it, where a component has only pickles, or where no one
    precision is there for all.
    """
    by_folder = _by_folder(files)
    root = [file for file in by_folder.get("", ()) if file.path == INDEX_NAME]
    chosen: dict[str, dict[str | None, list[RepoFile]]] = {}
    configs: dict[str, list[RepoFile]] = {}
    for component in sorted(_components(index)):
        inside = by_folder.get(component, [])
        sets = _weight_sets(inside)
        configs[component] = [
            file
            for file in inside
            if file.path.endswith(_CONFIGS) and not _INDEX.fullmatch(PurePosixPath(file.path).name)
        ]
        if sets:
            chosen[component] = sets
        elif weights and any(file.path.endswith(_PICKLES) for file in inside):
            raise _pickled(f"{name}: {component}")
    others = [*root, *(file for found in configs.values() for file in found)]
    if not weights:
        return Selection((), _sorted(others))
    if not chosen:
        raise _none(name)
    variant = _variant(name, chosen)
    for component, sets in chosen.items():
        if any(_SHARD.search(file.path) for file in sets[variant]):
            others += _shard_index(by_folder[component], variant)
    weight_files = _sorted(file for sets in chosen.values() for file in sets[variant])
    if len(weight_files) > _MOST_WEIGHTS:
        raise HubError(
            f"{name} has {len(weight_files)} weight files, more than {_MOST_WEIGHTS}",
            hint="save it in larger shards: save_pretrained(folder, max_shard_size='5GB')",
        )
    return Selection(weight_files, _sorted(others))


def select_root(
    name: str, files: Iterable[RepoFile], *, file: str | None = None, revision: str | None = None
) -> Selection:
    """The one weight file at the root of a repository: a LoRA or a whole model.

    It is ``file`` where that is named, else the only one, else the one with a LoRA's usual name.
    ``name`` (``hf:owner/name``) and ``revision`` are for the commands in the hints. Raises HubError
    where there is none, only pickles, or several and nothing says which.
    """
    files = list(files)
    here = _by_folder(files).get("", [])
    safe = _sorted(other for other in here if other.path.endswith(_SUFFIX))
    if not safe:
        if any(other.path.endswith(_PICKLES) for other in here):
            raise _pickled(name)
        raise _none(name, _sorted(other for other in files if other.path.endswith(_SUFFIX)))
    wanted = LORA_NAME if file is None else file
    picked = [other for other in safe if other.path == wanted]
    if file is None and not picked:
        picked = list(safe)
    if len(picked) != 1:
        names = ", ".join(other.path for other in safe[:4])
        unclear = f"{len(safe)} weight files ({names}), and which is meant is unclear"
        raise HubError(
            f"{name} holds {unclear if file is None else f'no {file} at its root'}",
            hint=f"name one: {_commands(name, safe, revision)}",
        )
    return Selection(tuple(picked), ())


def _commands(name: str, files: Iterable[RepoFile], revision: str | None) -> str:
    """What to run for each of some files; they are named by anybody, and a shell reads this."""
    typed = []
    for other in files:
        with contextlib.suppress(InputError):
            typed.append(str(replace(ModelRef.parse(name), revision=revision, file=other.path)))
    shown = " or ".join(f"gmi-publish {shlex.quote(text)}" for text in typed[:_MOST_COMMANDS])
    more = len(typed) - _MOST_COMMANDS
    return (shown or "no name can be typed") + (f" or {more} more" if more > 0 else "")


def _components(index: Mapping[str, object]) -> list[str]:
    return [
        name
        for name, value in index.items()
        if isinstance(value, list)
        and len(value) == 2
        and value[0] is not None
        and name not in _UNUSED
        and not name.startswith("_")
        and _COMPONENT.fullmatch(name)
    ]


def _by_folder(files: Iterable[RepoFile]) -> dict[str, list[RepoFile]]:
    """Files by the folder they are in; what lies deeper, or under an odd name, is never needed."""
    found: dict[str, list[RepoFile]] = {}
    for file in files:
        folder, _, name = file.path.rpartition("/")
        if "/" in folder or not name or name.startswith(".") or "\\" in name or ":" in name:
            continue
        found.setdefault(folder, []).append(file)
    return found


def _weight_sets(files: Iterable[RepoFile]) -> dict[str | None, list[RepoFile]]:
    """Complete sets of weights by variant (None: full precision), whole files before shards."""
    whole: dict[tuple[str, str | None], list[RepoFile]] = {}
    shards: dict[tuple[str, str | None], list[RepoFile]] = {}
    for file in files:
        match = _WEIGHT.fullmatch(PurePosixPath(file.path).name)
        if match is None:
            continue
        key = (match["base"], match["before"] or match["after"])
        (shards if match["shard"] else whole).setdefault(key, []).append(file)
    together = shards | whole
    bases = {base for base, _ in together}
    base = next((usual for usual in _BASES if usual in bases), min(bases, default=""))
    return {variant: found for (name, variant), found in together.items() if name == base}


def _variant(name: str, chosen: Mapping[str, Mapping[str | None, object]]) -> str | None:
    for variant in (None, _HALF):
        if all(variant in sets for sets in chosen.values()):
            return variant
    lacking = ", ".join(component for component, sets in chosen.items() if None not in sets)
    raise HubError(
        f"{name}: {lacking} has no full precision, and not every other component has {_HALF}",
        hint="publish all components in one precision: pipeline.save_pretrained(folder)",
    )


def _shard_index(files: Iterable[RepoFile], variant: str | None) -> list[RepoFile]:
    found = []
    for file in files:
        match = _INDEX.fullmatch(PurePosixPath(file.path).name)
        if match is not None and (match["before"] or match["after"]) == variant:
            found.append(file)
    return found


def _sorted(files: Iterable[RepoFile]) -> tuple[RepoFile, ...]:
    return tuple(sorted(files, key=lambda file: file.path))


def _pickled(what: str) -> HubError:
    return HubError(
        f"{what} holds weights only as pickles, which can run any program when loaded",
        hint="save the model as safetensors: pipeline.save_pretrained(folder)",
    )


def _none(name: str, below: Sequence[RepoFile] = ()) -> HubError:
    if below:
        return HubError(
            f"{name} holds no weights but in folders, such as {one_line(below[0].path)}",
            hint="a LoRA or a model in one file is read at the root of a repository: it has to be "
            "copied there",
        )
    return HubError(
        f"{name} holds no weights",
        hint=f"name a diffusers model, a LoRA ({LORA_NAME}) or a single .safetensors file",
    )
