"""The parts of the zoo in the order in which they need each other.

The result, ``zoo/hub``, is laid out as a local hub: models with their cards, and the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKL
from PIL import Image

from gmi_registry.encoders.export import export_encoder
from gmi_registry.encoders.open_clip import OpenClipEncoder
from zoo import autoencoder, base, cards, encoder, lora, single_file
from zoo.pictures import Pictures
from zoo.styles import STYLES

HUB = Path(__file__).parent / "hub"
MODELS = HUB / "models"
QUERIES = HUB.parent / "queries"
BASE = MODELS / cards.BASE
MERGED_STYLE = "fluent-3d"
MERGED = MODELS / f"icon-{MERGED_STYLE}-merged" / f"icon-{MERGED_STYLE}.safetensors"
ENCODER = HUB / "encoders" / "gmi-zoo-clip" / "icons-v1"


def build_autoencoder(pictures: Pictures, work: Path) -> None:
    model = autoencoder.train(pictures, work)
    sample = pictures.pixels[:, ::20].reshape(-1, *pictures.pixels.shape[2:])
    print(f"autoencoder: PSNR {autoencoder.psnr(model, sample):.1f} dB", flush=True)
    model.save_pretrained(work / "vae")


def build_encoder(pictures: Pictures, work: Path) -> None:
    encoder.save(encoder.train(pictures, work), ENCODER)
    made = OpenClipEncoder.from_folder(ENCODER, ENCODER.parent.name, ENCODER.name)
    export_encoder(made, ENCODER / "onnx", half=True)


def build_base(pictures: Pictures, work: Path) -> None:
    vae = AutoencoderKL.from_pretrained(work / "vae")
    base.train(pictures, vae, work, BASE)


def build_loras(pictures: Pictures, work: Path) -> None:
    for row, style in enumerate(STYLES):
        lora.train(pictures, row, BASE, work, MODELS / cards.lora_name(style))


def build_single_file(pictures: Pictures, work: Path) -> None:
    single_file.merge(BASE, MODELS / cards.lora_name(cards.named(MERGED_STYLE)), MERGED)


def build_queries(pictures: Pictures, work: Path) -> None:
    QUERIES.mkdir(exist_ok=True)
    styles = [style.name for style in STYLES]
    for style, name in cards.QUERIES:
        pixels = pictures.pixels[styles.index(style), pictures.names.index(name)]
        Image.fromarray(pixels).save(QUERIES / f"{style}-{name}.png")


def build_cards(pictures: Pictures, work: Path) -> None:
    layout = {"format": {"name": "gmi-local-hub", "version": 1}}
    (HUB / "hub.json").write_text(json.dumps(layout, indent=2) + "\n", encoding="utf-8")
    (BASE / "README.md").write_text(cards.base_card(), encoding="utf-8")
    for style in STYLES:
        card = cards.lora_card(style)
        (MODELS / cards.lora_name(style) / "README.md").write_text(card, encoding="utf-8")
        if style.name == MERGED_STYLE:
            (MERGED.parent / "README.md").write_text(cards.merged_card(style), encoding="utf-8")
    (HUB.parent / "ATTRIBUTION.md").write_text(cards.attribution(), encoding="utf-8")


PARTS: dict[str, Callable[[Pictures, Path], None]] = {
    "autoencoder": build_autoencoder,
    "encoder": build_encoder,
    "base": build_base,
    "loras": build_loras,
    "single-file": build_single_file,
    "cards": build_cards,
    "queries": build_queries,
}
