"""The tiny encoder of ``tests/encoders`` and a tiny captioner, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.interrogators import CaptionInterrogator
from tests.support.tiny_blip import write_tiny_blip


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> OpenClipEncoder:
    from tests.support.tiny_clip import write_tiny_clip

    folder = write_tiny_clip(tmp_path_factory.mktemp("encoder"))
    return OpenClipEncoder.from_folder(folder, "tiny", "random")


@pytest.fixture(scope="session")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="session")
def captions(blip: Path) -> CaptionInterrogator:
    return CaptionInterrogator(blip, max_tokens=6)


@pytest.fixture(scope="session")
def picture() -> Callable[[int], Image.Image]:
    import numpy as np

    def draw(seed: int) -> Image.Image:
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        return Image.fromarray(pixels)

    return draw


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    """clip-interrogator's five lists, a few words each."""
    folder = tmp_path / "vocabulary"
    folder.mkdir()
    for name, words in {
        "artists": ["a painter", "an engraver"],
        "flavors": ["glossy", "flat colours", "with an outline"],
        "mediums": ["an oil painting", "an ink drawing"],
        "movements": ["cubism", "pop art"],
        "negative": ["blurred"],
    }.items():
        (folder / f"{name}.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder
