"""Which files of a repository or folder generation needs, decided by their names alone.

Hugging Face and a hub in a folder choose by these rules alike. What a chosen file *is* is decided
by its header, elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from gmi_registry.errors import HubError, InputError
from gmi_registry.sanitize import one_line
from gmi_registry.spec import SPEC_DIR, ModelRef
from gmi_registry.spec.reference import unprintable

INDEX_NAME = "model_index.json"
LORA_NAME = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA's file."""
NETWORK_CONFIG = "config.json"

WEIGHT_SUFFIXES = (".safetensors", ".gguf")
"""Formats that hold numbers and nothing that runs."""
_SAFE, _GGUF = WEIGHT_SUFFIXES
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
# Of a component everything is taken that its library may read, but for these: weights that were not
# chosen or are of other frameworks, programs, pictures and packed files.
_NOT_CONFIGURATION = frozenset(
    {
        *WEIGHT_SUFFIXES, *_PICKLES,
        ".msgpack", ".h5", ".hdf5", ".onnx", ".onnx_data", ".pb", ".tflite", ".mlmodel", ".npz",
        ".npy", ".ot", ".xml", ".engine", ".plan", ".mar", ".tensors", ".data", ".nemo", ".joblib",
        ".py", ".pyc", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1", ".js",
        ".ipynb", ".whl", ".jar",
        ".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".svg", ".mp4", ".webm",
        ".mov", ".avi", ".mp3", ".wav", ".pdf", ".md", ".html",
        ".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".zst", ".incomplete", ".lock",
    }
)  # fmt: skip
# "fp16" stands before or after the number of a shard, by the library that wrote it.
_WEIGHT = re.compile(
    r"(?P<base>[^.]+?)"
    r"(?:\.(?P<before>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)?))?"
    r"(?:-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5}))?"
    r"(?:\.(?P<after>[A-Za-z0-9_]+))?"
    r"\.(?:safetensors|gguf)"
)
_INDEX = re.compile(
    r"(?P<base>[^.]+?)(?:\.(?P<before>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)?))?"
    r"\.safetensors\.index(?:\.(?P<after>[A-Za-z0-9_.]+))?\.json"
)
_DIFFUSERS_BASE, _TRANSFORMERS_BASE = "diffusion_pytorch_model", "model"
# In this order, where full precision is not there. The plain files of a training run hold its
# averaged weights already ("ema"), which is what people generate with.
_PRECISIONS = ("fp32", "bf16", "fp16")
_AVERAGES = ("ema", "non_ema")
_COMPONENT = re.compile(r"[A-Za-z0-9_]+")
# It would put black pictures into a specification, and is not loaded.
_UNUSED = frozenset({"safety_checker"})
# Parts of a pipeline that have no weights, by their classes' names.
_WEIGHTLESS = re.compile(r"Tokenizer|Scheduler|(?:Processor|Extractor)(?:Fast)?$")
# What a training run leaves beside its result. diffusers passes over these words, too.
_TRAINING_STATE = ("optimizer", "scheduler", "random_states", "rng_state")
_CHECKPOINT = "checkpoint"
# What pivotal tuning writes beside a LoRA: the embeddings of the words that it taught.
_EMBEDDING = re.compile(r"(?:.*[_.-])?emb(?:s|edding|eddings)?\.safetensors", re.IGNORECASE)
_NETWORK_FOLDERS = frozenset({"", "unet", "transformer", "prior"})
_PARTS = frozenset(
    {"unet", "transformer", "prior", "vae", "movq", "text_encoder", "text_encoder_2"}
)
_MOST_WEIGHTS = 200
_MOST_COMMANDS = 6
_DEEPEST = 8
_LONGEST_PATH = 300
_LARGEST_UNKNOWN = 16 * 1024 * 1024
_KNOWN_CONFIGURATION = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True)
class RepoFile:
    """A file as the hub describes it: bytes, and SHA-256 (hex) where it is stored as a large one.

    ``size`` and ``sha256`` are None where the hub did not say.
    """

    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class FileSelection:
    """``weights`` and ``others`` are sorted by path, and nothing else is downloaded.

    ``network`` is the folder (``""``: the root) of a network that diffusers saved by itself, with
    its configuration; None for everything else. ``main`` is the weight file that says what the
    model is, None in a pipeline; ``beside`` are those in its folder that hold, by their names, the
    words that were taught together with a LoRA: whether they do, their headers say.
    """

    weights: tuple[RepoFile, ...]
    others: tuple[RepoFile, ...]
    network: str | None = None
    main: RepoFile | None = None
    beside: tuple[RepoFile, ...] = ()

    @property
    def first(self) -> RepoFile:
        """The file that says what the model is; of a pipeline any."""
        return self.weights[0] if self.main is None else self.main

    def joined(self, more: Iterable[RepoFile]) -> FileSelection:
        """With more weight files, which belong to the main one."""
        return replace(self, weights=_sorted((*self.weights, *more)))


@dataclass(frozen=True)
class _WeightSet:
    """One variant of some weights: a whole file, or all shards of one; ``missing`` are names."""

    files: tuple[RepoFile, ...]
    missing: tuple[str, ...] = ()
    sharded: bool = False


@dataclass(frozen=True)
class _Candidate:
    """Files of which one model may be: ``path`` is what people name it by.

    ``stem`` is what its variants have in common, and ``variant`` is its own.
    """

    path: str
    weights: _WeightSet
    stem: str
    variant: str | None
    others: tuple[RepoFile, ...] = ()
    network: str | None = None

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


def select_pipeline(
    name: str, files: Iterable[RepoFile], index: Mapping[str, object], *, weights: bool = True
) -> FileSelection:
    """The files of a diffusers pipeline whose ``model_index.json`` is ``index``.

    Of each component that it names: all but weights, and one set of safetensors files. Full
    precision is taken where every component has it; else one variant that all have; else of each
    component full precision where it is there, and a variant where it is not. Whole files are taken
    before shards. ``weights=False`` is for a base model whose configuration alone is used. Raises
    HubError, with ``name`` in it, where a component has only pickles, no weights, or lacks a shard.
    """
    by_folder = _by_folder(files)
    others = [file for file in by_folder.get("", ()) if file.path == INDEX_NAME]
    chosen: dict[str, dict[str | None, _WeightSet]] = {}
    components = dict(sorted(_components(index).items()))
    for component in components:
        others += _configuration(component, by_folder)
    if not weights:
        return FileSelection((), _sorted(others))
    for component, (library, _) in components.items():
        inside = by_folder.get(component, [])
        sets = _usual(_weight_sets(inside), library)
        if sets:
            chosen[component] = sets
        elif any(file.path.lower().endswith(_PICKLES) for file in inside):
            raise _pickled(f"{name}: {component}")
    if not chosen:
        raise _none(name, f" in the folders that its {INDEX_NAME} names")
    for component, (_, class_name) in components.items():
        if component not in chosen:
            _require_weightless(name, component, class_name, by_folder.get(component, []))
    variants = _variants(name, chosen)
    picked = {component: sets[variants[component]] for component, sets in chosen.items()}
    for component, those in picked.items():
        _require_complete(f"{name}: {component}", those)
        if those.sharded:
            others += _shard_indexes(by_folder[component], variants[component])
    weight_files = _sorted(file for those in picked.values() for file in those.files)
    if len(weight_files) > _MOST_WEIGHTS:
        raise HubError(
            f"{name} has {len(weight_files)} weight files, more than {_MOST_WEIGHTS}",
            hint="save it in larger shards: save_pretrained(folder, max_shard_size='5GB')",
        )
    return FileSelection(weight_files, _sorted(others))


def select_weights(ref: ModelRef, files: Iterable[RepoFile], *, options: str = "") -> FileSelection:
    """The weights that are meant where there is no ``model_index.json``, or ``ref`` names a file.

    ``ref.file`` is a path, or a pattern (``*v2*.safetensors``) that fits exactly one. Without it
    that is a LoRA under its usual name at the root; else the only file at the root; else the only
    one in the folders below, before those of a training run (``checkpoint-500``). Optimizers'
    states do not count beside others, nor a ``.fp16`` or ``.ema`` variant beside the plain file,
    nor GGUF beside safetensors. A network that diffusers saved with its ``config.json``, in shards
    or whole, is one candidate.

    ``options`` end the commands in the hints. Raises HubError where there is none, only pickles, or
    several and nothing says which.
    """
    name, file = str(ref.repository), ref.file
    by_folder = _by_folder(files)
    candidates = sorted(_candidates(by_folder), key=lambda it: (it.path.count("/"), it.path))
    if not candidates:
        here = [file for inside in by_folder.values() for file in inside]
        if any(file.path.lower().endswith(_PICKLES) for file in here):
            raise _pickled(name)
        raise _none(name)
    if file is None:
        _require_no_parts(name, by_folder)
        picked = _meant(_best_variants(candidates))
        what = f"{len(picked)} weight files ({_names(picked)}), and which is meant is unclear"
    else:
        picked, what = _matching(candidates, file)
    if len(picked) != 1:
        shown = picked or _best_variants(candidates)
        raise HubError(f"{name} holds {what}", hint=f"name one: {_commands(ref, shown, options)}")
    found = picked[0]
    _require_complete(name, found.weights)
    if found.weights.sharded and found.network is None:
        raise HubError(
            f"{name}: {one_line(found.path)} is one of {len(found.weights.files)} shards, which "
            f"are read only with a config.json of diffusers beside them",
            hint="name a model in one file, or a whole pipeline with model_index.json",
        )
    files_there = found.weights.files
    beside = [
        other
        for other in by_folder[found.folder]
        if other not in files_there and _names_embedding(other.path) and found.network is None
    ]
    return FileSelection(
        _sorted(files_there),
        _sorted(found.others),
        found.network,
        files_there[0],
        () if _names_embedding(found.path) else _sorted(beside),
    )


def main_file(paths: Sequence[str]) -> str | None:
    """Of the weight files of a LoRA, or of another model in one file, the one that people name.

    None for a model that has several.
    """
    found = [path for path in paths if not _names_embedding(path)] or list(paths)
    return found[0] if len(found) == 1 else None


def is_plain_path(path: str) -> bool:
    """Whether a path of a repository stays inside it and can be printed: nobody needs others."""
    parts = path.split("/")
    return (
        len(path) <= _LONGEST_PATH
        and len(parts) <= _DEEPEST
        and not any(not part or part.startswith(".") for part in parts)
        and not any(bad in path for bad in ("\\", ":"))
        and unprintable(path) is None
    )


def is_shard_index(path: str) -> bool:
    """Whether a file says which tensors are in which shard."""
    return _INDEX.fullmatch(PurePosixPath(path).name) is not None


def check_shard_index(name: str, content: bytes, weights: Iterable[str]) -> None:
    """Raise HubError where the index of some shards, ``content``, names one that is not there.

    ``weights`` are the names of the files in its folder that are used. An index that cannot be read
    says nothing: the shards themselves do.
    """
    try:
        named = set(json.loads(content)["weight_map"].values())
        missing = sorted(named - set(weights))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    if missing:
        raise HubError(
            f"{name} lacks {one_line(str(missing[0]), 120)}, which the index of its shards names",
            hint="download or upload the missing file, then try again",
        )


def _require_no_parts(name: str, by_folder: Mapping[str, Sequence[RepoFile]]) -> None:
    """Raise HubError where a pipeline is in another folder than the root, or lacks its index.

    Else its parts would be several files of which none is a model.
    """
    if any(file.path.endswith(WEIGHT_SUFFIXES) for file in by_folder.get("", ())):
        return
    inside = sorted(
        folder
        for folder, files in by_folder.items()
        if folder and any(file.path == f"{folder}/{INDEX_NAME}" for file in files)
    )
    if inside:
        shown = ", ".join(one_line(folder) for folder in inside[:4])
        raise HubError(
            f"{name} holds a pipeline in a folder ({shown}), and pipelines are read only at the "
            f"root",
            hint="publish each pipeline in a repository of its own, with its index at the root",
        )
    parts = sorted(_PARTS & set(by_folder))
    if len(parts) > 1:
        raise HubError(
            f"{name} holds parts of a pipeline ({', '.join(parts)}) without its {INDEX_NAME}",
            hint="publish the pipeline as a whole: pipeline.save_pretrained(folder); or name one "
            "weight file",
        )


def _matching(candidates: Sequence[_Candidate], file: str) -> tuple[list[_Candidate], str]:
    """The candidates that a path or a pattern means, and what is wrong unless that is one."""
    exact = [it for it in candidates if any(file == weight.path for weight in it.weights.files)]
    if exact:
        return exact, ""
    if not any(mark in file for mark in "*?["):
        return [], f"no {one_line(file)}"
    fitting = [
        it
        for it in candidates
        if any(fnmatchcase(weight.path, file) for weight in it.weights.files)
    ]
    picked = _results(_best_variants(fitting))
    if not picked:
        return [], f"no weight file like {one_line(file)}"
    return picked, f"{len(picked)} weight files like {one_line(file)} ({_names(picked)})"


def _meant(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Those that are as good as each other where nobody says which."""
    usual = [it for it in candidates if it.path == LORA_NAME]
    if usual:
        return usual
    candidates = _results(candidates)
    root = [it for it in candidates if not it.folder]
    checkpoints = [it for it in candidates if _CHECKPOINT in it.folder.lower()]
    result = [it for it in candidates if it not in checkpoints]
    tier = root or result or checkpoints
    return [it for it in tier if it.path.endswith(_SAFE)] or tier


def _names_embedding(path: str) -> bool:
    return _EMBEDDING.fullmatch(PurePosixPath(path).name) is not None


def _best_variants(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Of candidates that are the same but for their precision, the best; in their order."""
    best: dict[str, _Candidate] = {}
    for it in candidates:
        known = best.get(it.stem)
        if known is None or _rank(it.variant) < _rank(known.variant):
            best[it.stem] = it
    return list(best.values())


def _results(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Those that a training run does not need to go on, and not the words that it taught beside a
    LoRA, unless that is all there is."""
    found = [
        it for it in candidates if not any(word in it.path.lower() for word in _TRAINING_STATE)
    ] or list(candidates)
    return [it for it in found if not _names_embedding(it.path)] or found


def _candidates(by_folder: Mapping[str, Sequence[RepoFile]]) -> Iterator[_Candidate]:
    for folder, inside in by_folder.items():
        configs = [file for file in inside if PurePosixPath(file.path).name == NETWORK_CONFIG]
        own_folder = folder.rpartition("/")[2] in _NETWORK_FOLDERS
        for base, sets in _weight_sets(inside).items():
            network = folder if base == _DIFFUSERS_BASE and configs and own_folder else None
            for variant, found in sets.items():
                others = [] if network is None else configs
                if network is not None and found.sharded:
                    others = [*configs, *_shard_indexes(inside, variant)]
                yield _Candidate(
                    found.files[0].path,
                    found,
                    f"{folder}/{base}",
                    variant,
                    tuple(others),
                    network,
                )


def _rank(variant: str | None) -> tuple[int, int, str]:
    """Full precision first, then what is nearest to it; averages and unknown words last."""
    words = [] if variant is None else variant.split(".")
    average = max((1 + _AVERAGES.index(word) for word in words if word in _AVERAGES), default=0)
    rest = [word for word in words if word not in _AVERAGES]
    known = [_PRECISIONS.index(word) for word in rest if word in _PRECISIONS]
    precision = 0 if not rest else 1 + known[0] if known else 1 + len(_PRECISIONS)
    return average, precision, variant or ""


def _names(candidates: Sequence[_Candidate]) -> str:
    shown = ", ".join(one_line(it.path) for it in candidates[:4])
    return shown + (", …" if len(candidates) > 4 else "")


def _commands(ref: ModelRef, candidates: Iterable[_Candidate], options: str) -> str:
    """What to run for each of some files; they are named by anybody, and a shell reads this."""
    typed = []
    for it in candidates:
        with contextlib.suppress(InputError):
            typed.append(shlex.quote(str(replace(ref, file=it.path))) + options)
    shown = " or ".join(f"gmi-publish {text}" for text in typed[:_MOST_COMMANDS])
    more = len(typed) - _MOST_COMMANDS
    return (shown or "rename a file first, since no name here can be typed") + (
        f" or {more} more" if more > 0 else ""
    )


def _components(index: Mapping[str, object]) -> dict[str, tuple[str, str]]:
    """Library and class of each component that is loaded."""
    return {
        name: (str(value[0]), str(value[1]))
        for name, value in index.items()
        if isinstance(value, list)
        and len(value) == 2
        and value[0] is not None
        and name not in _UNUSED
        and not name.startswith("_")
        and _COMPONENT.fullmatch(name)
    }


def _by_folder(files: Iterable[RepoFile]) -> dict[str, list[RepoFile]]:
    """Files by the folder they are in; what lies very deep, or under an odd name, is not needed."""
    found: dict[str, list[RepoFile]] = {}
    for file in files:
        folder = file.path.rpartition("/")[0]
        if is_plain_path(file.path) and file.path.partition("/")[0] != SPEC_DIR:
            found.setdefault(folder, []).append(file)
    return found


def _configuration(
    component: str, by_folder: Mapping[str, Sequence[RepoFile]]
) -> Iterator[RepoFile]:
    """All of a component but weights, whatever its library called it; also in folders below, such
    as a tokenizer's ``additional_chat_templates``."""
    for folder, inside in by_folder.items():
        if folder != component and not folder.startswith(f"{component}/"):
            continue
        for file in inside:
            name = PurePosixPath(file.path).name
            if is_shard_index(name):
                continue
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in _KNOWN_CONFIGURATION or (
                suffix not in _NOT_CONFIGURATION
                and (file.size is None or file.size <= _LARGEST_UNKNOWN)
            ):
                yield file


def _weight_sets(files: Iterable[RepoFile]) -> dict[str, dict[str | None, _WeightSet]]:
    """Sets of weights by the name before the variant, and by variant (None: full precision).

    Whole files come before shards, and complete sets before others.
    """
    whole: dict[tuple[str, str | None], RepoFile] = {}
    shards: dict[tuple[str, str | None], dict[int, list[RepoFile]]] = {}
    for file in files:
        name = PurePosixPath(file.path).name
        if not name.endswith(WEIGHT_SUFFIXES):
            continue
        base, variant, total = _parsed(name)
        if total is None:
            whole[base, variant] = file
        else:
            shards.setdefault((base, variant), {}).setdefault(total, []).append(file)
    found: dict[str, dict[str | None, _WeightSet]] = {}
    for (base, variant), by_total in shards.items():
        sets = [_sharded(inside, total) for total, inside in by_total.items()]
        best = min(sets, key=lambda it: (len(it.missing), -len(it.files)))
        found.setdefault(base, {})[variant] = best
    for (base, variant), file in whole.items():
        found.setdefault(base, {})[variant] = _WeightSet((file,))
    return found


def _parsed(name: str) -> tuple[str, str | None, int | None]:
    """What a weight file's name is before its variant, the variant, and of how many shards it is.

    Only a known word is a variant in a name of its author's own: ``style.v2.safetensors`` is none.
    """
    match = _WEIGHT.fullmatch(name)
    stem = name.rpartition(".")[0]
    if match is None:
        return (name if name.endswith(_GGUF) else stem), None, None
    variant = match["before"] or match["after"]
    total = int(match["total"]) if match["total"] else None
    usual = match["base"] in (_DIFFUSERS_BASE, _TRANSFORMERS_BASE)
    known = variant is not None and all(
        word in _PRECISIONS + _AVERAGES for word in variant.split(".")
    )
    if name.endswith(_GGUF):
        # Quants are named in many ways, and none of them stands for another, nor for safetensors.
        return (name, None, None) if total is None else (f"{match['base']}{_GGUF}", variant, total)
    if variant is None or usual or known:
        return match["base"], variant, total
    return (stem, None, None) if total is None else (f"{match['base']}.{variant}", None, total)


def _sharded(inside: Sequence[RepoFile], total: int) -> _WeightSet:
    numbers = {}
    for file in inside:
        match = _WEIGHT.fullmatch(PurePosixPath(file.path).name)
        assert match is not None
        numbers[int(match["number"])] = file
    first = PurePosixPath(inside[0].path).name
    missing = [
        re.sub(r"-[0-9]{5}-of-", f"-{number:05d}-of-", first)
        for number in range(1, min(total, _MOST_WEIGHTS) + 1)
        if number not in numbers
    ]
    files = tuple(numbers[number] for number in sorted(numbers))
    return _WeightSet(files, tuple(missing), sharded=True)


def _usual(
    sets: Mapping[str, dict[str | None, _WeightSet]], library: str
) -> dict[str | None, _WeightSet]:
    """Those under the name that the component's library loads."""
    bases = [_DIFFUSERS_BASE, _TRANSFORMERS_BASE]
    if library == "transformers":
        bases.reverse()
    for base in bases:
        if base in sets:
            return sets[base]
    return {}


def _require_weightless(
    name: str, component: str, class_name: str, inside: Sequence[RepoFile]
) -> None:
    """Raise HubError where a component that has weights has none here."""
    if not class_name or _WEIGHTLESS.search(class_name):
        return
    here = {PurePosixPath(file.path).name for file in inside}
    if not inside or NETWORK_CONFIG in here:
        what = "lacks the folder" if not inside else "holds no weights in"
        raise HubError(
            f"{name} {what} {component} ({one_line(class_name, 80)}), which its {INDEX_NAME} names",
            hint="publish the pipeline with all of its parts: pipeline.save_pretrained(folder)",
        )


def _variants(
    name: str, chosen: Mapping[str, Mapping[str | None, _WeightSet]]
) -> dict[str, str | None]:
    """The variant of each component's weights. Raises HubError where nothing says which."""
    common = set.intersection(*(set(sets) for sets in chosen.values()))
    best = min(common, key=_rank, default=None)
    if best in common and _rank(best) < (1,) and _rank(best)[1] <= len(_PRECISIONS):
        return dict.fromkeys(chosen, best)
    found = {}
    for component, sets in chosen.items():
        ranks = sorted(map(_rank, sets))
        found[component] = min(sets, key=_rank)
        if len(ranks) > 1 and ranks[0][:2] == ranks[1][:2]:
            words = ", ".join(str(rank[2]) for rank in ranks[:4])
            raise HubError(
                f"{name}: {component} has several variants ({words}), and which is meant is "
                "unclear",
                hint="publish one of them: pipeline.save_pretrained(folder)",
            )
    return found


def _require_complete(name: str, chosen: _WeightSet) -> None:
    if chosen.missing:
        more = f" and {len(chosen.missing) - 1} more" if len(chosen.missing) > 1 else ""
        raise HubError(
            f"{name} lacks the shard {one_line(chosen.missing[0])}{more}",
            hint="download or upload the missing file, then try again",
        )


def _shard_indexes(files: Iterable[RepoFile], variant: str | None) -> list[RepoFile]:
    found = []
    for file in files:
        match = _INDEX.fullmatch(PurePosixPath(file.path).name)
        if match is not None and (match["before"] or match["after"]) == variant:
            found.append(file)
    return found


def _sorted(files: Iterable[RepoFile]) -> tuple[RepoFile, ...]:
    return tuple(sorted(set(files), key=lambda file: file.path))


def _pickled(what: str) -> HubError:
    return HubError(
        f"{what} holds weights only as pickles, which can run any program when loaded",
        hint="save the model as safetensors: pipeline.save_pretrained(folder)",
    )


def _none(name: str, where: str = "") -> HubError:
    return HubError(
        f"{name} holds no weights{where}",
        hint=f"name a diffusers model, a LoRA ({LORA_NAME}) or a single .safetensors or .gguf file",
    )
