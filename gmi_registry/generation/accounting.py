"""Which tensors of a LoRA file have reached the model that it was loaded into.

The libraries that load LoRAs rename, split, scale and join tensors in ways that differ from layout
to layout, and leave out what they do not know with a warning or without one. So names are not
compared: what each layer of the file does (its change to a weight, seen in a few random directions)
must be found among what the loaded layers do, scale included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gmi_registry.generation.lora_file import PROJECTIONS, Effect, LoraFile, projection

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["unapplied"]

_ROUNDING = {"torch.float32": 1e-4, "torch.float16": 2**-8, "torch.bfloat16": 2**-5}
"""Largest difference of a row, as a share of its size, by the types of the file and of the
loaded layers: both factors are rounded, some layouts scale them before, and a direction takes out a
part only."""


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


# Tensors of a LoRA's layer that its change to the weight does not show.
_BESIDE = frozenset({"up_bias", "down_bias", "diff_b", "dora_scale", "lora_magnitude_vector"})
_BESIDE |= {"diff", "mid"}
_MAGNITUDES = frozenset({"dora_scale", "lora_magnitude_vector"})


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
    if change is None or scale == 0 or not any(map(_is_kronecker, vars(layer)["_modules"])):
        return None
    whole = change(adapter).detach()
    rows = whole.float().cpu().flatten(1)
    return rows @ projection(rows.shape[1]) / scale, scale, str(whole.dtype)


def _is_kronecker(name: str) -> bool:
    return name.startswith("lokr_")


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
