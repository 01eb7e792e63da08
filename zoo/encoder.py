"""The zoo's encoder: a small CLIP in open_clip's architecture, trained on icons and captions.

It sees names and styles of the artists' icons and never a generated picture.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch.nn import functional

from zoo.captions import NAME_ONLY, STYLE_ONLY, WITH_BOTH, caption, draw_kinds
from zoo.pictures import Pictures
from zoo.training import Plan, Training, device

PLAN = Plan(steps=3200, rate=2e-3, weight_decay=0.02, average=0.99)
NAMES_A_BATCH, STYLES_A_NAME = 48, 4
CAPTION_SHARES = (0.1, 0.5, 0.4, 0.0)
"""Name and style, name alone, style alone, nothing."""

# A ModifiedResNet: on a thousand names it learns in minutes what a transformer needs hours for.
MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "layers": [1, 2, 2, 1], "width": 16, "head_width": 32},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
NORM = 10.0
"""Mean norm of image embeddings, of the order of OpenAI's CLIP models."""
PREPROCESS: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
    "fill_color": 255,
}


def build() -> open_clip.CLIP:
    torch.manual_seed(3)
    return open_clip.CLIP(**MODEL)


def positives(names: torch.Tensor, styles: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Which image (row) each caption (column) is true of: float32 [B, B], columns sum to 1."""
    same_name, same_style = names[:, None] == names, styles[:, None] == styles
    true = torch.where(kinds == WITH_BOTH, same_name & same_style, same_name)
    true = torch.where(kinds == STYLE_ONLY, same_style, true).float()
    return true / true.sum(0, keepdim=True)


def contrastive_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Symmetric cross entropy of CLIP with every true pair as a positive, not one of them."""
    logits = scale * functional.normalize(images, dim=-1) @ functional.normalize(texts, dim=-1).T
    rows = target / target.sum(1, keepdim=True)
    by_text = -(target * logits.log_softmax(0)).sum(0).mean()
    by_image = -(rows * logits.log_softmax(1)).sum(1).mean()
    return (by_text + by_image) / 2


def jitter(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Small shifts, zooms, mirror images and softness: float32 [B, 3, 64, 64] in -1 to 1."""
    count = len(pixels)
    draw = torch.rand((5, count), generator=generator)
    zoom = 0.9 + 0.25 * draw[0]
    mirror = torch.where(draw[1] < 0.3, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom * mirror, zoom
    theta[:, 0, 2], theta[:, 1, 2] = (draw[2] - 0.5) * 0.2, (draw[3] - 0.5) * 0.2
    grid = functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    moved = functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    soft = functional.interpolate(
        functional.avg_pool2d(moved, 2), scale_factor=2, mode="bilinear", align_corners=False
    )
    amount = (draw[4] - 0.6).clamp(min=0)[:, None, None, None] * 2
    return moved.lerp(soft, amount)


def train(pictures: Pictures, work: Path) -> open_clip.CLIP:
    model = build().to(device())
    tokenizer = open_clip.SimpleTokenizer(context_length=32)
    pixels, present = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.present)

    def loss(generator: torch.Generator) -> torch.Tensor:
        chosen = torch.randperm(len(pictures.names), generator=generator)[:NAMES_A_BATCH]
        names = chosen.repeat_interleave(STYLES_A_NAME)
        shares = present[:, chosen].T.float()
        styles = torch.multinomial(shares, STYLES_A_NAME, generator=generator).flatten()
        kinds = draw_kinds(CAPTION_SHARES, len(names), generator)
        wordings = torch.randint(2, (len(names),), generator=generator).tolist()
        texts = [
            caption(kind, pictures.names[name], style, wording)
            for kind, name, style, wording in zip(
                kinds, names.tolist(), styles.tolist(), wordings, strict=True
            )
        ]
        clean = pixels[styles, names].permute(0, 3, 1, 2).float() / 127.5 - 1
        images = jitter(clean, generator).to(device())
        with torch.autocast(device().type, dtype=torch.bfloat16):
            image_features = model.encode_image(images).float()
            text_features = model.encode_text(tokenizer(texts).to(device())).float()
        target = positives(names, styles, torch.tensor(kinds)).to(device())
        scale = model.logit_scale.exp().clamp(max=100)
        return contrastive_loss(image_features, text_features, scale, target)

    Training("encoder", model, loss, PLAN, seed=4, work=work).run()
    silence_unseen_words(model, tokenizer, pictures)
    scale_images(model, pixels[present][::16])
    return model


@torch.no_grad()
def scale_images(model: open_clip.CLIP, pixels: torch.Tensor) -> None:
    """Scale the last projection so that raw image embeddings have a mean norm of ``NORM``.

    The loss looks at directions alone, so training leaves the norm to chance; a kernel on raw
    embeddings depends on it.
    """
    images = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    parts = [model.encode_image(part.to(device())) for part in torch.split(images, 192)]
    factor = NORM / torch.cat(parts).norm(dim=-1).mean()
    model.visual.attnpool.c_proj.weight *= factor
    model.visual.attnpool.c_proj.bias *= factor


def silence_unseen_words(
    model: open_clip.CLIP, tokenizer: open_clip.SimpleTokenizer, pictures: Pictures
) -> None:
    """Words that no caption held get a zero vector, not the noise they were born with."""
    texts = [
        caption(WITH_BOTH, name, style, wording)
        for name in pictures.names
        for style in (range(16) if name == pictures.names[0] else range(1))
        for wording in (0, 1)
    ] + [caption(NAME_ONLY, name, 0) for name in pictures.names]
    seen = torch.zeros(model.token_embedding.num_embeddings, dtype=torch.bool)
    seen[tokenizer(texts).flatten()] = True
    with torch.no_grad():
        model.token_embedding.weight[~seen] = 0


def save(model: open_clip.CLIP, folder: Path) -> None:
    """As open_clip's own ``local-dir:`` layout, float16."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: value.detach().cpu().to(torch.float16).contiguous()
        for key, value in model.state_dict().items()
        if value.is_floating_point()
    }
    save_file(state, folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
