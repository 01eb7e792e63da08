"""An encoder without weights: coarse colours of a picture, letter counts of a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.spec import EncoderRef, Preprocess


class GreyEncoder:
    """D = 12 mean colours of the four quarters; E = 26 letter counts."""

    ref = EncoderRef(
        name="grey",
        pretrained="none",
        weights_sha256="0" * 64,
        preprocess=Preprocess(
            size=2,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation="bilinear",
            resize_mode="squash",
        ),
        image_dim=12,
        text_dim=26,
    )

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        rows = [np.asarray(image.resize((2, 2), Image.Resampling.BOX)).ravel() for image in images]
        return np.stack(rows).astype(np.float32) / 255 + 1

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return np.array(
            [[text.count(letter) + 0.01 for letter in letters] for text in texts], np.float32
        )
