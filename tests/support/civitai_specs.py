"""Specifications of Civitai's versions, and small safetensors files."""

from __future__ import annotations

import hashlib

import numpy as np
from safetensors.numpy import save

from gmi_registry.spec import (
    DescribedModel,
    EncoderRef,
    GenerationRecipe,
    ModelRef,
    Preprocess,
    PromptSet,
    Sampler,
    WeightFile,
    build_spec,
    write_spec,
)
from tests.support.civitai_loopback import File, Model, Version

ENCODER = EncoderRef(
    name="grey",
    pretrained="none",
    weights_sha256="0" * 64,
    preprocess=Preprocess(
        size=8,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        resize_mode="squash",
    ),
    image_dim=6,
    text_dim=5,
)
PROMPTS = PromptSet("things", 1, ("a cat", "a tree", "a car"))
RECIPE = GenerationRecipe(
    sampler=Sampler(name="DDIM"), steps=5, guidance_scale=3.0, width=16, height=16, seeds=(0,)
)


def lora_bytes(seed=0):
    rng = np.random.default_rng(seed)
    return save({"lora_unet_x.lora_down.weight": rng.standard_normal((64, 64)).astype(np.float32)})


def checkpoint_bytes():
    """A whole model in one file, by the names of its parts."""
    kernel, table = np.ones((4, 4, 3, 3), np.float32), np.ones((8, 4), np.float32)
    text = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    parts = ("model.diffusion_model.input_blocks.0.0", "first_stage_model.decoder.conv_in")
    return save({**{f"{part}.weight": kernel for part in parts}, text: table})


def network_bytes():
    """A network alone, without text encoders and VAE."""
    kernel = np.ones((4, 4, 3, 3), np.float32)
    return save({"model.diffusion_model.input_blocks.0.0.weight": kernel})


def embedding_bytes():
    """A textual inversion of SDXL: two tokens."""
    return save({"clip_l": np.ones((2, 768), np.float32), "clip_g": np.ones((2, 1280), np.float32)})


def vae_bytes():
    kernel = np.ones((4, 4, 3, 3), np.float32)
    names = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out")
    blocks = ("decoder.up.0.block.0.conv1", "encoder.down.0.block.0.conv1", "quant_conv")
    return save({f"{name}.weight": kernel for name in (*names, *blocks, "post_quant_conv")})


def version_of(number, model_id, *, seed=None, **changes):
    """A version with one safetensors file, whose number is ten times the version's."""
    content = lora_bytes(number if seed is None else seed)
    file = File(number * 10, content, name=f"file{number}.safetensors")
    return Version(**{"id": number, "files": [file]} | changes)


def style(model_id, *numbers, tags=("style",), **changes):
    """A LoRA with these versions."""
    versions = [version_of(number, model_id) for number in numbers]
    named = {"id": model_id, "name": f"Style {model_id}", "tags": list(tags), "versions": versions}
    return Model(**named | changes)


def spec_of(ref, content, *, path=None, tags=("style",), base_model="SD 1.5", vector=None):
    """Of a version that has one file with this content."""
    rng = np.random.default_rng(int(ref.revision))
    images = rng.standard_normal((3, 6)) if vector is None else np.tile(vector, (3, 1))
    return build_spec(
        model=DescribedModel(
            hub="civitai",
            id=ref.id,
            revision=ref.revision,
            title=f"Model {ref.id}",
            kind="lora",
            base_model=base_model,
            tags=tags,
            weights=(
                WeightFile(
                    path=path or f"{ref.revision}0.safetensors",
                    size=len(content),
                    sha256=hashlib.sha256(content).hexdigest(),
                ),
            ),
        ),
        encoder=ENCODER,
        prompt_sets=[PROMPTS],
        recipe=RECIPE,
        image_embeddings=images.astype(np.float32),
        prompt_embeddings=np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32),
        image_prompt=np.arange(3),
    )


def describe(store, civitai, *refs):
    """Put specifications of these versions, with the weights that they have, into the store."""
    for text in refs:
        ref = ModelRef.parse(text)
        model = civitai.state.models[int(ref.id)]
        version = next(item for item in model.versions if str(item.id) == ref.revision)
        folder = store.root / "civitai" / ref.id / str(ref.revision)
        folder.mkdir(parents=True)
        spec = spec_of(
            ref,
            version.files[0].content,
            tags=tuple(model.tags),
            base_model=version.base_model,
        )
        write_spec(spec, folder)
