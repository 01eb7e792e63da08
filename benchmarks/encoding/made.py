"""``python -m benchmarks.encoding.made ARCHITECTURE DIR``: an encoder of random weights, exported.

In a process of its own, whose gigabytes then go back. Random weights take the same time as trained.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PRETRAINED = "random"


def made(name: str, folder: Path) -> None:
    """open_clip's layout in ``folder``, float32; exports in ``onnx`` and ``half`` in it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    from gmi_registry.encoders.export import export_encoder
    from gmi_registry.encoders.open_clip import OpenClipEncoder

    torch.manual_seed(5)
    model = open_clip.create_model(name)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    pixels = ("mean", "std", "interpolation", "resize_mode")
    config = {
        "model_cfg": open_clip.get_model_config(name),
        "preprocess_cfg": {key: model.visual.preprocess_cfg[key] for key in pixels},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    del model, state
    encoder = OpenClipEncoder.from_folder(folder, name, PRETRAINED)
    export_encoder(encoder, folder / "onnx")
    export_encoder(encoder, folder / "half", half=True)


if __name__ == "__main__":
    made(sys.argv[1], Path(sys.argv[2]))
