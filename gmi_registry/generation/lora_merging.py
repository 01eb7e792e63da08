"""LoRAs that diffusers does not load, merged into the weights of their base.

LoHa, LoKr, OFT, DoRA of kohya's trainers, full differences and others change a weight by the
formulas of :mod:`gmi_registry.generation.lora_layers`; here it is found which weight each layer
means, in whatever way its trainer named it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError

if TYPE_CHECKING:
    import torch
from gmi_registry.generation.lora_layers import CHANGES, LayerTensors, LoraFile, LoraLayer

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
                        hint="load the model again, or without --offload sequential",
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
        known = layer.algorithm in CHANGES
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


_BIAS_ROLES = ("diff_b", "b_norm", "up_bias")


def _unread(layer: LoraLayer) -> list[str]:
    """Names of the tensors of a layer that :func:`_merged` takes no notice of."""
    read = {
        "alpha",
        "network_alpha",
        "dora_scale",
        *_BIAS_ROLES,
        *CHANGES[str(layer.algorithm)][1],
    }
    return [key for role, key in layer.keys.items() if role not in read]


def _merged(
    file: LoraFile, place: _Place, scale: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias (None: as it is) of a layer of the base with the adapter, in float32."""
    layer, weight = place.layer, place.weight.float()
    try:
        change = CHANGES[str(layer.algorithm)][0](LayerTensors(file, layer), weight)
        if change.numel() != weight.numel():
            raise ValueError(f"its change is of shape {list(change.shape)}")
        change = change.reshape(weight.shape)
        magnitude = file.tensor(layer, "dora_scale")
        if magnitude is not None:
            change = _decomposed(weight + change, magnitude) - weight
        bias = None
        for role in _BIAS_ROLES:
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


def _like(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if value.numel() != like.numel():
        raise ValueError(f"a difference of shape {list(value.shape)} for {list(like.shape)}")
    return value.reshape(like.shape)


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
