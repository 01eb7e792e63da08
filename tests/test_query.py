"""What goes into a query, with an encoder that can be seen through."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.encoders import Encoder
from gmi_registry.errors import IncomparableSpecsError, InputError
from gmi_registry.index import ComparabilityKey, SpecCache
from gmi_registry.search.query import OwnPrompts, build_query
from gmi_registry.spec import EncoderRef, Preprocess


class Plain:
    """G is the mean colour; T counts characters and vowels."""

    ref = EncoderRef(
        name="plain",
        pretrained="none",
        weights_sha256="0" * 64,
        preprocess=Preprocess(
            size=1,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation="nearest",
            resize_mode="squash",
        ),
        image_dim=3,
        text_dim=2,
    )

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        assert all(image.mode == "RGB" for image in images)
        return np.stack([np.asarray(image, np.float32).mean((0, 1)) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.texts += texts
        counts = [(len(text), sum(text.count(vowel) for vowel in "aeiou")) for text in texts]
        return np.array(counts, np.float32)


class Named:
    """Says the colour of red and blue pictures, and nothing of others."""

    mode = "named"

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        return {(255, 0, 0): "red", (0, 0, 255): "blue"}.get(image.getpixel((0, 0)))  # type: ignore[arg-type]


RED, BLUE, GREY = ((255, 0, 0), (0, 0, 255), (9, 9, 9))


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


def test_without_prompt_or_interrogator_nothing_is_said() -> None:
    encoder = Plain()
    query = build_query([plain(RED), plain(BLUE)], encoder)
    assert query.image_embeddings.tolist() == [[255, 0, 0], [0, 0, 255]]
    assert (query.prompt_embeddings, query.pseudo_prompts) == (None, (None, None))
    assert (query.interrogator, query.encoder_id) == ("none", encoder.ref.id)
    assert encoder.texts == []


def test_a_prompt_bypasses_the_interrogator_and_is_encoded_once() -> None:
    encoder = Plain()
    query = build_query(
        [plain(RED), plain(BLUE)], encoder, interrogator="no such mode", prompt="  a  red\ncat "
    )
    assert query.interrogator == "prompt"
    assert query.pseudo_prompts == ("a red cat", "a red cat")
    assert encoder.texts == ["a red cat"]
    assert query.prompt_embeddings is not None
    assert query.prompt_embeddings.tolist() == [[9, 3], [9, 3]]


def test_each_image_has_its_own_pseudo_prompt_or_none() -> None:
    encoder = Plain()
    images = [plain(colour) for colour in (RED, GREY, BLUE, RED)]
    query = build_query(images, encoder, interrogator=Named())
    assert query.interrogator == "named"
    assert query.pseudo_prompts == ("red", None, "blue", "red")
    assert encoder.texts == ["red", "blue"]
    assert query.prompt_embeddings is not None
    assert query.prompt_embeddings.tolist() == [[3, 1], [0, 0], [4, 2], [3, 1]]
    prompts, image_prompt = np.array([[3, 1]], np.float32), np.zeros(1, np.int32)
    weights = query.weights(prompts, image_prompt)
    assert weights[1].tolist() == [1.0]


def test_files_and_pictures_of_any_mode(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.new("L", (3, 3), 9).save(path)
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    query = build_query([path, str(path), clear], Plain())
    assert query.image_embeddings.tolist() == [[9, 9, 9], [9, 9, 9], [255, 255, 255]]


def test_what_cannot_be_a_query(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs an image"):
        build_query([], Plain())
    with pytest.raises(InputError, match="no such file"):
        build_query([tmp_path / "nothing.png"], Plain())
    with pytest.raises(InputError, match="the prompt is empty"):
        build_query([plain(RED)], Plain(), prompt=" \n")
    with pytest.raises(InputError, match="1,001 characters"):
        build_query([plain(RED)], Plain(), prompt="x" * 1001)
    with pytest.raises(InputError, match="no interrogator is called 'oracle'"):
        build_query([plain(RED)], Plain(), interrogator="oracle")


@given(st.lists(st.sampled_from([RED, BLUE, GREY]), min_size=1, max_size=6))
def test_a_query_of_several_images_is_its_rows(colours: list[tuple[int, int, int]]) -> None:
    together = build_query([plain(colour) for colour in colours], Plain(), interrogator=Named())
    for b, colour in enumerate(colours):
        alone = build_query([plain(colour)], Plain(), interrogator=Named())
        assert alone.image_embeddings[0].tolist() == together.image_embeddings[b].tolist()
        assert alone.pseudo_prompts[0] == together.pseudo_prompts[b]


KEY = ComparabilityKey(Plain.ref.id, "b" * 64, "rbf", 0.02, 1)


def test_prompts_are_embedded_once_by_the_readers_own_encoder(tmp_path: Path) -> None:
    encoder, cache = Plain(), SpecCache(tmp_path)
    prompts = OwnPrompts(encoder, cache)
    first = prompts(KEY, ("a cat", "tree"))
    assert first.tolist() == [[5, 2], [4, 2]]
    assert first.dtype == np.float16
    assert prompts(KEY, ("a cat", "tree")) is first
    assert OwnPrompts(encoder, cache)(KEY, ("a cat", "tree")).tolist() == first.tolist()
    assert encoder.texts == ["a cat", "tree"]


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: data[:-1] + b"x"])
def test_kept_prompts_that_are_damaged_are_embedded_again(tmp_path, harm) -> None:
    encoder, cache = Plain(), SpecCache(tmp_path)
    expected = OwnPrompts(encoder, cache)(KEY, ("a cat",)).tolist()
    (file,) = cache.files()
    file.path.write_bytes(harm(file.path.read_bytes()))
    assert OwnPrompts(encoder, cache)(KEY, ("a cat",)).tolist() == expected
    # Of another number of prompts they are none of this set.
    assert len(OwnPrompts(encoder, cache)(KEY, ("a", "b"))) == 2


def test_prompts_of_another_encoder_are_not_embedded() -> None:
    other = ComparabilityKey("0" * 16, "b" * 64, "rbf", 0.02, 1)
    with pytest.raises(IncomparableSpecsError, match="cannot be embedded"):
        OwnPrompts(Plain())(other, ("a cat",))
