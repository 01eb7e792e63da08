"""A local hub of untrained models, with their encoder, made through the command line itself."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image, ImageDraw

ENCODER = ("tiny", "test")

CARD = """---
title: {title}
tags: [{tags}]
license: mit
{extra}
gmi:
  encoder: tiny/test
---
"""


def make_hub(root: Path) -> Path:
    """``base``, a checkpoint, with two LoRAs ``ink`` and ``oil``; nothing is published yet."""
    from gmi_registry.hubs.local import LocalHub
    from tests.support.tiny_clip import write_tiny_clip
    from tests.support.tiny_models import save_base, save_lora

    LocalHub.create(root, root.parent / "hub-cache")
    write_tiny_clip(root.joinpath("encoders", *ENCODER))
    models = root / "models"
    save_base(models / "base")
    shutil.rmtree(models / "base-vocabulary", ignore_errors=True)
    for name in ("ink", "oil"):
        save_lora(models / name, models / "base")
    write_card(models / "base", "Base", "tiny")
    write_card(models / "ink", "Ink", "tiny, outline", "base_model: base")
    write_card(models / "oil", "Oil", "tiny, painted", "base_model: base")
    return root


def write_card(folder: Path, title: str, tags: str, extra: str = "") -> None:
    (folder / "README.md").write_text(CARD.format(title=title, tags=tags, extra=extra))


def draw_picture(path: Path, colour: str = "red") -> Path:
    image = Image.new("RGB", (48, 40), "white")
    ImageDraw.Draw(image).ellipse((6, 6, 40, 34), fill=colour)
    image.save(path)
    return path


def refused(done):
    """The one line of an error."""
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line
