"""The real BLIP code of transformers on a tiny model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BlipForConditionalGeneration

from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.errors import InputError
from gmi_registry.interrogators import CaptionInterrogator


def test_the_caption_is_blips_greedy_one(
    captions: CaptionInterrogator,
    encoder: OpenClipEncoder,
    blip: Path,
    picture: Callable[[int], Image.Image],
) -> None:
    model = BlipForConditionalGeneration.from_pretrained(blip).eval()
    seen = set()
    for seed in range(6):
        pixels = captions.processor(images=picture(seed), return_tensors="pt")
        with torch.no_grad():
            tokens = model.generate(**pixels, max_new_tokens=6, do_sample=False)
        expected = captions.processor.decode(tokens[0], skip_special_tokens=True)
        assert captions.caption(picture(seed)) == " ".join(expected.split())
        assert captions(picture(seed), encoder) == (captions.caption(picture(seed)) or None)
        seen.add(expected)
    assert len(seen) > 1


def test_other_modes_are_converted(
    captions: CaptionInterrogator, picture: Callable[[int], Image.Image]
) -> None:
    grey = picture(0).convert("L")
    assert captions.caption(grey) == captions.caption(grey.convert("RGB"))


def test_no_word_is_none(
    captions: CaptionInterrogator,
    encoder: OpenClipEncoder,
    picture: Callable[[int], Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captions, "caption", lambda image: "")
    assert captions(picture(0), encoder) is None


def test_a_folder_that_cannot_be_loaded(tmp_path: Path, blip: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        CaptionInterrogator(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot load a BLIP model"):
        CaptionInterrogator(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(blip, copy)
    weights = copy / "model.safetensors"
    torch.save({}, copy / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(InputError, match="cannot load a BLIP model") as caught:
        CaptionInterrogator(copy)
    assert "\n" not in caught.value.message
