"""A CLIP small enough for a test: random weights, open_clip's own code and folder layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

MODEL: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PREPROCESS: dict[str, Any] = {
    "mean": [0.5, 0.4, 0.3],
    "std": [0.5, 0.6, 0.7],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}


def tiny_state(seed: int = 0, **overrides: Any) -> dict[str, torch.Tensor]:
    """The weights of a freshly initialised model, float16."""
    torch.manual_seed(seed)
    model = open_clip.CLIP(**{**MODEL, **overrides})
    return {key: value.to(torch.float16).contiguous() for key, value in model.state_dict().items()}


def write_tiny_clip(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """Write the folder; ``config`` replaces sections of the JSON file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tiny_state(seed), folder / "open_clip_model.safetensors")
    sections = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS, **config}
    (folder / "open_clip_config.json").write_text(json.dumps(sections), encoding="utf-8")
    return folder
