"""Adapters that diffusers does not load (LoHa, LoKr, OFT, full differences, ...), merged into the
weights of their base by the library lycoris-lora."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError, MissingExtraError
from gmi_registry.generation.lora_file import LoraFile, LoraLayer

if TYPE_CHECKING:
    import torch

__all__ = ["MergedAdapter", "is_merged", "kohya_name", "layer_places", "merge_adapter"]

_READERS = {
    "LoRA": "LoConModule",
    "DoRA": "LoConModule",
    "LoHa": "LohaModule",
    "LoKr": "LokrModule",
    "GLoRA": "GLoRAModule",
    "IA3": "IA3Module",
    "OFT": "DiagOFTModule",
}
"""The classes of lycoris-lora that compute a layer; sums need none."""

_SUMS = frozenset({"full", "norm"})

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
        layer.algorithm in {*_READERS, *_SUMS} - {"LoRA", "DoRA"}
        or {"mid", "dora_scale", "diff_b"} & set(layer.keys)
        for layer in file.layers.values()
        if file.has_effect(layer)
    )


def _require_lycoris(file: LoraFile) -> None:
    """Raise MissingExtraError where lycoris-lora is missing that the layers of ``file`` need."""
    if find_spec("lycoris") is not None:
        return
    for layer in file.layers.values():
        if _is_plain(layer) or layer.algorithm not in _READERS:
            continue
        what = layer.algorithm if layer.algorithm != "LoRA" else "LoCon with a middle factor"
        raise MissingExtraError(
            "lycoris-lora", extra="lycoris", purpose=f"loading {file.name}, a {what} adapter"
        )


def _is_plain(layer: LoraLayer) -> bool:
    """Whether the change is a sum or a product, for which no library is needed."""
    return layer.algorithm in _SUMS or (layer.algorithm == "LoRA" and "mid" not in layer.keys)


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
                        f"{self._file.name}: is part of its base's weights at another scale, and "
                        "these are not in memory now",
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

    Raises GenerationError for tensors that lycoris-lora refuses; MissingExtraError without it.
    """
    _require_lycoris(file)
    modules = {place: module for place, _, module in _modules(pipeline)}
    places: list[_Place] = []
    missing: set[str] = set(file.others)
    for layer in file.layers.values():
        module = next(
            (modules[place] for place in _places(layer.name, pipeline) if place in modules), None
        )
        known = layer.algorithm in _READERS or layer.algorithm in _SUMS
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


# The names that lycoris-lora has for roles of ours.
_SPELLINGS = {"lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid"}
_BIASES = ("diff_b", "b_norm", "up_bias")


def _roles(layer: LoraLayer) -> list[str]:
    """The roles that lycoris-lora reads of a layer, in the order in which it takes them."""
    from lycoris import modules

    reader = getattr(modules, _READERS[layer.algorithm or ""])
    return [_SPELLINGS.get(name, name) for name in reader.weight_list]


def _unread(layer: LoraLayer) -> list[str]:
    """Names of the tensors of a layer that :func:`_merged` takes no notice of."""
    read = {"alpha", "network_alpha", *_BIASES}
    if layer.algorithm in _SUMS:
        read |= {"diff", "w_norm"}
    elif _is_plain(layer):
        read |= {"down", "up"}
    else:
        read |= set(_roles(layer))
    return [key for role, key in layer.keys.items() if role not in read]


def _merged(
    file: LoraFile, place: _Place, scale: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias (None: as it is) of a layer of the base with the adapter, in float32."""
    layer, weight = place.layer, place.weight.float()
    try:
        if layer.algorithm in _SUMS:
            changed = weight + scale * _difference(file, layer, ("diff", "w_norm"), weight)
        elif _is_plain(layer):
            down, up = file.tensor(layer, "down"), file.tensor(layer, "up")
            assert down is not None
            assert up is not None
            alpha = file.alpha(layer)
            strength = scale if alpha is None else scale * alpha / down.shape[0]
            changed = weight + strength * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
        else:
            changed = _computed(file, place, scale)
        if changed.shape != weight.shape:
            raise ValueError(f"its shape is {list(changed.shape)}, not {list(weight.shape)}")
        bias = None
        if any(role in layer.keys for role in _BIASES):
            before = weight.new_zeros(len(weight)) if place.bias is None else place.bias.float()
            bias = before + scale * _difference(file, layer, _BIASES, before)
    except Exception as error:
        raise GenerationError(
            f"{file.name}: {layer.name} does not fit its base model: "
            f"{' '.join(str(error).split())[:200]}",
            hint="check base_model in the model card, or give --base REPO",
        ) from error
    return changed, bias


def _difference(
    file: LoraFile, layer: LoraLayer, roles: tuple[str, ...], like: torch.Tensor
) -> torch.Tensor:
    for role in roles:
        value = file.tensor(layer, role)
        if value is not None:
            if value.numel() != like.numel():
                raise ValueError(f"its shape is {list(value.shape)}, not {list(like.shape)}")
            return value.view(like.shape)
    return like.new_zeros(())


def _computed(file: LoraFile, place: _Place, scale: float) -> torch.Tensor:
    """The weight of a layer with the adapter, by lycoris-lora."""
    from lycoris import modules

    layer = place.layer
    reader = getattr(modules, _READERS[layer.algorithm or ""])
    tensors = {role: file.tensor(layer, role) for role in _roles(layer)}
    if layer.algorithm == "OFT" and (blocks := tensors["oft_blocks"]) is not None:
        reader = modules.ButterflyOFTModule if blocks.dim() == 4 else reader
    if "alpha" in tensors and tensors["alpha"] is None:
        tensors["alpha"] = place.weight.new_tensor(_rank(layer, tensors)).float()
    # Its own class takes a magnitude for one of the outputs; there are files with one of the inputs
    # (older ones, and OneTrainer's), which the shape tells.
    magnitude = tensors.get("dora_scale")
    if "dora_scale" in tensors:
        tensors["dora_scale"] = None
    given = [value for value in tensors.values() if value is not None]
    on_input = tensors.pop("on_input", None)
    stand_in = copy.deepcopy(place.module).cpu().float()
    stand_in.weight.data = place.weight.float()
    made = reader.make_module_from_state_dict(layer.name, stand_in, *tensors.values())
    if on_input is not None:
        if bool(on_input):  # its class makes those of the outputs only
            made = reader(layer.name, stand_in, 1, train_on_input=True)
            made.weight.data.copy_(tensors["weight"])
    held = sorted(value.numel() for value in made.parameters())
    there = sorted(value.numel() for value in given if value.dim() > 0 and value.numel() > 1)
    if [size for size in held if size > 1] != there:  # a tensor that was stretched to fit
        raise ValueError(f"its tensors have {there} numbers, and {held} are due")
    if magnitude is not None:
        shape = list(stand_in.weight.shape)
        sides = [[size, *(1 for _ in shape[1:])] for size in shape[:1]]
        sides.append([1, shape[1], *(1 for _ in shape[2:])])
        if list(magnitude.shape) not in sides and magnitude.dim() > 1:
            raise ValueError(f"its magnitudes are of shape {list(magnitude.shape)}")
        made.wd = True
        made.wd_on_out = magnitude.shape[0] == shape[0]
        made.dora_norm_dims = len(shape) - 1
        made.dora_scale = type(stand_in.weight)(magnitude)
    changed, _ = made.get_merged_weight(scale, stand_in.weight.shape, stand_in.weight.device)
    return changed.detach().float()


def _rank(layer: LoraLayer, tensors: dict[str, torch.Tensor | None]) -> float:
    """What stands for an alpha that a file leaves out: the rank, which makes a scale of 1."""
    if layer.algorithm == "OFT":  # there it is a constraint, and 0 is none
        return 0.0
    for role, axis in (("down", 0), ("hada_w1_b", 0), ("a2.weight", 0), ("lokr_w2_b", 0)):
        value = tensors.get(role)
        if value is not None:
            return float(value.shape[axis])
    value = tensors.get("lokr_w1_b")
    return 1.0 if value is None else float(value.shape[0])
