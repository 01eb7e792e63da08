"""Where a benchmark's pictures come from, and who encodes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.bench.file import Benchmark

__all__ = ["Order", "Studio", "Towers", "orders_of"]


@dataclass(frozen=True)
class Order:
    """Pictures wanted of one model: each prompt once a seed, prompt by prompt.

    ``part`` says what for: ``specs`` and ``own`` (a specification's default and own block), ``dev``
    and ``test`` (tasks), ``asked`` (tasks like the own block), ``guessed`` (pseudo-prompts).
    """

    part: str
    model: int
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """Prompt and seed of each picture."""
        return [(prompt, seed) for prompt in self.prompts for seed in self.seeds]


class Towers(Protocol):
    """The part of an encoder that a benchmark uses; ``encoders.Encoder`` has it."""

    def encode_images(self, images: Sequence[Image.Image]) -> NDArray[np.floating[Any]]:
        """B pictures to [B, D]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.floating[Any]]:
        """B texts to [B, E]."""
        ...


class Studio(Protocol):
    """The models of a benchmark, ready to be asked; opening one finds what is missing."""

    @property
    def models(self) -> tuple[str, ...]:
        """Full references, with the revision that was found."""
        ...

    @property
    def downloads(self) -> tuple[int | None, ...]:
        """From the model cards."""
        ...

    @property
    def precision(self) -> np.dtype[Any]:
        """In which specifications store embeddings."""
        ...

    @property
    def encoder_id(self) -> str: ...

    @property
    def free(self) -> bool:
        """Whether any prompt can be drawn, and not only those of the benchmark."""
        ...

    def close(self) -> None: ...

    def inputs(self, order: Order) -> object:
        """Everything that decides the bytes of an order's pictures, as plain JSON values."""
        ...

    def draw(self, orders: Sequence[Order], progress: Callable[[int], None]) -> list[list[Path]]:
        """PNG files for orders of one model; ``progress`` is told how many are done.

        A prompt that the model would cut is refused, except in an order ``guessed``.
        """
        ...

    def encoder(self) -> Towers: ...

    def guess(self, phrases: Sequence[str]) -> Callable[[Image.Image], str | None]:
        """The interrogator: a picture's pseudo-prompt, or None."""
        ...


def orders_of(benchmark: Benchmark) -> list[Order]:
    """Every picture that a benchmark needs, model by model."""
    orders = []
    for number, entry in enumerate(benchmark.models):
        specs, test = benchmark.seeds.specs, benchmark.seeds.test
        orders.append(Order("specs", number, benchmark.defaults, specs))
        if benchmark.own_prompts:
            orders.append(Order("own", number, entry.own, specs))
            orders.append(Order("asked", number, entry.asked, test))
        orders.append(Order("dev", number, benchmark.dev_prompts, benchmark.seeds.dev))
        orders.append(Order("test", number, benchmark.evaluation_prompts, test))
    return orders
