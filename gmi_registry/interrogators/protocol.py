"""What an interrogator is: it looks at an image and says what its prompt may have been."""

from __future__ import annotations

from typing import Protocol

from PIL import Image

from gmi_registry.encoders.protocol import Encoder

__all__ = ["Interrogator"]


class Interrogator(Protocol):
    """The pseudo-prompt p̂ of Eq. 7, or None where there is nothing to say (then w = 1)."""

    @property
    def mode(self) -> str:
        """The name that a search result shows."""
        ...

    def __call__(self, image: Image.Image, encoder: Encoder) -> str | None:
        """The pseudo-prompt of one RGB image; ``encoder`` is the one of the query."""
        ...
