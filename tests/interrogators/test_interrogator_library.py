"""The real clip-interrogator library on tiny towers, a tiny captioner and short lists."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from PIL import Image

from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.errors import InputError
from gmi_registry.interrogators import CaptionInterrogator, ClipInterrogator

Picture = Callable[[int], Image.Image]


def test_a_caption_and_the_nearest_phrases(
    tmp_path: Path,
    captions: CaptionInterrogator,
    encoder: OpenClipEncoder,
    vocabulary: Path,
    picture: Picture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    image = next(image for image in map(picture, range(20)) if captions.caption(image))
    interrogator = ClipInterrogator(
        captions, cache_dir=tmp_path, offline=True, vocabulary=vocabulary, max_flavors=2
    )
    assert interrogator.mode == "clip_interrogator"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = interrogator(image, encoder)
    assert text is not None
    caption, *phrases = text.split(", ")
    assert caption == captions.caption(image)

    library = interrogator._libraries[encoder.ref.id]
    tables = (library.artists, library.flavors, library.mediums, library.movements)
    labels = [label for table in (*tables, library.trendings) for label in table.labels]
    rows = encoder.encode_texts(labels)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ encoder.encode_images([image])[0]
    expected = [labels[row] for row in np.argsort(-cosines)[:2]]
    assert 1 <= len(phrases) <= 2  # the library leaves out what its tokenizer has no room for
    assert phrases == expected[: len(phrases)]
    assert interrogator(image, encoder) == text
    assert capsys.readouterr().out == ""


def test_label_embeddings_are_kept_apart_for_each_encoder(
    tmp_path: Path,
    captions: CaptionInterrogator,
    encoder: OpenClipEncoder,
    vocabulary: Path,
    picture: Picture,
) -> None:
    def ask() -> str | None:
        return ClipInterrogator(captions, cache_dir=tmp_path, offline=True, vocabulary=vocabulary)(
            picture(0), encoder
        )

    first = ask()
    folder = tmp_path / "clip-interrogator" / encoder.ref.id
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 6
    assert ask() == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_no_caption_leaves_the_phrases(
    tmp_path: Path,
    captions: CaptionInterrogator,
    encoder: OpenClipEncoder,
    vocabulary: Path,
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captions, "caption", lambda image: "")
    interrogator = ClipInterrogator(
        captions, cache_dir=tmp_path, offline=True, vocabulary=vocabulary
    )
    text = interrogator(picture(0), encoder)
    assert text
    assert not text.startswith((",", " "))


def test_the_authors_embeddings_are_fetched_for_the_encoders_they_are_of(
    tmp_path: Path,
    captions: CaptionInterrogator,
    encoder: OpenClipEncoder,
    picture: Picture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ref = encoder.ref.model_copy(update={"name": "ViT-L-14", "pretrained": "openai"})
    default = OpenClipEncoder(ref, encoder.model, encoder.tokenizer)
    asked: list[tuple[str, str]] = []

    def unreachable(repository: str, filename: str, **options: Any) -> str:
        asked.append((repository, filename))
        raise OSError("no network")

    class Refuse:
        """Stops before the library's own 100,000 phrases are encoded."""

        def __init__(self, config: Any) -> None:
            raise RuntimeError(config.clip_model_name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    monkeypatch.setattr("clip_interrogator.Interrogator", Refuse)
    with pytest.raises(RuntimeError, match="ViT-L-14/openai"):
        ClipInterrogator(captions, cache_dir=tmp_path)(picture(0), default)
    assert asked[0] == ("pharma/ci-preprocess", "ViT-L-14_openai_artists.safetensors")
    assert len(asked) == 6
    asked.clear()
    with pytest.raises(RuntimeError, match="ViT-L-14/openai"):
        ClipInterrogator(captions, cache_dir=tmp_path, offline=True)(picture(0), default)
    assert asked == []


def test_another_kind_of_encoder(
    tmp_path: Path, captions: CaptionInterrogator, encoder: OpenClipEncoder, picture: Picture
) -> None:
    class Other:
        ref = encoder.ref
        encode_images = encoder.encode_images
        encode_texts = encoder.encode_texts

    with pytest.raises(InputError, match="needs an open_clip encoder"):
        ClipInterrogator(captions, cache_dir=tmp_path)(picture(0), Other())


def test_the_usual_cache(captions: CaptionInterrogator) -> None:
    assert ClipInterrogator(captions)._cache.name == "clip-interrogator"
