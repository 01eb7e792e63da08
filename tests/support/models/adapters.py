"""A LoRA for each architecture that takes one, in diffusers' own layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch

from tests.support.models.files import architecture_folder
from tests.support.models.store import ModelStore

__all__ = ["lora_folder", "takes_lora"]

RANK = 2


def _pipeline_class(folder: Path) -> Any:
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    return getattr(diffusers, index["_class_name"])


def takes_lora(store: ModelStore, name: str) -> bool:
    """Whether the architecture's pipeline loads LoRAs at all."""
    kind = _pipeline_class(architecture_folder(store, name))
    # Kandinsky 3's has the method, and no network that could hold an adapter.
    return hasattr(kind, "load_lora_weights") and name != "kandinsky3"


def lora_folder(store: ModelStore, name: str) -> Path:
    """A folder with a LoRA for all attention layers of the architecture's network. Read only."""
    base = architecture_folder(store, name)

    def build(folder: Path) -> None:
        from peft import LoraConfig
        from peft.utils import get_peft_model_state_dict

        kind = _pipeline_class(base)
        part = "unet" if (base / "unet").exists() else "transformer"
        index = json.loads((base / "model_index.json").read_text(encoding="utf-8"))
        network = getattr(diffusers, index[part][1]).from_pretrained(base / part)
        network.add_adapter(
            LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["to_q", "to_k", "to_v"])
        )
        generator = torch.Generator().manual_seed(1)
        layers = {
            key: torch.randn(value.shape, generator=generator)
            for key, value in get_peft_model_state_dict(network).items()
        }
        kind.save_lora_weights(folder, **{f"{part}_lora_layers": layers})

    return store.folder_of(f"{name}-lora", build)
