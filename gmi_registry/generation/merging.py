"""Adapters that diffusers does not load, merged into the weights of their base: LoHa, LoKr, OFT,
DoRA of kohya's trainers, full differences and others.

The formulas are those of LyCORIS (arXiv 2309.14859) and of the papers it names; how the tensors are
called and laid out is LyCORIS' own (lycoris-lora 4.1). A strength multiplies the whole change, as
in the programs that people generate with: weight + strength * (changed weight - weight).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError
from gmi_registry.generation.lora_file import LoraFile, LoraLayer

if TYPE_CHECKING:
    import torch

__all__ = ["MergedAdapter", "is_merged", "kohya_name", "layer_places", "merge_adapter"]

# Trainers' prefixes of the parts of a pipeline; the first that a pipeline has is meant. FLUX.1's
# second text encoder goes by the name of a third.
_PARTS = (
    ("lora_unet_", ("unet", "transformer")),
    ("lora_transformer_", ("transformer",)),
    ("lora_te1_", ("text_encoder",)),
    ("lora_te2_", ("text_encoder_2",)),
    ("lora_te3_", ("text_encoder_3", "text_encoder_2")),
    ("lora_te_", ("text_encoder",)),
    ("lycoris_", ("unet", "transformer")),
    ("base_model_model_", ("unet", "transformer")),
    ("diffusion_model_", ("unet", "transformer")),
    ("model_diffusion_model_", ("unet", "transformer")),
    ("unet_", ("unet",)),
    ("transformer_", ("transformer",)),
    ("text_encoder_2_", ("text_encoder_2",)),
    ("text_encoder_3_", ("text_encoder_3",)),
    ("text_encoder_", ("text_encoder",)),
)

# What the original U-Net of SDXL, by whose names kohya's trainers call layers, calls the parts of a
# residual block, and the layers outside all blocks.
_RESIDUAL = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OUTSIDE = {
    "input_blocks_0_0": "conv_in",
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
}
_BLOCK = re.compile(r"^(?P<side>input|output)_blocks_(?P<number>\d+)_(?P<inner>\d)_(?P<rest>.+)$")
_MIDDLE = re.compile(r"^middle_block_(?P<inner>[012])_(?P<rest>.+)$")


def is_merged(file: LoraFile) -> bool:
    """Whether layers of the file are of another kind than those that diffusers puts beside a layer.

    A magnitude of a DoRA in PEFT's spelling is for diffusers; in kohya's it leaves it out.
    """
    return any(
        layer.algorithm in _CHANGES.keys() - {"LoRA", "DoRA"}
        or {"mid", "dora_scale", "diff_b"} & set(layer.keys)
        for layer in file.layers.values()
        if file.has_effect(layer)
    )


@dataclass(frozen=True)
class _Place:
    """A layer of the file, the layer of the base that it changes, and that one's weights before."""

    layer: LoraLayer
    module: Any
    weight: torch.Tensor
    bias: torch.Tensor | None


class MergedAdapter:
    """An adapter whose changes are part of its base's weights, at a scale that can be set anew."""

    def __init__(self, file: LoraFile, places: list[_Place]) -> None:
        self._file = file
        self._places = places
        self._scale: float | None = None

    def set_scale(self, scale: float) -> None:
        """Put base and adapter together anew, the adapter multiplied by ``scale``.

        Raises GenerationError where the weights are not in memory, or come to be not finite.
        """
        import torch

        if scale == self._scale:
            return
        self._scale = None
        with torch.no_grad():
            for place in self._places:
                if place.module.weight.is_meta:
                    raise GenerationError(
                        f"{self._file.name}: is merged into its base at another scale, and the "
                        "weights are not in memory now",
                        hint="load the model anew, or without --offload sequential",
                    )
                weight, bias = _merged(self._file, place, scale)
                if not bool(torch.isfinite(weight).all()):
                    raise GenerationError(
                        f"{self._file.name}: {place.layer.name} makes weights that are not finite",
                        hint="publish an earlier step of the training",
                    )
                place.module.weight.copy_(weight)
                if bias is None:
                    continue
                if place.module.bias is None:
                    place.module.bias = torch.nn.Parameter(bias.to(place.module.weight))
                else:
                    place.module.bias.copy_(bias)
        self._scale = scale


def merge_adapter(pipeline: Any, file: LoraFile, scale: float) -> tuple[MergedAdapter, list[str]]:
    """Merge the layers of ``file`` into ``pipeline``; the names of tensors that have no place.

    Raises GenerationError for tensors that do not fit the layer that they are for.
    """
    modules = {place: module for place, _, module in _modules(pipeline)}
    places: list[_Place] = []
    missing: set[str] = set(file.others)
    for layer in file.layers.values():
        module = next(
            (modules[place] for place in _places(layer.name, pipeline) if place in modules), None
        )
        known = layer.algorithm in _CHANGES
        if module is None or not known:
            if not known or file.has_effect(layer):
                missing.update(layer.keys.values())
            continue
        if not file.has_effect(layer):
            continue
        bias = getattr(module, "bias", None)
        place = _Place(
            layer,
            module,
            module.weight.detach().cpu().clone(),
            None if bias is None else bias.detach().cpu().clone(),
        )
        places.append(place)
        missing.update(_unread(layer))
    adapter = MergedAdapter(file, places)
    adapter.set_scale(scale)
    return adapter, [key for key in file.tensors if key in missing]


def kohya_name(name: str) -> str:
    """What kohya's trainers call the layer ``name`` of another layout."""
    flat = name.replace(".", "_")
    for prefix, owners in _PARTS:
        if flat.startswith(prefix) and not owners[0].startswith("text_encoder"):
            return f"lora_unet_{flat.removeprefix(prefix)}"
    return flat if flat.startswith("lora_te") else f"lora_unet_{flat}"


def layer_places(pipeline: Any, file: LoraFile) -> dict[str, str]:
    """Part and name, joined by a dot, of the layers of ``pipeline`` that the file's names mean."""
    # What PEFT has put around a layer keeps the name that the layer had.
    names = {
        place: f"{place[0]}.{name}".removesuffix(".base_layer")
        for place, name, _ in _modules(pipeline)
    }
    for part, flat in tuple(names):
        names.setdefault((part, flat.removesuffix("_base_layer")), names[part, flat])
    found: dict[str, str] = {}
    for name in file.layers:
        place = next((place for place in _places(name, pipeline) if place in names), None)
        if place is not None:
            found[name] = names[place]
    return found


def _modules(pipeline: Any) -> Iterator[tuple[tuple[str, str], str, Any]]:
    """The layers with a weight: the part's name and theirs with underscores for dots, theirs as it
    is, and the layer."""
    import torch

    for part, whole in pipeline.components.items():
        if not isinstance(whole, torch.nn.Module):
            continue
        for name, module in whole.named_modules():
            if isinstance(getattr(module, "weight", None), torch.nn.Parameter):
                yield (part, name.replace(".", "_")), name, module


def _places(name: str, pipeline: Any) -> Iterator[tuple[str, str]]:
    """Where the layer ``name`` of a file may be, as :func:`_modules` calls layers.

    Without a prefix it is the network's.
    """
    flat = name.replace(".", "_")
    for prefix, owners in (*_PARTS, ("", ("unet", "transformer"))):
        if not flat.startswith(prefix):
            continue
        inner = flat.removeprefix(prefix)
        part = next((part for part in owners if pipeline.components.get(part) is not None), None)
        if part is None:
            continue
        yield part, inner
        if part.startswith("text_encoder"):
            # Some of transformers' releases have this level in a CLIP, and some have it not.
            yield part, inner.removeprefix("text_model_")
            yield part, f"text_model_{inner}"
        if part == "unet":
            yield part, _diffusers_name(inner, pipeline.unet.config.layers_per_block)
        # The names of attention processors, of the first LoRAs in diffusers.
        yield part, inner.replace("_processor_", "_").replace("_to_out", "_to_out_0")


def _diffusers_name(name: str, layers_per_block: int) -> str:
    """The layer of a U-Net that is called ``name`` in the original code."""
    if name in _OUTSIDE:
        return _OUTSIDE[name]
    block = _BLOCK.match(name)
    if block is not None:
        number, inner, rest = int(block["number"]), int(block["inner"]), block["rest"]
        if block["side"] == "input":
            where, place = divmod(number - 1, layers_per_block + 1)
            if rest == "op":
                return f"down_blocks_{where}_downsamplers_0_conv"
            start = f"down_blocks_{where}"
        else:
            where, place = divmod(number, layers_per_block + 1)
            start = f"up_blocks_{where}"
            if rest == "conv":
                return f"{start}_upsamplers_0_conv"
        kind = "resnets" if inner == 0 else "attentions"
        return f"{start}_{kind}_{place}_{_RESIDUAL.get(rest, rest)}"
    middle = _MIDDLE.match(name)
    if middle is not None:
        inner, rest = int(middle["inner"]), middle["rest"]
        start = "mid_block_attentions_0" if inner == 1 else f"mid_block_resnets_{inner // 2}"
        return f"{start}_{_RESIDUAL.get(rest, rest)}"
    return name


_BIASES = ("diff_b", "b_norm", "up_bias")


def _unread(layer: LoraLayer) -> list[str]:
    """Names of the tensors of a layer that :func:`_merged` takes no notice of."""
    read = {"alpha", "network_alpha", "dora_scale", *_BIASES, *_CHANGES[str(layer.algorithm)][1]}
    return [key for role, key in layer.keys.items() if role not in read]


def _merged(
    file: LoraFile, place: _Place, scale: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias (None: as it is) of a layer of the base with the adapter, in float32."""
    layer, weight = place.layer, place.weight.float()
    try:
        change = _CHANGES[str(layer.algorithm)][0](_Tensors(file, layer), weight)
        if change.numel() != weight.numel():
            raise ValueError(f"its change is of shape {list(change.shape)}")
        change = change.reshape(weight.shape)
        magnitude = file.tensor(layer, "dora_scale")
        if magnitude is not None:
            change = _decomposed(weight + change, magnitude) - weight
        bias = None
        for role in _BIASES:
            difference = file.tensor(layer, role)
            if difference is not None:
                before = weight.new_zeros(len(weight)) if place.bias is None else place.bias.float()
                bias = before + scale * _like(difference, before)
    except Exception as error:
        raise GenerationError(
            f"{file.name}: {layer.name}, whose weight in the base is of shape "
            f"{list(weight.shape)}, does not fit its base model: "
            f"{' '.join(str(error).split())[:200]}",
            hint="check base_model in the model card, or name another one: --base REPO",
        ) from error
    return weight + scale * change, bias


class _Tensors:
    """The tensors of a layer by their roles."""

    def __init__(self, file: LoraFile, layer: LoraLayer) -> None:
        self._file, self._layer = file, layer

    def __contains__(self, role: str) -> bool:
        return role in self._layer.keys

    def __getitem__(self, role: str) -> torch.Tensor:
        value = self._file.tensor(self._layer, role)
        if value is None:
            raise ValueError(f"it has no {role}")
        return value

    def scale(self, rank: int) -> float:
        """The layer's own, 1 where the file says none."""
        alpha = self._file.alpha(self._layer)
        return 1.0 if alpha is None else alpha / rank

    def constraint(self) -> float:
        """The alpha of an OFT, which bounds how far it turns; 0 is no bound."""
        return self._file.alpha(self._layer) or 0.0


def _like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if value.numel() != like.numel():
        raise ValueError(f"a difference of shape {list(value.shape)} for {list(like.shape)}")
    return value.reshape(like.shape)


def _lora(tensors: _Tensors, weight: torch.Tensor) -> torch.Tensor:
    down, up = tensors["down"], tensors["up"]
    scale = tensors.scale(down.shape[0])
    if "mid" in tensors:
        return scale * _rebuilt(tensors["mid"], up.flatten(1).T, down.flatten(1))
    return scale * (up.flatten(1) @ down.flatten(1))


def _rebuilt(core: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """A convolution from its Tucker decomposition: core [p, q, ...], left [p, outputs], right
    [q, inputs]."""
    import torch

    return torch.einsum("pq...,po,qi->oi...", core, left, right)


def _loha(tensors: _Tensors, weight: torch.Tensor) -> torch.Tensor:
    factors = []
    for number in "12":
        left, right = tensors[f"hada_w{number}_a"], tensors[f"hada_w{number}_b"]
        if f"hada_t{number}" in tensors:
            factors.append(_rebuilt(tensors[f"hada_t{number}"], left, right))
        else:
            factors.append(left @ right)
    if factors[0].shape != factors[1].shape:
        raise ValueError(f"factors of shapes {[list(factor.shape) for factor in factors]}")
    return tensors.scale(tensors["hada_w1_b"].shape[0]) * factors[0] * factors[1]


def _lokr(tensors: _Tensors, weight: torch.Tensor) -> torch.Tensor:
    import torch

    rank: int | None = None
    factors = []
    for number in "12":
        if f"lokr_w{number}" in tensors:
            factors.append(tensors[f"lokr_w{number}"])
            continue
        left, right = tensors[f"lokr_w{number}_a"], tensors[f"lokr_w{number}_b"]
        rank = right.shape[0]
        if f"lokr_t{number}" in tensors:
            factors.append(_rebuilt(tensors[f"lokr_t{number}"], left, right))
        else:
            factors.append(left @ right)
    one, two = factors
    one = one.reshape(*one.shape, *(1 for _ in range(two.dim() - one.dim())))
    # Where neither is decomposed, alpha says nothing.
    return (1.0 if rank is None else tensors.scale(rank)) * torch.kron(one, two)


def _glora(tensors: _Tensors, weight: torch.Tensor) -> torch.Tensor:
    import torch

    a1, a2, b1, b2 = (tensors[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    inner = torch.einsum("oi...,ij->oj...", weight, a1.flatten(1) @ a2.flatten(1))
    if "bm.weight" in tensors:
        outer = _rebuilt(tensors["bm.weight"], b1.flatten(1).T, b2.flatten(1))
    else:
        outer = b1.flatten(1) @ b2.flatten(1)
    if outer.numel() != weight.numel() or inner.shape != weight.shape:
        raise ValueError(f"changes of shapes {list(inner.shape)} and {list(outer.shape)}")
    return tensors.scale(a2.shape[0]) * (inner + outer.reshape(weight.shape))


def _oft(tensors: _Tensors, weight: torch.Tensor) -> torch.Tensor:
    import torch

    blocks = tensors["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    bound = tensors.constraint() * len(weight)
    norm = float(skew.norm()) + 1e-8
    if 0 < bound < norm:
        skew = skew * (bound / norm)
    one = torch.eye(blocks.shape[-1])
    turns = (one + skew) @ torch.linalg.inv(one - skew)
    if blocks.dim() == 3:
        parts = weight.reshape(len(turns), turns.shape[-1], -1)
        turned = torch.einsum("knm,kn...->km...", turns, parts).reshape(weight.shape)
    else:
        turned = _butterfly(turns, weight)
    if "rescale" in tensors:
        rescale = tensors["rescale"].reshape(-1, *(1 for _ in weight.shape[1:]))
        if len(rescale) != len(weight):
            raise ValueError(f"{len(rescale)} factors to rescale {len(weight)} rows by")
        turned = turned * rescale
    return turned - weight


def _butterfly(turns: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """BOFT: stages of turns of blocks [stages, blocks, size, size], which lie further and further
    apart."""
    import torch

    _, blocks, size, _ = turns.shape
    half, turned = size // 2, weight
    for stage, turn in enumerate(turns):
        step = 2**stage * half
        groups = len(weight) // (step * 2)
        # Rows (group, one of two, step) are those of group and step together.
        rows = turned.reshape(groups, 2, step, -1).transpose(1, 2).reshape(blocks, size, -1)
        rows = torch.einsum("bij,bjk->bik", turn, rows)
        rows = rows.reshape(groups, step, 2, -1).transpose(1, 2)
        turned = rows.reshape(weight.shape)
    return turned


def _ia3(tensors: _Tensors, weight: torch.Tensor) -> torch.Tensor:
    vector = tensors["weight"].flatten()
    on_input = bool(tensors["on_input"])
    if len(vector) != weight.shape[1 if on_input else 0]:
        raise ValueError(f"a vector of {len(vector)} numbers")
    if on_input:
        return weight * vector.reshape(1, -1, *(1 for _ in weight.shape[2:]))
    return weight * vector.reshape(-1, *(1 for _ in weight.shape[1:]))


def _difference(tensors: _Tensors, weight: torch.Tensor) -> torch.Tensor:
    for role in ("diff", "w_norm"):
        if role in tensors:
            return tensors[role]
    return weight.new_zeros(weight.shape)  # a bias alone


def _decomposed(weight: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    """The weight with the magnitudes of a DoRA: of its outputs, or in other files of its inputs,
    which their shape tells."""
    import torch

    axis = 0 if magnitude.shape[0] == len(weight) and magnitude.numel() == len(weight) else 1
    if magnitude.numel() != weight.shape[axis]:
        raise ValueError(f"magnitudes of shape {list(magnitude.shape)}")
    norm = weight.transpose(0, axis).flatten(1).norm(dim=1) + torch.finfo(weight.dtype).eps
    shape = [1] * weight.dim()
    shape[axis] = -1
    changed: torch.Tensor = weight * (magnitude.flatten() / norm).reshape(shape)
    return changed


_HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
_KRONECKER = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")
_CHANGES: dict[str, tuple[Callable[[_Tensors, torch.Tensor], torch.Tensor], frozenset[str]]] = {
    "LoRA": (_lora, frozenset({"down", "up", "mid"})),
    "DoRA": (_lora, frozenset({"down", "up", "mid"})),
    "LoHa": (_loha, frozenset(f"hada_{name}" for name in _HADAMARD)),
    "LoKr": (_lokr, frozenset(f"lokr_{name}" for name in _KRONECKER)),
    "GLoRA": (_glora, frozenset(f"{name}.weight" for name in ("a1", "a2", "b1", "b2", "bm"))),
    "OFT": (_oft, frozenset({"oft_blocks", "rescale"})),
    "IA3": (_ia3, frozenset({"weight", "on_input"})),
    "full": (_difference, frozenset({"diff"})),
    "norm": (_difference, frozenset({"w_norm"})),
}
"""How each kind of layer changes a weight, and the roles of the tensors that say it."""
