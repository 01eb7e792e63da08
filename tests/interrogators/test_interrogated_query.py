"""Queries by real towers: every mode, end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from gmi_registry.encoders.open_clip import OpenClipEncoder
from gmi_registry.interrogators import CaptionInterrogator, ClipInterrogator
from gmi_registry.search.query import build_query


def test_every_mode_on_files(
    tmp_path: Path,
    captions: CaptionInterrogator,
    encoder: OpenClipEncoder,
    vocabulary: Path,
    picture: Callable[[int], Image.Image],
) -> None:
    paths = []
    for seed in range(2):
        paths.append(tmp_path / f"{seed}.png")
        picture(seed).save(paths[-1])
    library = ClipInterrogator(captions, cache_dir=tmp_path, offline=True, vocabulary=vocabulary)
    for interrogator in ("none", "phrases", captions, library):
        query = build_query(paths, encoder, interrogator=interrogator)
        mode = interrogator if isinstance(interrogator, str) else interrogator.mode
        assert query.interrogator == mode
        assert query.encoder_id == encoder.ref.id
        np.testing.assert_array_equal(
            query.image_embeddings, encoder.encode_images([picture(0), picture(1)])
        )
        for b, prompt in enumerate(query.pseudo_prompts):
            if prompt is not None:
                assert query.prompt_embeddings is not None
                np.testing.assert_allclose(
                    query.prompt_embeddings[b],
                    encoder.encode_texts([prompt])[0],
                    rtol=1e-4,
                    atol=1e-5,
                )
        assert query.has_prompts == any(query.pseudo_prompts)
