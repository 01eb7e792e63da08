"""LoRAs and their relatives: how one is made, which layers it changes, and of which architecture.

Names of layers come as the trainers spell them: ``transformer.transformer_blocks.0.attn.to_q``
(diffusers, PEFT), ``lora_unet_double_blocks_0_img_attn_qkv`` (kohya), ``diffusion_model.layers.0``
(ComfyUI), ``lora_transformer_single_transformer_blocks_0`` (OneTrainer). They are compared with
``_`` for every dot and without the prefix. Sources: ``diffusers.loaders.lora_conversion_utils``,
``lycoris.modules`` of lycoris-lora, ``networks`` of kohya-ss/sd-scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from gmi_registry.weights.architectures import CONTEXTS, Architecture, Keys, compiled, patterns
from gmi_registry.weights.header import Tensor

PLAIN_ALGORITHMS: frozenset[str] = frozenset({"lora", "dora", "full", "norm"})
"""Those of which diffusers loads files, where a LoRA is among them; the others are LyCORIS'."""

_LONGEST_END = 100
_FACTOR = r"(?:\.[\w-]{1,40})?(?:\.weight)?"  # PEFT may name the adapter: lora_A.default.weight
# Patterns are compiled when a file is asked about: a search imports this module, and asks of none.
# What the name of a tensor ends with, after the layer that it changes.
_ENDS: dict[str, str] = {
    "lora": rf"\.lora_[AB]{_FACTOR}|\.lora_[AB]{_FACTOR}\.bias|\.lora_B\.bias"
    rf"|\.lora_embedding_[AB]{_FACTOR}|\.lora_(?:up|down|mid)(?:\.weight)?"
    r"|_lora[12]?\.(?:up|down)\.weight|\.lora(?:_linear_layer)?\.(?:up|down)\.weight",
    "dora": rf"\.dora_scale|\.(?:lora_)?magnitude_vector{_FACTOR}",
    "loha": rf"\.hada_(?:w[12]_[ab]|t[12]){_FACTOR}",
    "lokr": rf"\.lokr_(?:w[12](?:_[ab])?|t2){_FACTOR}",
    "glora": r"\.[ab][12]\.weight",
    "oft": rf"\.oft_(?:blocks|diag|R){_FACTOR}",
    "boft": rf"\.boft_[RS]{_FACTOR}",
    "ia3": rf"\.ia3_l{_FACTOR}|\.on_input",
    "vera": rf"\.vera_lambda_[bd]{_FACTOR}",
    "norm": r"\.[wb]_norm",
    "full": r"\.diff(?:_b)?",
}  # fmt: skip
# Beside the tensors above, these say nothing of their own.
_EXTRAS = r"\.(?:alpha|rescale|scalar|lora_alpha|network_alpha)"
_END = (
    "(?:"
    + "|".join(f"(?P<{name}>{end})" for name, end in _ENDS.items())
    + f"|(?P<extra>{_EXTRAS}))$"
)
_PREFIX = (
    r"^(?:base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|lora_unet_|unet\.|lycoris_"
    r"|lora_transformer_|transformer\.|lora_prior_|lora_diffusion_model_|oft_unet_)+_?"
)
_TEXT = (
    r"^(?:base_model\.model\.)?(?:lora_te\d?_|lora_text_encoder|lora_clip_|lycoris_text_model|oft_te\d?_"
    r"|text_encoders?(?:_\d)?[._]|text_model[._]encoder|te\d?[._]|cond_stage_model[._])"
)
_EMBEDDING = r"^bundle_emb\.([^.\n]{1,200})\."


class Adapter(NamedTuple):
    """``algorithms`` are keys of ``patterns()["algorithms"]``, the commonest first.

    ``layers`` counts the layers that are changed, ``tensors`` all that belong to the adapter.
    ``text_encoders`` says whether some of the layers are a text encoder's; ``tokens`` are the words
    of textual inversions that came along; ``language_model`` says that a language model is changed,
    and no image model. ``channels`` are those that the first layer reads, and how many are the
    noise's, where it reads more: it was made to be shown an image.
    """

    algorithms: tuple[str, ...]
    architecture: Architecture | None
    layers: int
    tensors: int
    text_encoders: bool
    tokens: tuple[str, ...]
    language_model: bool
    channels: tuple[int, int] | None = None


def adapter_of(keys: Keys) -> Adapter | None:
    """The adapter that these tensors make; None where they make none."""
    counts: dict[str, int] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    tokens: dict[str, None] = {}
    own = 0
    embedding, end, text = map(compiled, (_EMBEDDING, _END, _TEXT))
    for name, tensor in keys.tensors.items():
        bundled = embedding.match(name)
        found = end.search(name, max(0, len(name) - _LONGEST_END))
        if bundled is not None:
            tokens[bundled[1]] = None
        elif found is None:
            continue
        elif found.lastgroup != "extra":
            kind = str(found.lastgroup)
            counts[kind] = counts.get(kind, 0) + 1
            layers.setdefault(name[: found.start()], {})[found.group()] = tensor
        own += 1
    if not counts:
        return None
    inside = {name: tensors for name, tensors in layers.items() if not text.match(name)}
    network = _NetworkLayers(inside)
    return Adapter(
        algorithms=tuple(sorted(counts, key=lambda kind: (-counts[kind], kind))),
        architecture=network.architecture() if inside else _of_text_encoders(layers),
        layers=len(layers),
        tensors=own,
        text_encoders=len(inside) < len(layers),
        tokens=tuple(tokens),
        language_model=network.is_language_model(),
        channels=network.image_channels(),
    )


def _of_text_encoders(layers: Mapping[str, Mapping[str, Tensor]]) -> Architecture | None:
    """The architecture whose text encoders alone are changed; None where several have such."""
    names = "\n".join(layers)
    if compiled(r"^(?:lora_te2_|text_encoder_2\.)text_model").search(names):
        return "sd3" if compiled(r"^(?:lora_te3_|text_encoder_3\.)").search(names) else "sdxl"
    if not compiled(r"^(?:lora_te_|text_encoder\.)").search(names):
        return None
    for name, tensors in layers.items():
        if re.search(r"self_attn[._][qkv]_proj$", name):
            # CLIP-L is in several; OpenCLIP H is in Stable Diffusion 2 alone.
            return "sd2" if _sides(tensors).inputs == 1024 else None
    return None


class _Sides(NamedTuple):
    """How many numbers a layer takes and gives; None where its change does not tell."""

    inputs: int | None = None
    outputs: int | None = None


# FLUX.1 has 19 blocks of two streams and Qwen-Image 60, both of the same width.
_FLUX_BLOCKS = 19
_UNET = r"^(?:down_blocks|up_blocks|mid_block|input_blocks|middle_block|output_blocks)_"


# Of the UNets, which read a picture and a mask beside the noise, and of FLUX.1, whose control LoRAs
# read a picture.
_FIRST_LAYERS = ((r"^(?:conv_in|input_blocks_#_#)$", 4), (r"^(?:img_in|x_embedder)$", 64))
# What FLUX.2's layers give and take, in widths of its network; FLUX.1's give 7, take 5, give 4.
_GATED = {
    r"^single_blocks_\d+_linear1$": (9, 1),
    r"^single_blocks_\d+_linear2$": (1, 4),
    r"^double_blocks_\d+_(?:img|txt)_mlp_0$": (6, 1),
}


class _NetworkLayers:
    """The layers of a network that an adapter changes."""

    def __init__(self, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._layers = {
            compiled(_PREFIX).sub("", name).replace(".", "_"): tensors
            for name, tensors in layers.items()
        }

    @cached_property
    def _names(self) -> Keys:
        # Sides stand for the tensors, of which there are two and more a layer.
        shapes = {name: _sides(tensors) for name, tensors in self._layers.items()}
        return Keys(
            {name: Tensor("", (it.outputs or 0, it.inputs or 0)) for name, it in shapes.items()}
        )

    def is_language_model(self) -> bool:
        """Whether these are layers of Llama, Qwen and their like, and of nothing else."""
        return self._names.has(
            r"^(?:model_)+(?:language_model_)?layers_#_(?:self_attn|mlp)_"
        ) and not self._names.has_any(r"blocks_#_", r"_refiner_#_")

    def image_channels(self) -> tuple[int, int] | None:
        """Channels of the first layer and of the noise, where the first are more; else None."""
        for first, noise in _FIRST_LAYERS:
            channels = self._width(first)
            if channels is not None and channels in (2 * noise, 2 * noise + 1, 6 * noise):
                return channels, noise
        return None

    def architecture(self) -> Architecture | None:
        """The architecture that has such layers; None where several do, or none is known."""
        if self._names.has(_UNET):
            return self._unet()
        for rule in patterns()["adapters"]:
            if self._names.fit(rule):
                width = self._width(rule["wide"]) if "wide" in rule else None
                known: Architecture | None = rule.get("widths", {}).get(
                    str(width), rule.get("architecture")
                )
                if known == "flux1" and self._has_wide_gates():
                    return "flux2"
                blocks = self._names.layers(r"^transformer_blocks_(\d+)_")
                return "qwen-image" if known == "flux1" and blocks > _FLUX_BLOCKS else known
        return None

    def _has_wide_gates(self) -> bool:
        """Whether the feed-forward layers are gated and three times as wide, as in FLUX.2.

        The widths of the other layers are FLUX.1's in one of its sizes.
        """
        for name, tensor in self._names.tensors.items():
            outputs, inputs = tensor.shape
            for layer, (gives, takes) in _GATED.items():
                if inputs and re.search(layer, name) and outputs * takes == inputs * gives:
                    return outputs > 0
        return False

    def _width(self, pattern: str) -> int | None:
        return self._names.size(pattern, 1) or None

    def _unet(self) -> Architecture | None:
        if self._names.has(r"motion_modules"):
            return "animatediff"
        context = self._width(r"_attn2(?:_processor)?_to_[kv]$")
        known = CONTEXTS.get(context or 0)
        if known is not None:
            return known
        # Only SDXL has more than one block in an attention, and sizes as an input.
        if self._names.has_any(r"^add_embedding_", r"^label_emb_"):
            return "sdxl"
        return "sdxl" if self._names.layers(r"_transformer_blocks_(\d+)_") > 1 else None


def _sides(tensors: Mapping[str, Tensor]) -> _Sides:
    """What a layer takes and gives, from the factors of its change."""
    inputs = outputs = None
    lokr: dict[str, tuple[int, ...]] = {}
    for end, tensor in tensors.items():
        shape = tensor.shape
        if "lokr_" in end:
            lokr[re.sub(r"^\.lokr_(\w+).*", r"\1", end)] = shape
        if len(shape) < 2:
            continue
        if re.search(r"lora_A|\bdown\b|_down|hada_w1_b", end):
            inputs = shape[1]
        elif re.search(r"lora_B|\bup\b|_up|hada_w1_a", end):
            outputs = shape[0]
        elif end == ".diff":
            outputs, inputs = shape[:2]
    return _kronecker(lokr) if lokr else _Sides(inputs, outputs)


def _kronecker(shapes: Mapping[str, tuple[int, ...]]) -> _Sides:
    def factor(number: int) -> tuple[int, int] | None:
        whole = shapes.get(f"w{number}", ())
        if len(whole) >= 2:
            return whole[0], whole[1]
        up, down = shapes.get(f"w{number}_a", ()), shapes.get(f"w{number}_b", ())
        if len(up) != 2 or len(down) != 2:
            return None
        # With a third factor, of a convolution, both are turned.
        return (up[1] if number == 2 and "t2" in shapes else up[0]), down[1]

    one, two = factor(1), factor(2)
    return _Sides(one[1] * two[1], one[0] * two[0]) if one and two else _Sides()
