"""The interrogator that says nothing: every weight is 1, as in RKME-CLIP."""

from __future__ import annotations

from PIL import Image

from gmi_registry.encoders.protocol import Encoder

__all__ = ["Silence"]


class Silence:
    """Mode ``none``."""

    mode = "none"

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """Always None."""
        return None
