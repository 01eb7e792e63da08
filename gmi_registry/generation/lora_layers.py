"""The layers of a LoRA file: their tensors, and the change that each makes to a weight of the base.

A layer's change to its weight follows from the tensors that are there: LoRA, LoHa, LoKr, OFT, DoRA
of kohya's trainers, full differences and others. The formulas are those of LyCORIS (arXiv
2309.14859) and of the papers it names; how the tensors are called and laid out is LyCORIS' own
(lycoris-lora 4.1). A strength multiplies the whole change, as in the programs that people generate
with: weight + strength * (changed weight - weight).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.errors import GenerationError
from gmi_registry.weights import read_config

if TYPE_CHECKING:
    import torch

PROJECTIONS = 6
"""Random directions in which the effect of a layer is compared."""

_METADATA = "lora_adapter_metadata"
_ROWS = 16
"""Rows of a layer that are compared: a fused layer is split into seven parts at most."""

# The two factors of a LoRA, in the spellings of diffusers, PEFT, kohya, XLabs and BFL. What lies
# between the layer's name and the factor's differs, so the shortest name of the layer is taken.
_FACTOR = re.compile(
    r"^(?P<layer>.+?)(?:[._]lora|\.lora_linear_layer)?[._]"
    r"(?P<factor>lora_down|lora_up|lora_mid|lora_A|lora_B|down|up)"
    r"(?:\.(?!weight|bias)[\w-]+)?\.(?P<kind>weight|bias)$"
)
_EMBEDDING_FACTOR = re.compile(r"^(?P<layer>.+)\.lora_embedding_(?P<factor>[AB])(?:\.[\w-]+)?$")
_ROLE = re.compile(
    r"^(?P<layer>.+?)(?:[._]lora)?\."
    r"(?P<role>alpha|network_alpha|dora_scale|diff|diff_b|w_norm|b_norm|scalar|on_input|rescale|"
    r"oft_blocks|oft_diag|hada_\w+|lokr_\w+|lambda_layer|(?:[ab][12]|bm|[pq]_layer)\.weight|"
    r"lora_magnitude_vector)(?:\.[\w-]+)*$"
)
_EMBEDDING = re.compile(
    r"^(?:emb_params|bundle_emb\..+|string_to_param\..+|text_encoders_\d+|clip_[lg]|<[^.]+>)$"
)
_SIDES = {"lora_down": "down", "lora_A": "down", "down": "down", "A": "down"}
_SIDES |= {"lora_up": "up", "lora_B": "up", "up": "up", "B": "up", "lora_mid": "mid"}

# The tensor by which each kind of layer is recognised; the first that matches counts.
_ALGORITHMS = (
    ("up", "LoRA"),
    ("hada_w1_a", "LoHa"),
    ("lokr_w1", "LoKr"),
    ("lokr_w1_a", "LoKr"),
    ("a1.weight", "GLoRA"),
    ("oft_blocks", "OFT"),
    ("oft_diag", "OFT"),
    ("on_input", "IA3"),
    ("lambda_layer", "T-LoRA"),
    ("w_norm", "norm"),
    ("diff", "full"),
    ("diff_b", "full"),
)


@dataclass(frozen=True)
class LoraLayer:
    """The tensors of one layer; ``keys`` are their names in the file by their roles.

    Roles are ``down`` and ``up`` (the factors of a LoRA, [rank, inputs, ...] and
    [outputs, rank, ...]), ``alpha``, ``up_bias``, and others as their libraries call them.
    """

    name: str
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def algorithm(self) -> str | None:
        """What people call this way to change a layer; None for tensors of no known one."""
        for role, algorithm in _ALGORITHMS:
            if role in self.keys:
                if algorithm == "LoRA" and "down" not in self.keys:
                    return None
                dora = "dora_scale" in self.keys or "lora_magnitude_vector" in self.keys
                return "DoRA" if dora and algorithm == "LoRA" else algorithm
        return None


@dataclass(frozen=True)
class Effect:
    """What a LoRA's layer adds to its base, seen in :data:`PROJECTIONS` directions.

    ``rows`` is [n, :data:`PROJECTIONS`], of n rows of the change, each divided by the layer's
    scale; ``sizes`` [n] is what rounding is measured against. ``count`` is how many rows there are
    that are not 0, for which these n stand. ``scale`` is None where the file says none.
    """

    rows: torch.Tensor
    sizes: torch.Tensor
    count: int
    scale: float | None


class LoraFile:
    """The tensors of one LoRA file, all finite, by their names and by the layers they belong to."""

    def __init__(
        self,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        metadata: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """``config`` is the ``adapter_config.json`` of PEFT beside the file, if there is one."""
        self.name = name
        self._config = _stated_config(metadata) if config is None else {"": config}
        self.tensors = dict(tensors)
        self.metadata = dict(metadata)
        self.layers: dict[str, LoraLayer] = {}
        self.embeddings: list[str] = []
        self.others: list[str] = []
        for key in tensors:
            found = _place(key)
            if found is not None and self._is_new(*found):
                layer, role = found
                self.layers.setdefault(layer, LoraLayer(layer)).keys[role] = key
            elif _EMBEDDING.match(key):
                self.embeddings.append(key)
            else:
                self.others.append(key)

        for key in tuple(self.others):  # the vector of an IA3 has no name of its own
            layer, _, role = key.rpartition(".")
            if role == "weight" and layer in self.layers and "on_input" in self.layers[layer].keys:
                self.layers[layer].keys["weight"] = key
                self.others.remove(key)

    def _is_new(self, layer: str, role: str) -> bool:
        return layer not in self.layers or role not in self.layers[layer].keys

    def part(self, tensors: Mapping[str, torch.Tensor]) -> LoraFile:
        """The same file with ``tensors`` of its own alone."""
        file = LoraFile(self.name, tensors, self.metadata)
        file._config = self._config
        return file

    @property
    def algorithms(self) -> list[str]:
        """Those of its layers, the most frequent one first."""
        counts: dict[str, int] = {}
        for layer in self.layers.values():
            if layer.algorithm is not None:
                counts[layer.algorithm] = counts.get(layer.algorithm, 0) + 1
        return sorted(counts, key=lambda name: -counts[name])

    def tensor(self, layer: LoraLayer, role: str) -> torch.Tensor | None:
        """In float32, or None where the layer has none of that role."""
        key = layer.keys.get(role)
        return None if key is None else self.tensors[key].float()

    def alpha(self, layer: LoraLayer) -> float | None:
        """The numerator of the layer's scale, whose denominator is the rank.

        From the file's tensors, else from what PEFT or diffusers wrote of them; None where nothing
        says it.
        """
        for role in ("alpha", "network_alpha"):
            value = self.tensor(layer, role)
            if value is not None and value.numel() == 1:
                return float(value)
        for part in (layer.name.split(".")[0], ""):
            config = self._config.get(part)
            down = self.tensors.get(layer.keys.get("down", ""))
            if config is not None and down is not None:
                return _stated_alpha(config, layer.name, down.shape[0])
        return None

    def has_effect(self, layer: LoraLayer) -> bool:
        """Whether the layer changes its base at all.

        A LoRA of scale 0, or with a factor that is 0 throughout, adds nothing. So do differences of
        0; the other algorithms start from an effect of 0, too, but tell it less plainly.
        """
        algorithm = layer.algorithm
        if algorithm in ("full", "norm"):
            return any(bool(self.tensors[key].any()) for key in layer.keys.values())
        if algorithm == "DoRA":  # its magnitudes change a layer, too
            return True
        if algorithm not in ("LoRA", "LoHa", "LoKr"):
            return True
        bias = [self.tensors[key] for role, key in layer.keys.items() if role in _BIASES]
        if any(bool(value.any()) for value in bias):
            return True
        factors = {
            "LoRA": ("down", "up"),
            "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
            "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
        }[algorithm]
        given = [self.tensors[layer.keys[role]] for role in factors if role in layer.keys]
        # LoKr takes no notice of its alpha where neither factor is decomposed.
        scaled = algorithm != "LoKr" or any(role.endswith("_b") for role in layer.keys)
        if scaled and self.alpha(layer) == 0:
            return False
        return all(bool(value.any()) for value in given)

    def effect(self, layer: LoraLayer) -> Effect | None:
        """A few rows of the change that are not 0, evenly spread over all of them.

        None for an algorithm of which it takes more to say than a few products: all but LoRA (DoRA
        without its magnitudes) and LoKr.
        """
        if layer.algorithm == "LoKr":
            return self._kronecker_effect(layer)
        if layer.algorithm not in ("LoRA", "DoRA") or "mid" in layer.keys:
            return None
        down, up = self.tensor(layer, "down"), self.tensor(layer, "up")
        assert down is not None
        assert up is not None
        down, up = down.flatten(1), up.flatten(1)
        filled = up.any(dim=1)
        up = up[_spread(filled)]
        sizes = (up.square() @ down.square().sum(dim=1)).sqrt()
        alpha = self.alpha(layer)
        scale = None if alpha is None else alpha / down.shape[0]
        rows = up @ (down @ projection(down.shape[1]))
        return Effect(rows, sizes, int(filled.sum()), scale)

    def _kronecker_effect(self, layer: LoraLayer) -> Effect | None:
        import torch

        rank: int | None = None
        factors: list[torch.Tensor] = []
        for name in ("lokr_w1", "lokr_w2"):
            whole = self.tensor(layer, name)
            if whole is None:
                left, right = self.tensor(layer, f"{name}_a"), self.tensor(layer, f"{name}_b")
                if left is None or right is None or f"{name[:-2]}t{name[-1]}" in layer.keys:
                    return None
                whole, rank = left @ right, right.shape[0]
            if whole.dim() != 2:
                return None
            factors.append(whole)
        one, two = factors
        alpha = self.alpha(layer)
        scale = alpha / rank if alpha is not None and rank is not None else None
        filled = torch.kron(one.any(dim=1, keepdim=True), two.any(dim=1, keepdim=True)).flatten()
        chosen = [divmod(int(row), len(two)) for row in _spread(filled)]
        if not chosen:
            return Effect(torch.zeros(0, PROJECTIONS), torch.zeros(0), 0, scale)
        rows = torch.stack([torch.kron(one[i], two[j]) for i, j in chosen])
        directions = rows @ projection(rows.shape[1])
        return Effect(directions, rows.norm(dim=1), int(filled.sum()), scale)

    def check(self) -> None:
        """Raise GenerationError for tensors that cannot be those of one layer, and for a file that
        changes nothing."""
        for layer in self.layers.values():
            self._check_layer(layer)
        layers = [layer for layer in self.layers.values() if layer.algorithm is not None]
        if layers and not self.embeddings and not any(map(self.has_effect, layers)):
            no_alpha = all(self.alpha(layer) == 0 for layer in layers)
            why = "its alphas are 0" if no_alpha else "its factors are 0"
            raise GenerationError(
                f"{self.name}: has no effect: {why} in all of its layers ({len(layers):,})",
                hint="publish the file that the training wrote at its end",
            )

    def _check_layer(self, layer: LoraLayer) -> None:
        if layer.algorithm not in ("LoRA", "DoRA"):
            if "up" in layer.keys or "down" in layer.keys:
                there, gone = ("up", "down") if "up" in layer.keys else ("down", "up")
                raise GenerationError(
                    f"{self.name}: {layer.name} has the {there} factor of a LoRA without the "
                    f"{gone} factor",
                    hint=_DAMAGED,
                )
            return
        down, up = (self.tensors[layer.keys[role]] for role in ("down", "up"))
        whole = next((it for it in (down, up) if not it.dtype.is_floating_point), None)
        if whole is not None:
            raise GenerationError(
                f"{self.name}: {layer.name} has a factor of whole numbers "
                f"({str(whole.dtype).removeprefix('torch.')}): a LoRA that is quantised, which is "
                "not read here",
                hint="publish the file that it was made from, in float16, bfloat16 or float32",
            )
        if down.dim() < 2 or up.dim() < 2:
            raise GenerationError(
                f"{self.name}: {layer.name} has factors of shapes {list(down.shape)} and "
                f"{list(up.shape)}, which are not matrices",
                hint=_DAMAGED,
            )
        if down.shape[0] != up.shape[1]:
            raise GenerationError(
                f"{self.name}: {layer.name} has a down factor of rank {down.shape[0]} and an up "
                f"factor of rank {up.shape[1]}",
                hint=_DAMAGED,
            )
        alpha = layer.keys.get("alpha")
        if alpha is not None and self.tensors[alpha].numel() != 1:
            raise GenerationError(
                f"{self.name}: {alpha} is no single number, but of shape "
                f"{list(self.tensors[alpha].shape)}",
                hint=_DAMAGED,
            )


_BIASES = ("up_bias", "diff_b")
_DAMAGED = "the file is damaged: convert or download it again"


def _stated_config(metadata: Mapping[str, str]) -> dict[str, Mapping[str, Any]]:
    """What diffusers wrote into the header of a file of how it was made, by parts of a pipeline."""
    try:
        stated = json.loads(metadata.get(_METADATA, "{}"))
    except ValueError:
        return {}
    parts: dict[str, dict[str, Any]] = {}
    for key, value in (stated if isinstance(stated, dict) else {}).items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = value
    return {part: config for part, config in parts.items() if "lora_alpha" in config}


def _stated_alpha(config: Mapping[str, Any], name: str, rank: int) -> float | None:
    """The alpha of a layer by PEFT's rules; that of a rank-stabilised LoRA is put in terms of the
    usual scale."""
    alpha = config.get("lora_alpha")
    patterns = config.get("alpha_pattern")
    for pattern, value in (patterns if isinstance(patterns, dict) else {}).items():
        if name == pattern or name.endswith(f".{pattern.removeprefix('^')}"):
            alpha = value
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return None
    return alpha * math.sqrt(rank) if config.get("use_rslora") is True else float(alpha)


def read_lora_file(path: Path, name: str) -> LoraFile:
    """The file at ``path``, once nothing in it is damaged; ``name`` is for messages.

    An ``adapter_config.json`` of PEFT beside it says the scale, which the file does not.

    Raises GenerationError for a file that safetensors refuses, a tensor that is not finite, factors
    that do not belong together, and a LoRA that changes nothing.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise GenerationError(
            f"{name}: is not a complete safetensors file: {' '.join(str(error).split())[:200]}",
            hint="download or convert the file again",
        ) from error
    require_finite_tensors(name, tensors)
    peft = read_config(path.parent / "adapter_config.json")
    file = LoraFile(name, tensors, metadata, peft if "lora_alpha" in peft else None)
    file.check()
    return file


def require_finite_tensors(who: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise GenerationError for a tensor of a file that is not finite throughout."""
    import torch

    for key, value in tensors.items():
        plain = value.float() if value.element_size() == 1 else value
        if value.dtype.is_floating_point and not bool(torch.isfinite(plain).all()):
            raise GenerationError(
                f"{who}: the tensor {key[:200]} holds numbers that are not finite",
                hint="the training failed, or the file is damaged: publish an earlier step",
            )


def projection(inputs: int) -> torch.Tensor:
    """[inputs, :data:`PROJECTIONS`], the same numbers each time.

    Those of fewer inputs are the first of those of more, so that a layer whose base was widened by
    zeros has the same effect.
    """
    import torch

    generator = torch.Generator().manual_seed(20)
    return torch.randn(inputs, PROJECTIONS, generator=generator)


def _spread(mask: torch.Tensor) -> torch.Tensor:
    """Places of up to :data:`_ROWS` of the true elements, evenly spread."""
    import torch

    filled = mask.nonzero().flatten()
    steps = torch.linspace(0, max(len(filled) - 1, 0), min(_ROWS, len(filled)))
    return filled[steps.round().long()]


def _place(key: str) -> tuple[str, str] | None:
    """The layer that a tensor belongs to and its role there."""
    match = _FACTOR.match(key)
    if match is not None:
        side = _SIDES[match["factor"]]
        return match["layer"], side if match["kind"] == "weight" else f"{side}_bias"
    match = _EMBEDDING_FACTOR.match(key)
    if match is not None:
        return match["layer"], _SIDES[match["factor"]]
    if _EMBEDDING.match(key):
        return None
    match = _ROLE.match(key)
    if match is not None:
        return match["layer"], match["role"]
    return None


def is_merged(file: LoraFile) -> bool:
    """Whether layers of the file are of another kind than those that diffusers puts beside a layer.

    A magnitude of a DoRA in PEFT's spelling is for diffusers; in kohya's it leaves it out.
    """
    return any(
        layer.algorithm in CHANGES.keys() - {"LoRA", "DoRA"}
        or {"mid", "dora_scale", "diff_b"} & set(layer.keys)
        for layer in file.layers.values()
        if file.has_effect(layer)
    )


class LayerTensors:
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


def _lora(tensors: LayerTensors, weight: torch.Tensor) -> torch.Tensor:
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


def _loha(tensors: LayerTensors, weight: torch.Tensor) -> torch.Tensor:
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


def _lokr(tensors: LayerTensors, weight: torch.Tensor) -> torch.Tensor:
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


def _glora(tensors: LayerTensors, weight: torch.Tensor) -> torch.Tensor:
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


def _oft(tensors: LayerTensors, weight: torch.Tensor) -> torch.Tensor:
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


def _ia3(tensors: LayerTensors, weight: torch.Tensor) -> torch.Tensor:
    vector = tensors["weight"].flatten()
    on_input = bool(tensors["on_input"])
    if len(vector) != weight.shape[1 if on_input else 0]:
        raise ValueError(f"a vector of {len(vector)} numbers")
    if on_input:
        return weight * vector.reshape(1, -1, *(1 for _ in weight.shape[2:]))
    return weight * vector.reshape(-1, *(1 for _ in weight.shape[1:]))


def _difference(tensors: LayerTensors, weight: torch.Tensor) -> torch.Tensor:
    for role in ("diff", "w_norm"):
        if role in tensors:
            return tensors[role]
    return weight.new_zeros(weight.shape)  # a bias alone


_HADAMARD = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
_KRONECKER = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t1", "t2")
CHANGES: dict[str, tuple[Callable[[LayerTensors, torch.Tensor], torch.Tensor], frozenset[str]]] = {
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
