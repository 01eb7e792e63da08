"""Pictures to embeddings, in groups that do not depend on how the pictures arrive."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.spec import EncoderRef

__all__ = ["Encoding", "Towers", "TowersApart"]

_AT_ONCE = 16


class Towers(Protocol):
    """The part of an encoder that is needed here; ``encoders.Encoder`` has it.

    Of its own, since generation and encoders do not import each other.
    """

    @property
    def ref(self) -> EncoderRef: ...

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """B RGB images to [B, D]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """B texts to [B, E]."""
        ...


@runtime_checkable
class TowersApart(Towers, Protocol):
    """An encoder whose pixels can be made apart, by a thread that keeps off the model.

    ``encode_pixels(pixels(images))`` are the bytes of ``encode_images(images)``.
    """

    def pixels(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """B RGB images to [B, 3, S, S], each by itself."""
        ...

    def encode_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """[B, 3, S, S] to [B, D]."""
        ...


class Encoding:
    """The embeddings of ``total`` pictures (the paper's Eq. 5), 16 at a time from the first on.

    The same pictures in the same order give the same bytes, however many come at once: an encoder
    may round by the size of its batch. ``prepare`` may be called on another thread than the rest;
    the image tower runs only in ``advance`` and ``rows``. ``progress`` is told (pictures encoded,
    pictures in all) as the first group begins and after each.
    """

    def __init__(
        self,
        encoder: Towers,
        total: int,
        *,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._total = total
        self._progress = progress
        self._prepared: Callable[[Sequence[Image.Image]], Iterable[Any]]
        self._embedded: Callable[[Sequence[Any]], NDArray[np.float32]]
        if isinstance(encoder, TowersApart):
            self._prepared = encoder.pixels
            self._embedded = lambda pixels: encoder.encode_pixels(np.stack(pixels))
        else:
            self._prepared = iter
            self._embedded = encoder.encode_images
        # Filled at one end by prepare(), emptied at the other, on two threads.
        self._waiting: deque[Any] = deque()
        self._encoded: list[NDArray[np.float32]] = []
        self._done = 0

    def prepare(self, images: Sequence[Image.Image]) -> None:
        """Take the next RGB pictures, and make what the tower reads where that can be apart."""
        self._waiting.extend(self._prepared(images))

    def advance(self) -> None:
        """Encode the whole groups that are prepared."""
        while len(self._waiting) >= _AT_ONCE:
            self._encode(_AT_ONCE)

    def rows(self) -> NDArray[np.float32]:
        """[total, D], with those encoded that did not fill a group.

        Raises ValueError unless ``total`` pictures were prepared.
        """
        self.advance()
        if self._waiting:
            self._encode(len(self._waiting))
        if self._done != self._total:
            raise ValueError(f"{self._done} pictures were prepared, not {self._total}")
        return np.concatenate(self._encoded)

    def _encode(self, count: int) -> None:
        if not self._done:
            self._progress(0, self._total)
        self._encoded.append(self._embedded([self._waiting.popleft() for _ in range(count)]))
        self._done += count
        self._progress(self._done, self._total)
