"""Pseudo-prompts without a captioner: the phrases that lie nearest to the image."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.encoders.protocol import Encoder
from gmi_registry.errors import InputError

__all__ = ["PhraseInterrogator", "shipped_phrases"]

_FILE = Path(__file__).with_name("phrases.txt")


@cache
def shipped_phrases() -> tuple[str, ...]:
    """The phrases that come with the package: subjects, places, materials and styles."""
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line and not line.startswith("#"))


class PhraseInterrogator:
    """Mode ``phrases``: the ``count`` phrases of largest cosine to the image, joined by commas.

    Blank and repeated phrases are left out; of phrases at the same cosine the first wins. The
    texts are encoded once for each encoder. Raises InputError where no phrase is left.
    """

    mode = "phrases"

    def __init__(self, phrases: Sequence[str], *, count: int = 3) -> None:
        trimmed = (" ".join(phrase.split()) for phrase in phrases)
        self.phrases = tuple(dict.fromkeys(phrase for phrase in trimmed if phrase))
        if not self.phrases:
            raise InputError("there are no phrases to choose from", hint="give at least one")
        self.count = max(1, count)
        self._rows: dict[str, NDArray[np.float32]] = {}

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """One RGB image to its phrases.

        Raises InputError for an encoder whose two towers do not share a space.
        """
        if encoder.ref.image_dim != encoder.ref.text_dim:
            raise InputError(
                f"{encoder.ref.name} has no common space for images and texts",
                hint="use another interrogator, or --prompt",
            )
        if encoder.ref.id not in self._rows:
            self._rows[encoder.ref.id] = _unit(encoder.encode_texts(self.phrases))
        cosines = self._rows[encoder.ref.id] @ _unit(encoder.encode_images([image]))[0]
        nearest = np.argsort(-cosines, kind="stable")[: self.count]
        return ", ".join(self.phrases[row] for row in nearest)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, np.finfo(np.float32).tiny), dtype=np.float32)
