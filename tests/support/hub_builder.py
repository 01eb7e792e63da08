"""Real hubs in a temporary folder: weights, cards, and specifications of coloured pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save, save_file

from gmi_registry.hubs import LocalHub
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

PROMPTS = PromptSet("colours", 1, ("a cat", "a tree", "a car"))
OTHER_PROMPTS = PromptSet("houses", 1, ("a hut", "a castle"))
RECIPE = GenerationRecipe(
    sampler=Sampler(name="DDIM"), steps=5, guidance_scale=3.0, width=16, height=16, seeds=(0,)
)
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
SIDE = 8


class ProjectionEncoder:
    """Two fixed random projections: of the pixels of a small square, and of a text's digest."""

    def __init__(self, name="projection", pretrained="seed-0", *, seed=0, dim=6):
        rng = np.random.default_rng(seed)
        self._image = rng.standard_normal((SIDE * SIDE * 3, dim)).astype(np.float32) / 4
        self._text = rng.standard_normal((32, 5)).astype(np.float32)
        self.ref = EncoderRef(
            name=name,
            pretrained=pretrained,
            weights_sha256=hashlib.sha256(self._image.tobytes() + self._text.tobytes()).hexdigest(),
            preprocess=Preprocess(
                size=SIDE,
                mean=(0.5, 0.5, 0.5),
                std=(0.5, 0.5, 0.5),
                interpolation="bicubic",
                resize_mode="squash",
            ),
            image_dim=dim,
            text_dim=5,
        )
        self.images_encoded = 0

    def encode_images(self, images):
        self.images_encoded += len(images)
        pixels = [np.asarray(image.convert("RGB").resize((SIDE, SIDE))) for image in images]
        return (np.stack(pixels).reshape(len(images), -1) / 127.5 - 1).astype(
            np.float32
        ) @ self._image

    def encode_texts(self, texts):
        digests = [hashlib.sha256(text.encode()).digest() for text in texts]
        bytes_ = np.array([list(digest) for digest in digests], np.float32)
        return (bytes_ / 127.5 - 1) @ self._text


def picture(colour, seed=0):
    """A square of one colour with a little noise."""
    noise = np.random.default_rng(seed).normal(0, 12, (16, 16, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def save_lora(path, seed=0):
    weights = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
    save_file({"unet.attn.to_q.lora_A.weight": weights}, path)


def lora_of(value):
    """A LoRA's file all of whose numbers are ``value``."""
    return save({"unet.attn.to_q.lora_A.weight": np.full((2, 4), value, np.float32)})


def save_whole(path, seed=0):
    weights = np.random.default_rng(seed).standard_normal((2, 4)).astype(np.float32)
    save_file({"model.diffusion_model.input.weight": weights}, path)


def weight_file(content, path="w.safetensors"):
    digest = hashlib.sha256(content).hexdigest()
    return WeightFile(path=path, size=len(content), sha256=digest)


def painted_spec(model, colour, *, encoder=None, prompts=PROMPTS, images=None, previous=None):
    """Of a model that paints in one colour; ``images`` are embeddings in place of its pictures'."""
    encoder = encoder or ProjectionEncoder()
    if images is None:
        images = encoder.encode_images([picture(colour, seed) for seed in range(len(prompts))])
    return build_spec(
        model=model,
        encoder=encoder.ref,
        prompt_sets=[prompts],
        recipe=RECIPE,
        image_embeddings=images,
        prompt_embeddings=encoder.encode_texts(prompts.prompts),
        image_prompt=np.arange(len(prompts)),
        previous=previous,
    )


def random_spec(model, seed=0):
    """Of a model whose images are anything; another ``seed`` gives another specification."""
    images = np.random.default_rng(seed).standard_normal((len(PROMPTS), 6))
    return painted_spec(model, None, images=images)


def altered_spec(spec, *, images=None, texts=None):
    """The same specification with other numbers, and digests that are right for them."""
    manifest = spec.manifest
    return build_spec(
        model=manifest.model,
        encoder=manifest.encoder,
        prompt_sets=[block.prompt_set for block in manifest.prompt_sets],
        recipe=manifest.generation.recipe,
        image_embeddings=spec.image_embeddings if images is None else images,
        prompt_embeddings=spec.prompt_embeddings if texts is None else texts,
        image_prompt=spec.image_prompt,
    )


def style_spec(encoder, model_id, weights, colour):
    """Of a LoRA on Hugging Face that has these weight files and paints in one colour."""
    model = DescribedModel(hub="hf", id=model_id, title="Style", kind="lora", weights=weights)
    return painted_spec(model, colour, encoder=encoder)


class HubBuilder:
    """A hub in ``root``, and its models."""

    def __init__(self, root: Path, cache: Path, encoder: ProjectionEncoder):
        self.hub = LocalHub.create(root, cache)
        self.root, self.cache, self.encoder = root, cache, encoder

    def folder(self, name):
        return self.root / "models" / name

    def add_lora(self, name, *, seed=0, card=None, file="pytorch_lora_weights.safetensors"):
        folder = self.folder(name)
        folder.mkdir(exist_ok=True)
        save_lora(folder / file, seed)
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        return ModelRef("local", name)

    def add_checkpoint(self, name, *, card=None):
        folder = self.folder(name)
        for part in ("unet", "vae"):
            (folder / part).mkdir(parents=True)
            save_whole(folder / part / "diffusion_pytorch_model.safetensors", seed=len(part))
        (folder / "model_index.json").write_text(json.dumps(INDEX))
        if card is not None:
            (folder / "README.md").write_text(card, encoding="utf-8")
        return ModelRef("local", name)

    def make_spec(
        self, name, colour=(128, 128, 128), *, prompts=PROMPTS, encoder=None, **described
    ):
        """What publishing ``name`` would give, were its pictures all of that colour."""
        model = self.hub.fetch_model(ModelRef("local", name))
        details = {"title": name.title(), "kind": model.kind, "tags": ()} | described
        described_model = DescribedModel(
            hub="local", id=name, revision=model.ref.revision, weights=model.weights, **details
        )
        return painted_spec(
            described_model, colour, encoder=encoder or self.encoder, prompts=prompts
        )

    def publish(self, name, colour=(128, 128, 128), *, preview=None, **changes):
        """Weights unless they are there, and a specification straight into the folder."""
        if not self.folder(name).exists():
            self.add_lora(name, seed=sum(name.encode()))
        spec = self.make_spec(name, colour, **changes)
        write_spec(spec, self.folder(name), preview=preview)
        return spec
