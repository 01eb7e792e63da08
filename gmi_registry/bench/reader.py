"""Who looks at a benchmark's pictures: its encoder and its interrogator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from gmi_registry.bench.file import Benchmark
from gmi_registry.bench.pair import PAIR, load_pair, require_pair
from gmi_registry.encoders import Encoder, EncoderName, load_encoder
from gmi_registry.interrogators import load_interrogator

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

__all__ = ["Reader"]


class Reader:
    """Encoder and interrogator that a benchmark names, each loaded when it is first asked for.

    ``hubs`` are asked for the encoder before open_clip is; ``cache_dir`` is where searches keep
    what they download, so that no encoder is fetched twice. Raises MissingExtraError where the
    encoder is the pair and its packages are not installed.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        hubs: Sequence[Hub],
        *,
        cache_dir: Path | None,
        offline: bool,
        device: str,
    ) -> None:
        self._benchmark = benchmark
        self._hubs = tuple(hubs)
        self._cache_dir = None if cache_dir is None else cache_dir / "hub"
        self._offline = offline
        self._device = device
        self._encoder: Encoder | None = None
        self._name = EncoderName.parse(benchmark.encoder)
        if self._name == PAIR:
            require_pair()  # before an hour of drawing for it

    def encoder(self) -> Encoder:
        """The pair of the extra ``bench-encoder`` where it is named, else a hub's own where one has
        it, else open_clip's. Raises as ``load_pair`` and ``load_encoder``."""
        if self._encoder is None:
            pair = self._name == PAIR
            self._encoder = load_pair(device=self._device) if pair else self._single()
        return self._encoder

    def guess(self, phrases: Sequence[str]) -> Callable[[Image.Image], str | None]:
        """The interrogator, with the encoder."""
        encoder = self.encoder()
        interrogator = load_interrogator(
            self._benchmark.interrogator,
            phrases=phrases,
            cache_dir=self._cache_dir,
            offline=self._offline,
            device=self._device,
        )
        return lambda image: interrogator(image, encoder)

    def _single(self) -> Encoder:
        folders = (hub.fetch_encoder(*self._name) for hub in self._hubs)
        folder = next((found for found in folders if found is not None), None)
        return load_encoder(
            *self._name,
            folder,
            cache_dir=self._cache_dir,
            offline=self._offline,
            device=self._device,
        )
