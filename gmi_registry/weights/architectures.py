"""Which architecture a diffusion network has, and which an adapter (a LoRA, a LoHa) changes.

Told from the names and shapes of layers. Sources: ``diffusers.loaders.single_file_utils`` for the
names of the first releases, the modules of ``diffusers.models`` for its own names,
``diffusers.loaders.lora_conversion_utils``, ``lycoris.modules`` of lycoris-lora and ``networks`` of
kohya-ss/sd-scripts.

Names of an adapter's layers come as the trainers spell them:
``transformer.transformer_blocks.0.attn.to_q`` (diffusers, PEFT),
``lora_unet_double_blocks_0_img_attn_qkv`` (kohya), ``diffusion_model.layers.0`` (ComfyUI),
``lora_transformer_single_transformer_blocks_0`` (OneTrainer). They are compared with ``_`` for
every dot and without the prefix.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from gmi_registry.weights.header import Tensor

# Numbers of layers, which would make a thousand names of one; not those within a word (attn2).
_NUMBER = re.compile(r"(?<=[._])\d+(?=[._]|$)", re.MULTILINE)
# Of real files all names together are two megabytes at most, and their forms a few kilobytes. What
# is cut off can only make a hostile file unknown.
_LONGEST_NAMES = 4_000_000
_LONGEST_TEXT = 300_000
_FIRST_NUMBER = re.compile(r"^\d+(?=\.)", re.MULTILINE)


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    """``pattern`` with ``^`` and ``$`` for a name's ends, and ``#`` for the number of a layer."""
    return re.compile(pattern, re.MULTILINE)


@cache
def patterns() -> Mapping[str, Any]:
    """What names of tensors tell: the tables of ``patterns.toml``, where they are explained.

    Read when a file is asked about: a search imports this module, and asks of none.
    """
    return tomllib.loads(Path(__file__).with_name("patterns.toml").read_text(encoding="utf-8"))


class Keys:
    """Tensors by name. A pattern sees every name with ``#`` in place of the numbers of layers.

    So ``input_blocks.7.1.proj_in.weight`` is ``input_blocks.#.#.proj_in.weight``.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors

    @cached_property
    def forms(self) -> dict[str, str]:
        """The different names with ``#``, each with the first true name that is spelt so."""
        names, length = [], 0
        for name in self.tensors:
            length += len(name)
            if length > _LONGEST_NAMES:
                break
            names.append(name)
        # A line end in a name would make two of it: no real name holds one.
        text = "\n".join(name.replace("\n", " ") for name in names)
        shapes = _FIRST_NUMBER.sub("#", _NUMBER.sub("#", text)).split("\n") if names else []
        found: dict[str, str] = {}
        for form, name in zip(shapes, names, strict=True):
            found.setdefault(form, name)
        return found

    @cached_property
    def _text(self) -> str:
        text = "\n".join(self.forms)
        return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT].rpartition("\n")[0]

    def has(self, *patterns: str) -> bool:
        """Whether each pattern is found in some name."""
        return all(compiled(pattern).search(self._text) for pattern in patterns)

    def has_any(self, *patterns: str) -> bool:
        """Whether one of the patterns is found in some name."""
        return any(compiled(pattern).search(self._text) for pattern in patterns)

    def fit(self, rule: Mapping[str, Any]) -> bool:
        """Whether all patterns are found that a row of the tables needs, and none it lacks."""
        return self.has(*rule["needs"]) and not self.has_any(*rule.get("lacks", ()))

    def tensor(self, pattern: str) -> Tensor | None:
        """The first tensor that has a name with the pattern in it."""
        found = compiled(pattern).search(self._text)
        if found is None:
            return None
        start = self._text.rfind("\n", 0, found.start()) + 1
        stop = self._text.find("\n", found.start())
        form = self._text[start : stop if stop >= 0 else None]
        return self.tensors[self.forms[form]]

    def size(self, pattern: str, axis: int) -> int | None:
        """One side of the first tensor of that name; None where there is none."""
        tensor = self.tensor(pattern)
        if tensor is None or not -len(tensor.shape) <= axis < len(tensor.shape):
            return None
        return tensor.shape[axis]

    def layers(self, pattern: str) -> int:
        """One more than the highest number where the pattern's only group is."""
        text = "\n".join(self.tensors)
        return 1 + max((int(it[1][:6]) for it in compiled(pattern).finditer(text)), default=-1)

    def below(self, *prefixes: str) -> Keys:
        """The tensors whose names begin with one of the prefixes, without it."""
        return Keys(
            {
                name[len(prefix) :]: tensor
                for name, tensor in self.tensors.items()
                for prefix in _first(name, prefixes)
            }
        )

    def share(self, prefix: str) -> float:
        """How many of the names begin with the prefix, 0 to 1."""
        count = sum(name.startswith(prefix) for name in self.tensors)
        return count / len(self.tensors) if self.tensors else 0.0


def _first(name: str, prefixes: Iterable[str]) -> list[str]:
    return next(([prefix] for prefix in prefixes if name.startswith(prefix)), [])


Architecture = Literal[
    "sd1", "sd2", "sdxl", "sdxl-refiner", "kolors", "sd3", "flux1", "flux2", "flux3", "chroma",
    "qwen-image", "qwen-image-2.1", "z-image", "lumina2", "lumina", "auraflow", "pixart", "sana",
    "hidream", "hunyuandit", "hunyuan-image", "cogview3", "cogview4", "glm-image", "kandinsky2",
    "kandinsky3", "stable-cascade", "omnigen", "omnigen2", "anima", "bria", "ovis-image",
    "longcat-image", "ernie-image", "krea2", "ideogram4", "nucleus-image", "prx", "joyimage", "dit",
    "deepfloyd-if", "pixel-unet", "wan", "ltx", "ltx2", "hunyuan-video", "cogvideox", "mochi",
    "cosmos", "svd", "modelscope", "allegro", "kandinsky5", "sana-video", "animatediff",
    "stable-audio", "ace-step",
]  # fmt: skip

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

VIDEO: frozenset[str] = frozenset(
    {
        "wan", "ltx", "ltx2", "hunyuan-video", "cogvideox", "mochi", "svd", "modelscope", "allegro",
        "sana-video", "animatediff",
    }
)  # fmt: skip
"""The architectures that make videos. Of Cosmos and Kandinsky 5 some members make images."""


# Whose layers have the same names, and in some sizes the same widths.
_ALIKE: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "flux1", "chroma", "qwen-image", "bria", "ovis-image", "longcat-image",
            "hunyuan-image", "hunyuan-video",
        }
    ),
    frozenset({"z-image", "lumina2", "bria", "ideogram4"}),
    frozenset({"sdxl", "kolors"}),
    frozenset({"sd2", "svd"}),
    frozenset({"cogview3", "cogview4", "glm-image", "cogvideox"}),
    frozenset({"pixart", "sana", "sana-video", "dit"}),
    frozenset({"ltx", "ltx2"}),
    frozenset({"anima", "cosmos"}),
)  # fmt: skip


def may_be(told: str | None, other: str | None) -> bool:
    """Whether a file that was told to be of one architecture may as well be of the other.

    An adapter of a few layers says no more; None is an architecture that is not known.
    """
    return (
        told is None
        or other is None
        or told == other
        or any({told, other} <= group for group in _ALIKE)
    )


def architecture_title(name: str) -> str:
    """What people call an architecture."""
    return str(patterns()["titles"][name])


class Network(NamedTuple):
    """A diffusion network. ``input_channels`` and ``output_channels`` are those of the noise.

    More in than out are a picture's, or a mask's; None where the layout does not say.
    ``variant`` names a member of a family that its layers tell apart (FLUX.1's ``schnell``).
    ``diffusers`` says whether the layers have the names that diffusers gives them.
    """

    architecture: Architecture | None
    input_channels: int | None = None
    output_channels: int | None = None
    variant: str | None = None
    diffusers: bool = False


def network_of(keys: Keys) -> Network | None:
    """What diffusion network these layers make, without a prefix before their names; else None."""
    for rule in patterns()["networks"]:
        if keys.fit(rule):
            return Network(
                _refined(rule["architecture"], keys),
                keys.size(rule["first"], 1) if "first" in rule else None,
                keys.size(rule["last"], 0) if "last" in rule else None,
                _variant(rule["architecture"], keys),
                rule.get("diffusers", False),
            )
    return _unet(keys) or _pixart(keys)


def _refined(architecture: Architecture, keys: Keys) -> Architecture:
    if architecture == "hunyuan-video":
        # An image has no third side that is patched.
        sides = keys.tensor(r"^img_in\.proj\.weight|^x_embedder\.proj\.weight")
        if sides is not None and len(sides.shape) == 4:
            return "hunyuan-image"
    if architecture == "bria" and keys.size(r"^context_embedder\.weight", 1) == 3584:
        return "longcat-image"  # which reads Qwen's prompts, where Bria reads T5's
    if architecture == "cogview4" and keys.size(r"^patch_embed\.proj\.weight", 0) == 2560:
        return "cogview3"
    if architecture == "lumina2" and "layers.0.adaLN_modulation.0.weight" in keys.tensors:
        # The two families differ in whether an activation comes before that layer.
        return "z-image"
    return architecture


def _variant(architecture: Architecture, keys: Keys) -> str | None:
    if architecture == "flux1":
        guided = keys.has_any(r"^guidance_in\.", r"guidance_embedder\.")
        return "dev" if guided else "schnell"
    if architecture == "sd3":
        layers = max(
            keys.layers(r"^joint_blocks\.(\d+)\."), keys.layers(r"^transformer_blocks\.(\d+)\.")
        )
        if layers == 38:
            return "3.5-large"
        return (
            "3.5-medium" if keys.has_any(r"\.x_block\.attn2\.", r"\.attn2\.to_q\.") else "3-medium"
        )
    if architecture == "pixart":
        return "alpha" if keys.has_any(r"^csize_embedder\.", r"resolution_embedder\.") else "sigma"
    return None


def unknown_network_of(keys: Keys) -> Network | None:
    """A newer network of diffusers, or a shard of one: attention has these names there."""
    layers = r"(?:blocks|layers|refiner)\.#\.(?:\w+\.)*\w*(?:attn\d?|attention)\.to_[qkv]\.weight$"
    return Network(None, diffusers=True) if keys.has(layers) else None


def _pixart(keys: Keys) -> Network | None:
    """PixArt, and Allegro which has its layers, for videos."""
    if not keys.has(r"^adaln_single\.", r"^pos_embed\.proj\.", r"^transformer_blocks\.#\.attn2\."):
        return None
    inside = keys.size(r"^pos_embed\.proj\.weight", 0)
    found: Architecture = "allegro" if inside == 2304 else "pixart"
    channels = keys.size(r"^pos_embed\.proj\.weight", 1)
    return Network(found, channels, None, _variant(found, keys), True)


CONTEXTS: dict[int, Architecture] = {
    768: "sd1",
    1024: "sd2",
    2048: "sdxl",
    1280: "sdxl-refiner",
}
"""The width of the prompt that a UNet's second attention reads, by its architecture."""


def _unet(keys: Keys) -> Network | None:
    original = keys.has(r"^input_blocks\.#\.#\.", r"^output_blocks\.#\.")
    ours = keys.has(r"^down_blocks\.#\.", r"^up_blocks\.#\.", r"^conv_in\.", r"^time_embedding\.")
    if not original and not ours:
        return None
    first, last = (
        (r"^input_blocks\.#\.#\.weight", r"^out\.#\.weight")
        if original
        else (r"^conv_in\.weight", r"^conv_out\.weight")
    )
    if original:
        tensor = keys.tensors.get("input_blocks.0.0.weight")
        channels = tensor.shape[1] if tensor and len(tensor.shape) > 1 else keys.size(first, 1)
        tensor = keys.tensors.get("out.2.weight")
        out = tensor.shape[0] if tensor and tensor.shape else keys.size(last, 0)
    else:
        channels, out = keys.size(first, 1), keys.size(last, 0)
    return Network(_unet_kind(keys), channels, out, None, ours)


def _unet_kind(keys: Keys) -> Architecture | None:
    if keys.has_any(r"\.time_stack\.", r"\.temporal_transformer_blocks\.", r"\.time_mixer\."):
        return "svd"
    if keys.has_any(r"\.motion_modules\."):
        return "animatediff"
    if keys.has_any(r"\.temp_attentions\.", r"^transformer_in\."):
        return "modelscope"
    if keys.has_any(r"^add_embedding\.image_", r"^encoder_hid_proj\.image_embeds"):
        return "kandinsky2"
    if keys.has_any(r"^add_embedding\.(?:norm1|pool)\."):
        return "deepfloyd-if"
    if keys.has(r"^encoder_hid_proj\.", r"^add_embedding\.linear_"):
        return "kolors"
    context = keys.size(r"\.attn2\.to_k\.weight", -1)
    sized = keys.has_any(r"^add_embedding\.linear_", r"^label_emb\.#\.#\.weight")
    known = CONTEXTS.get(context or 0)
    if known is not None and (sized or known != "sdxl-refiner"):
        return known
    if sized:
        return "sdxl"
    if context is None:
        return None if keys.has_any(r"\.attn2\.") else "pixel-unet"
    # Networks of another size than those of the releases: the projections of SD 1 are convolutions.
    sides = keys.tensor(r"\.proj_in\.weight")
    return None if sides is None else "sd1" if len(sides.shape) == 4 else "sd2"


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
