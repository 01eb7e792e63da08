"""Untrained models, small enough to draw in a fraction of a second, in real layouts."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from gmi_registry.model import Kind, ModelCard, ModelFiles
from gmi_registry.spec import ModelRef
from gmi_registry.spec.manifest import WeightFile

CONTEXT = 16
"""Tokens that the text encoder reads."""

MERGES = 4000
"""Of CLIP's 48,894: loading the whole vocabulary takes longer than drawing."""

WORDS = 2 * 256 + MERGES + 2

SIDE = 16
"""Pixels of a picture's side."""


def save_base(folder: Path) -> None:
    """A Stable Diffusion pipeline with random weights."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=SIDE,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=WORDS,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=CONTEXT,
            projection_dim=8,
            bos_token_id=WORDS - 2,
            eos_token_id=WORDS - 1,
            pad_token_id=WORDS - 1,
        )
    )
    with torch.no_grad():  # as born, the embeddings are too small to make two prompts differ
        text_encoder.get_input_embeddings().weight.mul_(50)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_tokenizer(folder.parent / f"{folder.name}-vocabulary"),
        unet=unet,
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def _tokenizer(folder: Path) -> Any:
    import open_clip
    from transformers import CLIPTokenizer

    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    words = list(open_clip.SimpleTokenizer().encoder)[: WORDS - 2]
    vocabulary = {
        word: row for row, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])
    }
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=CONTEXT,
        pad_token="<|endoftext|>",
    )


def save_lora(folder: Path, base: Path, *, prefix: str = "") -> None:
    """A LoRA with random weights for ``base``; a ``prefix`` spoils the names of its layers."""
    import torch
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    torch.manual_seed(1)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v", "conv1"]))
    layers = {
        prefix + name: torch.randn_like(value)
        for name, value in get_peft_model_state_dict(unet).items()
    }
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file's content by its path, as a hub is filled."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def model_files(
    path: Path,
    name: str,
    kind: Kind = "checkpoint",
    *,
    base: ModelFiles | None = None,
    **card: Any,
) -> ModelFiles:
    """What a hub says of the model at ``path``."""
    found = [path] if path.is_file() else sorted(path.rglob("*.safetensors"))
    root = path.parent if path.is_file() else path
    weights = (
        WeightFile(
            path=file.relative_to(root).as_posix(),
            size=file.stat().st_size,
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for file in found
    )
    said: dict[str, Any] = {"title": name, "tags": ("tiny",), "licence": "cc0-1.0", **card}
    if base is not None:
        said.setdefault("base_model", base.ref.id)
    return ModelFiles(
        ref=ModelRef("local", name),
        kind=kind,
        path=path,
        card=ModelCard(**said),
        weights=tuple(sorted(weights, key=lambda weight: weight.path)),
        base=base,
    )
