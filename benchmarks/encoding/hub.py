"""A folder's hub of sixteen specifications of random numbers, for an encoder that was exported."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np

from gmi_registry.encoders.onnx_files import OnnxFolder
from gmi_registry.hubs.local import LocalHub
from gmi_registry.spec import (
    DescribedModel,
    GenerationRecipe,
    PromptSet,
    Sampler,
    WeightFile,
    build_spec,
    encode_spec,
)

_LORA = "pytorch_lora_weights.safetensors"
_PROMPTS = PromptSet("benchmark", 1, tuple(f"prompt number {n}" for n in range(55)))
_RECIPE = GenerationRecipe(
    sampler=Sampler(name="DDIM"), steps=20, guidance_scale=7.0, width=64, height=64, seeds=(0,)
)


def filled(root: Path, encoder: Path, models: int = 16) -> None:
    """A hub in ``root`` with what lies in ``encoder``, open_clip's layout and ``onnx`` in it."""
    ref = OnnxFolder(encoder / "onnx").description.encoder
    LocalHub.create(root, root.parent / "unused")
    place = root / "encoders" / ref.name / ref.pretrained
    shutil.copytree(encoder, place, copy_function=_linked)
    rng = np.random.default_rng(5)
    prompts = rng.standard_normal((55, ref.text_dim))
    for number in range(models):
        name = f"model-{number:02}"
        weights = f"weights of {name}".encode()
        described = DescribedModel(
            hub="local",
            id=name,
            title=name,
            kind="lora",
            weights=(
                WeightFile(
                    path=_LORA, size=len(weights), sha256=hashlib.sha256(weights).hexdigest()
                ),
            ),
        )
        spec = build_spec(
            model=described,
            encoder=ref,
            prompt_sets=[_PROMPTS],
            recipe=_RECIPE,
            image_embeddings=rng.standard_normal((55, ref.image_dim)),
            prompt_embeddings=prompts,
            image_prompt=np.arange(55),
        )
        folder = root / "models" / name
        (folder / "gmi").mkdir(parents=True)
        (folder / _LORA).write_bytes(weights)
        (folder / "README.md").write_text("---\ntags: [gmi-spec]\n---\n", encoding="utf-8")
        manifest, tensors = encode_spec(spec)
        (folder / "gmi" / "spec.json").write_bytes(manifest)
        (folder / "gmi" / "spec.tensors").write_bytes(tensors)


def _linked(source: str, target: str) -> None:
    """The same file under another name, where the disk is the same."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
