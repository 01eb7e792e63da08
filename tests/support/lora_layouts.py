"""One LoRA, in the layouts that trainers write: the same factors under other names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from gmi_registry.model import ModelFiles
from tests.support.models.files import architecture_folder, model_files
from tests.support.models.store import ModelStore

RANK = 2
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
TEXT = ("q_proj", "v_proj", "fc1")
T5 = ("SelfAttention.q", "SelfAttention.v")


@dataclass(frozen=True)
class Factors:
    """Down and up of the layers of a pipeline's parts, by (part, name)."""

    of: dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]

    def __or__(self, other: Factors) -> Factors:
        return Factors(self.of | other.of)


def factors(part: Any, name: str, ends: tuple[str, ...] = ATTENTION) -> Factors:
    """Random ones for the layers of ``part`` whose names end so."""
    generator = torch.Generator().manual_seed(len(name))
    found = {}
    for layer, module in part.named_modules():
        if not layer.endswith(ends) or getattr(module, "weight", None) is None:
            continue
        shape = tuple(module.weight.shape)
        if len(shape) >= 2:
            down = torch.randn(RANK, *shape[1:], generator=generator) / 2
            up = torch.randn(shape[0], RANK, *(1 for _ in shape[2:]), generator=generator) / 2
            found[name, layer] = (down, up)
    assert found
    return Factors(found)


def diffusers_names(
    made: Factors, down: str = "lora_A", up: str = "lora_B", prefix: str | None = None
) -> dict[str, torch.Tensor]:
    """``part.layer.lora_A.weight``; ``prefix`` in place of the part."""
    tensors = {}
    for (part, layer), (one, two) in made.of.items():
        name = f"{part}.{layer}" if prefix is None else f"{prefix}{layer}"
        tensors[f"{name}.{down}.weight"] = one
        tensors[f"{name}.{up}.weight"] = two
    return tensors


def attention_processors(made: Factors) -> dict[str, torch.Tensor]:
    """As diffusers wrote them before 0.22: ``...attn1.processor.to_q_lora.down.weight``."""
    tensors = {}
    for (part, layer), (one, two) in made.of.items():
        block, _, end = layer.partition(".attn")
        number, _, end = end.partition(".")
        name = f"{part}.{block}.attn{number}.processor.{end.removesuffix('.0')}_lora"
        tensors |= {f"{name}.down.weight": one, f"{name}.up.weight": two}
    return tensors


_KOHYA = {
    "unet": "lora_unet_",
    "transformer": "lora_unet_",
    "text_encoder": "lora_te1_",
    "text_encoder_2": "lora_te2_",
    "text_encoder_3": "lora_te3_",
}


def kohya_names(
    made: Factors, alpha: float | None = 1.0, prefixes: dict[str, str] | None = None
) -> dict[str, torch.Tensor]:
    """``lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight`` and an alpha."""
    tensors = {}
    for (part, layer), (one, two) in made.of.items():
        name = (_KOHYA | (prefixes or {}))[part]
        if part.startswith("text_encoder") and "block" not in layer:
            name += "text_model_"
        name += layer.removeprefix("text_model.").replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": one, f"{name}.lora_up.weight": two}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    return tensors


def write(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    base: ModelFiles | None,
    *,
    file: str = "style.safetensors",
    metadata: dict[str, str] | None = None,
    kind: Any = "lora",
    **card: Any,
) -> ModelFiles:
    """The model of a folder with this one file."""
    folder.mkdir(exist_ok=True)
    copies = {key: value.contiguous().clone() for key, value in tensors.items()}
    save_file(copies, folder / file, metadata=metadata)
    return model_files(folder, folder.name, kind, base=base, **card)


class Bases:
    """The architectures' tiny models, loaded once for their names and weights."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._loaded: dict[str, Any] = {}

    def files(self, name: str) -> ModelFiles:
        return model_files(architecture_folder(self._store, name), name)

    def pipeline(self, name: str) -> Any:
        """The base itself. Read only."""
        if name not in self._loaded:
            from gmi_registry.generation import load_pipeline

            self._loaded[name] = load_pipeline(self.files(name), device="cpu")
        return self._loaded[name]

    def factors(self, name: str, **ends: tuple[str, ...]) -> Factors:
        """Of the parts that ``ends`` name."""
        pipeline, made = self.pipeline(name), Factors({})
        for part, these in ends.items():
            made |= factors(getattr(pipeline, part), part, these)
        return made


def weight_now(pipeline: Any, part: str, layer: str) -> torch.Tensor:
    """The weight that a layer computes with: its own, and what an adapter beside it adds."""
    module = getattr(pipeline, part).get_submodule(layer)
    if hasattr(module, "get_base_layer"):
        return module.get_base_layer().weight.detach() + module.get_delta_weight("gmi").detach()
    return module.weight.detach()
