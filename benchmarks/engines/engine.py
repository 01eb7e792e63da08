"""What the measurement asks of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .source import ARRAYS, Arrays


class Engine(ABC):
    """``folder`` is the index; ``source`` has the rows [start, stop) that come in."""

    packages: tuple[str, ...] = ()
    local: tuple[str, ...] = ()  # files that a reader makes for itself, which nobody sends

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder

    @abstractmethod
    def load(self) -> None:
        """Import what the engine needs."""

    def arrive(self) -> None:
        """Before ``load``: make of a folder on a hub one that the default score can be had from."""
        self.download()

    def download(self, *but: str) -> None:
        from huggingface_hub import snapshot_download

        name = str(self.folder).removeprefix("hf://datasets/")
        self.folder = snapshot_download(name, repo_type="dataset", ignore_patterns=[*but])

    @abstractmethod
    def put(self, source: Arrays, entries: list[dict[str, Any]], start: int, stop: int) -> None:
        """Take the rows in; those before ``start`` are there."""

    @abstractmethod
    def means(self, tag: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Rows, and their means [k, D]."""

    @abstractmethod
    def blocks(self) -> Iterator[Arrays]:
        """``row``, ``images`` and ``gram``, in blocks that together are everything."""

    @abstractmethod
    def fetch(self, rows: list[int]) -> np.ndarray:
        """Images [k, N, D]."""

    @abstractmethod
    def refs(self, rows: list[int]) -> list[str]:
        """The names of the models in these rows."""


def shaped(name: str, buffer: Any, count: int) -> np.ndarray:
    kind, shape = ARRAYS[name]
    return np.frombuffer(buffer, kind, count * int(np.prod(shape))).reshape(count, *shape)
