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

from gmi_registry.weights.architectures import Architecture
from gmi_registry.weights.header import Tensor
from gmi_registry.weights.keys import Keys, compiled

__all__ = ["ALGORITHM_TITLES", "Adapter", "adapter_of"]

ALGORITHM_TITLES: dict[str, str] = {
    "loha": "LoHa", "lokr": "LoKr", "glora": "GLoRA", "oft": "OFT", "boft": "BOFT", "ia3": "IA3",
    "full": "full differences", "norm": "norm layers", "vera": "VeRA", "lora": "LoRA",
    "dora": "DoRA",
}  # fmt: skip
"""What people call the ways to make an adapter; all but lora and dora are LyCORIS' or PEFT's own."""

# What the name of a tensor ends with, after the layer that it changes.
_LORA_ENDS = (
    r"\.lora_[AB](?:\.[\w-]+)?(?:\.weight)?|\.lora_embedding_[AB](?:\.[\w-]+)?|\.lora_(?:up|down|mid)(?:\.weight)?"
    r"|_lora\.(?:up|down)\.weight|\.lora\.(?:up|down)\.weight|\.lora_linear_layer\.(?:up|down)\.weight"
    r"|_lora[12]?\.(?:up|down)\.weight|\.lora_[AB]\.bias"
)
_ENDS: tuple[tuple[str, str], ...] = (
    ("lora", _LORA_ENDS),
    ("dora", r"\.dora_scale|\.lora_magnitude_vector(?:\.[\w-]+)?(?:\.weight)?|\.magnitude_vector"),
    ("loha", r"\.hada_(?:w[12]_[ab]|t[12])(?:\.[\w-]+)?"),
    ("lokr", r"\.lokr_(?:w[12](?:_[ab])?|t2)(?:\.[\w-]+)?"),
    ("glora", r"\.[ab][12]\.weight"),
    ("oft", r"\.oft_(?:blocks|diag|R)(?:\.[\w-]+)?(?:\.weight)?"),
    ("boft", r"\.boft_[RS](?:\.[\w-]+)?"),
    ("ia3", r"\.ia3_l(?:\.[\w-]+)?|\.on_input"),
    ("vera", r"\.vera_lambda_[bd](?:\.[\w-]+)?"),
    ("norm", r"\.w_norm|\.b_norm"),
    ("full", r"\.diff|\.diff_b"),
)
# Beside the tensors above, these say nothing of their own.
_EXTRAS = r"\.(?:alpha|rescale|scale|scalar|bias|lora_alpha|network_alpha)"
_END = re.compile(
    "(?:" + "|".join(f"(?P<{name}>{ends})" for name, ends in _ENDS) + f"|(?P<extra>{_EXTRAS}))$"
)
_PREFIX = re.compile(
    r"^(?:base_model\.model\.|model\.diffusion_model\.|diffusion_model\.|lora_unet_|lora_transformer_"
    r"|lycoris_|lora_prior_|lora_master_|oft_unet_|unet\.|transformer\.|lora_diffusion_model_)+"
)
_TEXT = re.compile(
    r"^(?:base_model\.model\.)?(?:lora_te\d?_|lora_text_encoder_|text_encoders?[._]|text_encoder_\d[._]"
    r"|oft_te\d?_|lycoris_te\d?_|(?:lycoris_)?text_model_encoder|te\d?[._]|lora_clip_|cond_stage_model)"
)
_EMBEDDING = re.compile(r"^bundle_emb\.([^.\n]{1,200})\.")


class Adapter(NamedTuple):
    """``algorithms`` are keys of :data:`ALGORITHM_TITLES`, the commonest first.

    ``layers`` counts the layers that are changed. ``text_encoders`` says whether some are a text
    encoder's; ``tokens`` are the words of textual inversions that came along; ``language_model``
    says that a language model is changed, and no image model.
    """

    algorithms: tuple[str, ...]
    architecture: Architecture | None
    layers: int
    text_encoders: bool
    tokens: tuple[str, ...]
    language_model: bool


class _Layer(NamedTuple):
    """Sides of a layer's change: what comes in and what goes out; None where it is not told."""

    inputs: int | None
    outputs: int | None


def adapter_of(keys: Keys) -> Adapter | None:
    """The adapter that these tensors make; None where they make none."""
    counts: dict[str, int] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    tokens: dict[str, None] = {}
    for name, tensor in keys.tensors.items():
        bundled = _EMBEDDING.match(name)
        if bundled is not None:
            tokens[bundled[1]] = None
            continue
        found = _END.search(name)
        if found is None:
            continue
        kind = str(found.lastgroup)
        if kind != "extra":
            counts[kind] = counts.get(kind, 0) + 1
            layers.setdefault(name[: found.start()], {})[found.group()] = tensor
    if not counts:
        return None
    parts = {name: tensors for name, tensors in layers.items() if not _TEXT.match(name)}
    network = _Layers(parts)
    return Adapter(
        tuple(sorted(counts, key=lambda kind: (-counts[kind], kind))),
        network.architecture() or _of_text_encoders(layers),
        len(layers),
        len(parts) < len(layers),
        tuple(tokens),
        network.is_language_model(),
    )


def _of_text_encoders(layers: Mapping[str, dict[str, Tensor]]) -> Architecture | None:
    if any(re.match(r"lora_te3_|text_encoder_3", name) for name in layers):
        return "sd3"
    two = any(re.match(r"lora_te2_|text_encoder_2\.text_model", name) for name in layers)
    if two:
        return "sdxl"
    if any(re.match(r"lora_te_|text_encoder\.", name) for name in layers):
        for name, tensors in layers.items():
            if re.search(r"self_attn[._][qk]_proj", name):
                return {768: "sd1", 1024: "sd2"}.get(_sides(tensors).inputs or 0)  # type: ignore[return-value]
    return None


class _Layers:
    """The layers of the network that an adapter changes, under names with ``_`` for dots."""

    def __init__(self, layers: Mapping[str, dict[str, Tensor]]) -> None:
        self._layers = {
            _PREFIX.sub("", name).replace(".", "_"): tensors for name, tensors in layers.items()
        }

    @cached_property
    def _text(self) -> str:
        return "\n".join(dict.fromkeys(re.sub(r"(?<=_)\d+(?=_|$)", "#", it) for it in self._layers))

    def _has(self, pattern: str) -> bool:
        return compiled(pattern).search(self._text) is not None

    def _layer(self, pattern: str) -> _Layer:
        for name, tensors in self._layers.items():
            if re.search(pattern, name):
                return _sides(tensors)
        return _Layer(None, None)

    def _count(self, pattern: str) -> int:
        return 1 + max(
            (int(it[1][:6]) for name in self._layers if (it := re.match(pattern, name))), default=-1
        )

    def is_language_model(self) -> bool:
        """Whether these are layers of Llama, Qwen and their like, and of nothing else."""
        return self._has(
            r"^(?:model_)+(?:language_model_)?layers_#_(?:self_attn|mlp)_"
        ) and not self._has(
            r"attn2_|(?:double|single|joint|transformer|down|up|input|output)_blocks_"
        )

    def architecture(self) -> Architecture | None:
        """The architecture that has such layers; None where several do, or none."""
        for name, patterns in _LAYERS:
            if all(self._has(pattern) for pattern in patterns):
                return self._refined(name)
        return self._unet() or self._blocks()

    def _refined(self, name: Architecture) -> Architecture:
        if name in ("flux1", "chroma"):
            wide = self._layer(
                r"^double_blocks_\d+_img_(?:attn_qkv|mlp_0)|^transformer_blocks_\d+_attn_to_q"
            )
            if wide.inputs == 6144 or self._has(
                r"_to_qkv_mlp_proj$|(?:double|single)_stream_modulation|_ff_linear_in$"
            ):
                return "flux2"
        if name == "z-image":
            wide = self._layer(r"^(?:layers|noise_refiner)_\d+_attention_(?:qkv|to_q)")
            if wide.inputs == 2304:
                return "lumina2"
        return name

    def _unet(self) -> Architecture | None:
        if not self._has(r"^(?:down|up|mid|input|output|middle)_blocks?_"):
            return None
        if self._has(r"motion_modules"):
            return "animatediff"
        context = self._layer(
            r"_attn2_to_[kv]$|_attn2_to_[kv]_lora$|_attn2_processor_to_[kv]$"
        ).inputs
        known: dict[int | None, Architecture] = {
            768: "sd1",
            1024: "sd2",
            2048: "sdxl",
            1280: "sdxl-refiner",
        }
        if context in known:
            return known[context]
        if self._has(r"^add_embedding_|^label_emb_"):
            return "sdxl"
        deep = self._count(r".*_transformer_blocks_(\d+)_")
        if deep > 1:
            return "sdxl"
        return None

    def _blocks(self) -> Architecture | None:
        """Transformers whose layers have the same names and other sizes."""
        if self._has(r"^transformer_blocks_#_attn_add_[qkv]_proj"):
            wide = self._layer(r"^transformer_blocks_\d+_attn_to_[qkv]$").inputs
            return {1536: "sd3", 2432: "sd3", 3072: "qwen-image"}.get(wide or 0)  # type: ignore[return-value]
        if self._has(r"^transformer_blocks_#_attn[12]_to_[qkv]"):
            wide = self._layer(r"^transformer_blocks_\d+_attn1_to_[qkv]$").inputs
            known = {
                1152: "pixart",
                2240: "sana",
                2048: "ltx",
                4096: "ltx",
                2560: "cogview4",
                1920: "cogvideox",
            }
            return known.get(wide or 0)  # type: ignore[return-value]
        if self._has(r"^transformer_blocks_#_attn_to_[qkv]"):
            wide = self._layer(r"^transformer_blocks_\d+_attn_to_[qkv]$").inputs
            blocks = self._count(r"^transformer_blocks_(\d+)_")
            if wide == 3072:
                return "qwen-image" if blocks > 19 else "flux1"
            return {1536: "sd3", 2432: "sd3", 6144: "flux2"}.get(wide or 0)  # type: ignore[return-value]
        return None


_LAYERS: tuple[tuple[Architecture, tuple[str, ...]], ...] = (
    ("chroma", (r"^distilled_guidance_layer_",)),
    ("hunyuan-video", (r"individual_token_refiner|context_embedder_token_refiner|^double_blocks_#_img_attn_qkv$.*",
                       r"individual_token_refiner|context_embedder_token_refiner",)),
    ("hidream", (r"^double_stream_blocks_#_|^single_stream_blocks_#_block_",)),
    ("auraflow", (r"^joint_transformer_blocks_#_|^double_layers_#_attn_w1",)),
    ("sd3", (r"^joint_blocks_#_(?:x|context)_block_",)),
    ("flux1", (r"^double_blocks_#_|^single_blocks_#_",)),
    ("flux1", (r"^single_transformer_blocks_#_",)),
    ("qwen-image", (r"^transformer_blocks_#_(?:img|txt)_(?:mlp|mod)_",)),
    ("sana", (r"^transformer_blocks_#_ff_conv_",)),
    ("z-image", (r"^(?:layers|noise_refiner|context_refiner)_#_attention_(?:qkv|to_[qkvo]|out)",)),
    ("lumina2", (r"^(?:layers|noise_refiner|context_refiner)_#_attn_",)),
    ("anima", (r"^llm_adapter_",)),
    ("wan", (r"^blocks_#_(?:self_attn_[qkvo]|cross_attn_[qkvo]|ffn_#)(?:_|$)",)),
    ("wan", (r"^blocks_#_attn[12]_to_[qkv]$", r"^blocks_#_(?:ffn_net|attn[12])_")),
    ("anima", (r"^blocks_#_(?:self|cross)_attn_(?:q|k|v|output)_proj",)),
    ("mochi", (r"^blocks_#_attn_qkv_[xy]",)),
    ("kandinsky5", (r"^visual_transformer_blocks_",)),
    ("stable-cascade", (r"_kv_mapper|_channelwise_",)),
)  # fmt: skip


def _sides(tensors: Mapping[str, Tensor]) -> _Layer:
    """What a layer takes and gives, from the two factors of its change."""
    inputs = outputs = None
    for end, tensor in tensors.items():
        if len(tensor.shape) < 2:
            continue
        if re.search(r"lora_A|down", end):
            inputs = tensor.shape[1]
        elif re.search(r"lora_B|up", end):
            outputs = tensor.shape[0]
        elif re.search(r"hada_w1_b", end):
            inputs = tensor.shape[1]
        elif re.search(r"hada_w1_a", end):
            outputs = tensor.shape[0]
        elif re.search(r"\.diff$", end):
            outputs, inputs = tensor.shape[:2]
        elif re.search(r"\.a1\.weight", end):
            outputs = tensor.shape[0]
    lokr = {end.split(".")[1]: tensor.shape for end, tensor in tensors.items() if "lokr" in end}
    if lokr:
        outputs, inputs = _kronecker(lokr)
    return _Layer(inputs, outputs)


def _kronecker(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int | None, int | None]:
    def factor(number: int) -> tuple[int, int] | None:
        whole = shapes.get(f"lokr_w{number}")
        if whole is not None and len(whole) >= 2:
            return whole[0], whole[1]
        up, down = shapes.get(f"lokr_w{number}_a"), shapes.get(f"lokr_w{number}_b")
        if up is None or down is None or len(up) != 2 or len(down) != 2:
            return None
        return (up[1] if "lokr_t2" in shapes and number == 2 else up[0]), down[1]

    one, two = factor(1), factor(2)
    if one is None or two is None:
        return None, None
    return one[0] * two[0], one[1] * two[1]
