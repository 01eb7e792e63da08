"""The nearest phrases, by a tower that can be seen through and by the real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.errors import InputError
from gmi_registry.interrogators import PhraseInterrogator, load_interrogator, shipped_phrases
from gmi_registry.spec import EncoderRef, Preprocess

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "purple": (0.7, 0, 0.7)}


class Colours:
    """G is the mean colour, T the colour that a text names (grey for any other)."""

    def __init__(self, text_dim: int = 3) -> None:
        third = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.ref = EncoderRef(
            name="colours",
            pretrained="none",
            weights_sha256="0" * 64,
            preprocess=Preprocess(
                size=1, mean=third[0], std=third[1], interpolation="nearest", resize_mode="squash"
            ),
            image_dim=3,
            text_dim=text_dim,
        )
        self.texts: list[str] = []

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        return np.array([COLOURS.get(text, (0.1, 0.1, 0.1)) for text in texts], np.float32)


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


def test_the_nearest_come_first() -> None:
    interrogator = PhraseInterrogator(["red", "green", "blue", "purple"], count=2)
    assert interrogator(plain((200, 0, 30)), Colours()) == "red, purple"
    assert interrogator(plain((0, 9, 0)), Colours()) == "green, red"
    assert interrogator.mode == "phrases"


def test_a_black_image_has_no_direction_and_takes_the_first() -> None:
    assert PhraseInterrogator(["blue", "red"], count=1)(plain((0, 0, 0)), Colours()) == "blue"


def test_texts_are_encoded_once_for_each_encoder() -> None:
    interrogator, encoder = PhraseInterrogator(["red", "blue"], count=1), Colours()
    for colour in ((255, 0, 0), (0, 0, 255)):
        interrogator(plain(colour), encoder)
    assert encoder.texts == ["red", "blue"]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_blanks_and_repeats_are_left_out(phrases: list[str]) -> None:
    if not any(phrase.split() for phrase in phrases):
        with pytest.raises(InputError, match="no phrases"):
            PhraseInterrogator(phrases)
        return
    kept = PhraseInterrogator([*phrases, *phrases]).phrases
    assert len(set(kept)) == len(kept)
    assert all(phrase == " ".join(phrase.split()) != "" for phrase in kept)


def test_towers_of_two_spaces() -> None:
    with pytest.raises(InputError, match="no common space"):
        PhraseInterrogator(["red"])(plain((1, 2, 3)), Colours(text_dim=2))


def test_the_shipped_phrases() -> None:
    phrases = shipped_phrases()
    assert 200 <= len(phrases) <= 400
    assert len(set(phrases)) == len(phrases)
    assert all(phrase == phrase.strip() and "," not in phrase for phrase in phrases)


def test_the_callers_phrases_stand_beside_the_shipped_ones(
    encoder: OpenClipEncoder, picture: Callable[[int], Image.Image]
) -> None:
    interrogator = load_interrogator("phrases", phrases=["a hot pepper", "a portrait of a woman"])
    assert isinstance(interrogator, PhraseInterrogator)
    assert interrogator.phrases[0] == "a hot pepper"
    assert len(interrogator.phrases) == len(shipped_phrases()) + 1


def test_the_real_tower_agrees_with_plain_arithmetic(
    encoder: OpenClipEncoder, picture: Callable[[int], Image.Image]
) -> None:
    phrases = shipped_phrases()[:20]
    texts = encoder.encode_texts(phrases).astype(np.float64)
    image = encoder.encode_images([picture(1)]).astype(np.float64)[0]
    cosines = [float(t @ image / np.linalg.norm(t) / np.linalg.norm(image)) for t in texts]
    best = sorted(range(20), key=lambda row: -cosines[row])[:3]
    expected = ", ".join(phrases[row] for row in best)
    assert PhraseInterrogator(phrases)(picture(1), encoder) == expected
