"""How a LoRA is put on its base, and which of its tensors have reached it.

A LoRA is refused unless all of its tensors reach the base: libraries leave out what they do not
know, and a specification of a part of a LoRA would be one of another model. They rename, split,
scale and join tensors in ways that differ from layout to layout. So names are not compared: what
each layer of the file does (its change to a weight, seen in a few random directions) must be found
among what the loaded layers do, scale included.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError
from gmi_registry.generation.lora_layers import (
    PROJECTIONS,
    Effect,
    LoraFile,
    is_merged,
    projection,
    read_lora_file,
)
from gmi_registry.generation.lora_merging import (
    MergedAdapter,
    kohya_name,
    layer_places,
    merge_adapter,
)
from gmi_registry.generation.model_checks import pickled, refused
from gmi_registry.generation.placement import is_out_of_memory
from gmi_registry.generation.textual_inversion import (
    inversion_files,
    is_embedding_file,
    load_words,
    weight_path,
)
from gmi_registry.model import ModelFiles
from gmi_registry.spec import LoraPartial

if TYPE_CHECKING:
    import numpy as np
    import torch

_ROUNDING = {"torch.float32": 1e-4, "torch.float16": 2**-8, "torch.bfloat16": 2**-5}
"""Largest difference of a row, as a share of its size, by the types of the file and of the
loaded layers: both factors are rounded, some layouts scale them before, and a direction takes out a
part only."""

# Tensors of a LoRA's layer that its change to the weight does not show.
_BESIDE = frozenset(
    {"up_bias", "down_bias", "diff", "diff_b", "mid", "dora_scale", "lora_magnitude_vector"}
)
_MAGNITUDES = frozenset({"dora_scale", "lora_magnitude_vector"})
ADAPTER = "gmi"
"""The name under which a LoRA is loaded, so that its scale can be set."""
_LORA_FILE = "pytorch_lora_weights.safetensors"
_MERGED = "_gmi_merged_adapter"
_METADATA = "lora_adapter_metadata"


def unapplied(
    file: LoraFile, pipeline: Any, adapter: str, known: Callable[[str], bool] = lambda name: True
) -> list[str]:
    """Names of the tensors of ``file`` that the layers of ``adapter`` do not hold, in file order.

    A layer's tensors count together, its alpha included: applied where the change that they make
    is found, or where they change nothing. What a loaded layer does counts for one layer of the
    file; where several of the file do the same, those whose names are ``known`` come first.
    Embeddings are left to who loads them.
    """
    loaded = _Loaded(pipeline, adapter, {str(value.dtype) for value in file.tensors.values()})
    missing: set[str] = set()
    for layer in sorted(file.layers.values(), key=lambda layer: not known(layer.name)):
        effect = file.effect(layer)
        beside = {role: key for role, key in layer.keys.items() if role in _BESIDE}
        if not file.has_effect(layer) or (effect is not None and loaded.claim(effect)):
            absent = {
                role for role, key in beside.items() if not loaded.has_values(file.tensors[key])
            }
            # Without its magnitudes, a DoRA's change is another one.
            whole = bool(absent & _MAGNITUDES)
            missing.update(layer.keys.values() if whole else (beside[role] for role in absent))
        else:
            missing.update(layer.keys.values())
    missing.update(key for key in file.others if not loaded.has_values(file.tensors[key]))
    return [key for key in file.tensors if key in missing]


class _Loaded:
    """What the layers of an adapter do, of all parts of a pipeline."""

    def __init__(self, pipeline: Any, adapter: str, dtypes: set[str]) -> None:
        """``dtypes`` are the element types of the file, as torch spells them."""
        import numpy as np

        plain: list[np.ndarray] = [np.zeros((0, PROJECTIONS), np.float32)]
        scales: list[float] = []
        self._vectors: list[torch.Tensor] = []
        for part in _parts(pipeline):
            for name, value in part.named_parameters():
                if "norm" in name and value.dim() == 1 and not value.is_meta:
                    self._vectors.append(value.detach())
            for layer in part.modules():
                found = _rows(layer, adapter)
                if found is None:
                    continue
                rows, scale, dtype = found
                dtypes = dtypes | {dtype}
                plain.append(rows.numpy())
                scales.append(scale)
                self._vectors.extend(_vectors(layer, adapter))
        self._rounding = max(
            (_ROUNDING.get(name, 2**-5) for name in dtypes if "int" not in name), default=2**-5
        )
        lengths = np.array([len(part) for part in plain[1:]], np.intp)
        owners = np.repeat(np.arange(len(scales)), lengths)
        all_rows = np.concatenate(plain)
        all_scales = np.array(scales, np.float32)[owners]
        # Rows of each layer that are not counted for a layer of the file yet.
        self._left = np.bincount(owners[all_rows.any(axis=1)], minlength=len(scales)).astype(float)
        self._plain = _Table(all_rows, owners)
        self._scaled = _Table(all_rows * all_scales[:, None], owners)

    def claim(self, effect: Effect) -> bool:
        """Whether all rows of ``effect`` are among the rows of the layers; these are then its."""
        rows, sizes = effect.rows, effect.sizes
        table = self._plain
        if effect.scale is not None:
            rows, sizes, table = rows * effect.scale, sizes * abs(effect.scale), self._scaled
        share = effect.count / max(len(rows), 1)
        near = list(table.near(rows.numpy(), self._rounding * sizes.numpy()))
        # A sampled row stands for several: the last one of a layer may overlap its end.
        room = {
            owner: math.ceil(self._left[owner] / share - 1e-6)
            for owners in near
            for owner in owners
        }
        chosen = _assigned(near, room)
        if chosen is None:
            return False
        for owner in chosen:
            self._left[owner] -= share
        return True

    def has_values(self, value: torch.Tensor) -> bool:
        """Whether ``value`` is 0 throughout, or one of the layers' vectors, or several joined."""
        import torch

        if not bool(value.any()):
            return True
        flat = value.flatten()
        covered = torch.zeros(len(flat), dtype=torch.bool)
        for vector in self._vectors:
            size = vector.numel()
            if not 0 < size <= len(flat):
                continue
            part, whole = vector.flatten().cpu(), flat.to(vector.dtype)
            for start in (whole[: len(flat) - size + 1] == part[0]).nonzero().flatten().tolist():
                if torch.equal(whole[start : start + size], part):
                    covered[start : start + size] = True
        return bool(covered.all())


class _Table:
    """Rows, each of a layer (its owner), sorted by their first number to be looked up."""

    def __init__(self, rows: np.ndarray, owners: np.ndarray) -> None:
        order = rows[:, 0].argsort(kind="stable")
        self._rows, self._owners = rows[order], owners[order]
        self._first = self._rows[:, 0].copy()

    def near(self, rows: np.ndarray, differences: np.ndarray) -> Iterator[list[int]]:
        """For each of ``rows`` the owners of those at most its difference away in each number, the
        nearest first."""
        first = self._first.searchsorted(rows[:, 0] - differences, "left")
        last = self._first.searchsorted(rows[:, 0] + differences, "right")
        for row, difference, start, end in zip(rows, differences, first, last, strict=True):
            away = abs(self._rows[start:end] - row).max(axis=1)
            order = away.argsort(kind="stable")
            owners = self._owners[start:end][order[away[order] <= difference]]
            yield list(dict.fromkeys(owners.tolist()))


def _assigned(near: Sequence[Sequence[int]], room: Mapping[int, int]) -> list[int] | None:
    """One of ``near`` for each place, each owner at most ``room`` times; None where there is none.

    Augmenting paths (Kuhn's algorithm): a place whose first choices are full makes another move on.
    """
    holders: dict[int, list[int]] = {owner: [] for owner in room}

    def settle(place: int, tried: set[int]) -> bool:
        for owner in near[place]:
            if owner in tried:
                continue
            tried.add(owner)
            held = holders[owner]
            if len(held) < room[owner]:
                held.append(place)
                return True
            for number, other in enumerate(held):
                if settle(other, tried):
                    held[number] = place
                    return True
        return False

    if not all(settle(place, set()) for place in range(len(near))):
        return None
    return [owner for owner, places in holders.items() for _ in places]


def _parts(pipeline: Any) -> Iterator[torch.nn.Module]:
    import torch

    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            yield part


def _rows(layer: torch.nn.Module, adapter: str) -> tuple[torch.Tensor, float, str] | None:
    """The rows of a layer's change in :data:`PROJECTIONS` directions, [outputs, PROJECTIONS],
    without its scale; that scale; and the element type. None for a layer without the adapter."""
    scaling = getattr(layer, "scaling", None)
    if not isinstance(scaling, dict) or adapter not in scaling:
        return None
    scale = float(scaling[adapter])
    for down_name, up_name in (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B")):
        downs, ups = getattr(layer, down_name, {}), getattr(layer, up_name, {})
        if adapter not in downs or adapter not in ups:
            continue
        down, up = (
            getattr(factor[adapter], "weight", factor[adapter]).detach() for factor in (downs, ups)
        )
        dtype = str(down.dtype)
        down, up = down.float().cpu().flatten(1), up.float().cpu().flatten(1)
        return up @ (down @ projection(down.shape[1])), scale, dtype
    change = getattr(layer, "get_delta_weight", None)
    kronecker = any(name.startswith("lokr_") for name in vars(layer)["_modules"])
    if change is None or scale == 0 or not kronecker:
        return None
    whole = change(adapter).detach()
    rows = whole.float().cpu().flatten(1)
    return rows @ projection(rows.shape[1]) / scale, scale, str(whole.dtype)


def _vectors(layer: torch.nn.Module, adapter: str) -> Iterator[torch.Tensor]:
    """What a layer has beside its factors: the magnitudes of a DoRA, and biases."""
    magnitudes = getattr(layer, "lora_magnitude_vector", {})
    if adapter in magnitudes:
        yield magnitudes[adapter].weight.detach()
    for name in ("lora_A", "lora_B"):
        factors = getattr(layer, name, {})
        bias = getattr(factors[adapter], "bias", None) if adapter in factors else None
        if bias is not None:
            yield bias.detach()


def apply_lora(
    pipeline: Any, model: ModelFiles, *, allow_partial: bool = False, scale: float = 1.0
) -> tuple[LoraPartial | None, list[str]]:
    """Put the LoRA ``model`` on the ``pipeline`` of its base, at a ``scale`` that
    :func:`set_lora_scale` can change.

    What diffusers loads goes by the name :data:`ADAPTER`; other kinds become part of the weights.
    Textual inversions that come along are loaded with their words. Returns the share of its tensors
    that was applied (None: all), and notes for people.

    Raises GenerationError for a LoRA that is damaged, has no effect or does not fit, and for one of
    which some tensors have no place in the base, unless ``allow_partial``.
    """
    weight = lora_file(model)
    file = read_lora_file(weight_path(model, weight), f"{model.ref}: {weight}")
    notes, taught = load_words(pipeline, model, weight, file)
    networks = {
        key: value for key, value in file.tensors.items() if key not in set(file.embeddings)
    }
    if not networks:
        return None, notes
    missing = list(networks)
    if is_merged(file):
        missing = _merge(pipeline, file, missing, scale)
        # Layers that are several of the base's in one have no place by their names.
        rest = file.part({key: networks[key] for key in _for_diffusers(file, missing)})
        if rest.tensors:
            left = set(_load(pipeline, model, weight, rest, rest.tensors))
            missing = [key for key in missing if key in left or key not in rest.tensors]
    else:
        missing = _load(pipeline, model, weight, file, networks)
        if missing:
            missing = _merge(pipeline, file, missing, scale)
    if len(missing) == len(networks) and not taught:
        raise _fits_nowhere(pipeline, model, weight, file, networks)
    return _share(model, file, missing, allow_partial, notes), notes


def _merge(pipeline: Any, file: LoraFile, keys: list[str], scale: float) -> list[str]:
    """Make the layers that ``keys`` belong to part of the weights of the base, by their names.

    The names of the tensors that have no place even so.
    """
    chosen = set(keys)
    for layer in file.layers.values():  # whole layers
        if chosen.intersection(layer.keys.values()):
            chosen.update(layer.keys.values())
    rest = {key: value for key, value in file.tensors.items() if key in chosen}
    adapter, missing = merge_adapter(pipeline, file.part(rest), scale)
    setattr(pipeline, _MERGED, adapter)
    return missing


def _for_diffusers(file: LoraFile, keys: list[str]) -> list[str]:
    """Those of ``keys`` that belong to layers that diffusers may know: LoRA, and LoKr for some."""
    chosen = set(keys)
    return [
        key
        for layer in file.layers.values()
        if layer.algorithm in ("LoRA", "LoKr") and not {"dora_scale", "mid"} & set(layer.keys)
        for role, key in layer.keys.items()
        if key in chosen and role not in ("diff", "diff_b")
    ]


def _load(
    pipeline: Any,
    model: ModelFiles,
    weight: str,
    file: LoraFile,
    networks: dict[str, torch.Tensor],
) -> list[str]:
    """Load a LoRA by diffusers; the names of the tensors that did not get there."""
    if not hasattr(pipeline, "load_lora_weights"):
        raise GenerationError(
            f"{model.ref}: a {type(pipeline).__name__} takes no LoRA",
            hint="publish it with the base model that it was made for",
        )
    best: tuple[list[str], dict[str, torch.Tensor] | None] = (list(networks), None)
    for tensors in _attempts(pipeline, file, networks):
        missing = _attempt(pipeline, model, weight, file, tensors)
        if not missing:
            return []
        _unload(pipeline)
        if len(missing) < len(best[0]):
            best = (missing, tensors)
    if len(best[0]) < len(networks):
        _attempt(pipeline, model, weight, file, best[1])
    return best[0]


def _attempt(
    pipeline: Any,
    model: ModelFiles,
    weight: str,
    file: LoraFile,
    tensors: dict[str, torch.Tensor] | None,
) -> list[str]:
    """Load ``tensors`` (None: the file as it is); the names of what did not get there."""
    nothing = [key for key in file.tensors if key not in file.embeddings]
    try:
        _by_diffusers(pipeline, model, weight, file, tensors)
        if any(value.is_meta for value in _adapter_weights(pipeline)):
            return nothing  # a layer that was made for the file and got none of its tensors
        loaded = {name for names in pipeline.get_list_adapters().values() for name in names}
        # Where it knows no layer, diffusers says so in a warning, and generates with the bare base.
        if ADAPTER not in loaded:
            return nothing
        places = layer_places(pipeline, file)
        return unapplied(file, pipeline, ADAPTER, places.__contains__)
    except Exception as error:
        if is_out_of_memory(error):  # which is no fault of the layout that is tried
            raise refused(model, "cannot be put on its base model", error) from error
        return nothing


def _by_diffusers(
    pipeline: Any,
    model: ModelFiles,
    weight: str,
    file: LoraFile,
    tensors: dict[str, torch.Tensor] | None,
) -> None:
    with _folder(model, weight, file, tensors) as (folder, name), _unsaid():
        # The exact name: left to guess, diffusers takes the first file that looks like weights.
        pipeline.load_lora_weights(
            str(folder),
            weight_name=name,
            adapter_name=ADAPTER,
            use_safetensors=True,
            local_files_only=True,
        )


@contextmanager
def _unsaid() -> Iterator[None]:
    """Without what the libraries say of an attempt, a line for each tensor that does not fit.

    What did not get there is counted, and said once.
    """
    logger = logging.getLogger("diffusers.loaders")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _adapter_weights(pipeline: Any) -> Iterator[torch.Tensor]:
    for part in _parts(pipeline):
        for name, value in part.named_parameters():
            if f".{ADAPTER}." in name or name.endswith(f".{ADAPTER}"):
                yield value


def _fits_nowhere(
    pipeline: Any,
    model: ModelFiles,
    weight: str,
    file: LoraFile,
    networks: dict[str, torch.Tensor],
) -> GenerationError:
    """What to say of a LoRA of which nothing could be applied: diffusers' own words, if any."""
    kind = file.algorithms[0] if file.algorithms else "LoRA"
    if not is_merged(file):
        try:
            _by_diffusers(pipeline, model, weight, file, None)
        except Exception as error:
            said = refused(model, f"{weight}, a {kind} adapter, does not fit its base model", error)
            return GenerationError(said.message, hint=_other_base(model))
    return GenerationError(
        f"{model.ref}: {weight}, a {kind} adapter, holds no layer that its base model has: "
        f"{', '.join(_layers(file, networks)[:2])}, ...",
        hint=_other_base(model),
    )


def _attempts(
    pipeline: Any, file: LoraFile, networks: dict[str, torch.Tensor]
) -> Iterator[dict[str, torch.Tensor] | None]:
    """What is handed to diffusers: the file as it is (None), then in other spellings.

    It refuses a file for a single key that it does not know, knows some layouts in one spelling
    alone, and leaves out some alphas, whose effect can be had without them.
    """
    import torch

    yield None if len(networks) == len(file.tensors) else networks
    layers = [layer for layer in file.layers.values() if layer.algorithm == "LoRA"]
    if not layers:
        return
    named: dict[str, torch.Tensor] = {}
    kohya: dict[str, torch.Tensor] = {}
    prefixed: dict[str, torch.Tensor] = {}
    folded: dict[str, torch.Tensor] = {}
    places = layer_places(pipeline, file)
    for layer in layers:
        down, up = (file.tensors[layer.keys[role]] for role in ("down", "up"))
        alpha = file.alpha(layer)
        for name, spelled in ((layer.name, kohya), (kohya_name(layer.name), prefixed)):
            spelled[f"{name}.lora_down.weight"] = down
            spelled[f"{name}.lora_up.weight"] = up
            if alpha is not None:
                spelled[f"{name}.alpha"] = down.new_tensor(alpha, dtype=torch.float32)
        if alpha is not None:
            down, up = _scaled(down, up, alpha / down.shape[0])
        place = places.get(layer.name)
        bias = layer.keys.get("up_bias")
        for owner, target in ((place, named), (layer.name, folded)):
            if owner is None:
                continue
            target[f"{owner}.lora_A.weight"] = down
            target[f"{owner}.lora_B.weight"] = up
            if bias is not None:
                target[f"{owner}.lora_B.bias"] = file.tensors[bias]
    if named:
        yield named
    yield kohya
    yield prefixed
    yield folded


def _scaled(
    down: torch.Tensor, up: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The factors with ``scale`` in the one that has the larger numbers, which rounds the least."""
    if down.float().abs().max() > up.float().abs().max():
        return (down.float() * scale).to(down.dtype), up
    return down, (up.float() * scale).to(up.dtype)


@contextmanager
def _folder(
    model: ModelFiles, weight: str, file: LoraFile, tensors: dict[str, torch.Tensor] | None
) -> Iterator[tuple[Path, str]]:
    """A folder and the name of the file in it that holds ``tensors`` (None: the model's own).

    What diffusers wrote into a file's header of its scales goes along with the file's own names
    alone: under others, they are part of the tensors.
    """
    if tensors is None:
        path = weight_path(model, weight)
        yield path.parent, path.name
        return
    from safetensors.torch import save_file

    with TemporaryDirectory(prefix="gmi-lora-") as folder:
        copies = {key: value.contiguous() for key, value in tensors.items()}
        own = all(key in file.tensors for key in tensors)
        said = {key: text for key, text in file.metadata.items() if own and key == _METADATA}
        save_file(copies, Path(folder) / _LORA_FILE, metadata=said or None)
        yield Path(folder), _LORA_FILE


def _unload(pipeline: Any) -> None:
    """Remove what a failed attempt has left in some of the parts."""
    try:
        pipeline.unload_lora_weights()
    except Exception:
        # diffusers cannot in a pipeline whose network takes none, as Kandinsky 3's, and nothing was
        # put on it then. What is left would count in the next attempt.
        if any(True for _ in _adapter_weights(pipeline)):
            raise


def _layers(file: LoraFile, keys: Iterable[str]) -> list[str]:
    """The layers that tensors belong to, or their own names where they belong to none."""
    owners = {key: layer.name for layer in file.layers.values() for key in layer.keys.values()}
    return [f"{name[:120]}" for name in dict.fromkeys(owners.get(key, key) for key in keys)]


def _share(
    model: ModelFiles,
    file: LoraFile,
    missing: list[str],
    allow_partial: bool,
    notes: list[str],
) -> LoraPartial | None:
    """What was applied, where that is not all. Raises GenerationError unless that is allowed."""
    if not missing:
        return None
    lost, layers = _layers(file, missing), _layers(file, file.tensors)
    counts = f"{len(missing):,} of {len(file.tensors):,} tensors"
    names = ", ".join(lost[:3])
    told = (
        f"its base has no place for {len(lost):,} of {len(layers):,} layers ({counts}), such as "
        f"{names}"
    )
    if not allow_partial:
        raise GenerationError(
            f"{model.ref}: {told}",
            hint=f"{_other_base(model)}; or publish what fits, which the specification then says: "
            "--allow-partial",
        )
    notes.append(f"{told}; the images are made without them, and the recipe says so")
    return LoraPartial(applied=len(file.tensors) - len(missing), tensors=len(file.tensors))


def _other_base(model: ModelFiles) -> str:
    base = "" if model.base is None else f", which is {model.base.ref.without_revision} now"
    return f"check base_model in the model card{base}, or name another one: --base REPO"


def set_lora_scale(pipeline: Any, scale: float) -> None:
    """Multiply what a LoRA adds to its base by ``scale``, however it was put there."""
    merged: MergedAdapter | None = getattr(pipeline, _MERGED, None)
    if merged is not None:
        merged.set_scale(scale)
    listed = getattr(pipeline, "get_list_adapters", None)
    if listed is not None and any(ADAPTER in names for names in listed().values()):
        pipeline.set_adapters([ADAPTER], [scale])


def lora_file(model: ModelFiles) -> str:
    """The path of the adapter's weights inside its folder."""
    paths = [weight.path for weight in model.weights]
    safe = [path for path in paths if path.lower().endswith(".safetensors")]
    if not safe and paths:
        raise pickled(model, paths[0])
    preferred = [path for path in safe if Path(path).name == _LORA_FILE] or safe
    if len(preferred) > 1 and model.path.is_dir():
        preferred = [path for path in preferred if not is_embedding_file(model, path)]
    if len(preferred) != 1:
        found = ", ".join(preferred[:5]) or "none"
        raise GenerationError(
            f"{model.ref}: a LoRA has one weight file, found: {found}",
            hint=f"name the file to use {_LORA_FILE}, or publish one LoRA a repository",
        )
    return preferred[0]


def adapter_file(model: ModelFiles) -> str:
    """The path of a LoRA's weights inside its folder, or of a textual inversion's.

    Raises GenerationError for a pickle, and for several LoRAs of which one is meant.
    """
    if model.kind == "lora":
        return lora_file(model)
    return inversion_files(model)[0]
