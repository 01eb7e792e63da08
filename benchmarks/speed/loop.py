"""The plain way, and the most that the machine can do: what everything else is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gmi_registry.scoring.kernels import swept


def plain(images: np.ndarray, weights: np.ndarray, query: np.ndarray, gamma: float) -> np.ndarray:
    """Eq. 9, a model at a time: two distance matrices, two kernels, two products."""
    asked, w = torch.from_numpy(query)[None], torch.from_numpy(weights)
    count = len(weights)
    out = np.empty(len(images), np.float32)
    for m, rows in enumerate(torch.from_numpy(images)):
        own = torch.exp(-gamma * torch.cdist(rows, rows).square())
        kernel = torch.exp(-gamma * torch.cdist(rows, asked).square())[:, 0]
        out[m] = float(w @ own @ w / count**2 - 2 * (w @ kernel) / count + 1)
    return out


def plain_on(threads: int, *arguments: object) -> np.ndarray:
    """:func:`plain` with so many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return plain(*arguments)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


def added(array: np.ndarray) -> float:
    """The sum of all numbers, parts on every core."""
    return _over(array, lambda part: float(part.sum()))


def multiplied(array: np.ndarray) -> float:
    """The sum of all squares, parts on every core."""
    return _over(array, lambda part: float(np.einsum("i,i->", part, part)))


def _over(array: np.ndarray, work: Callable[[np.ndarray], float]) -> float:
    flat = array.reshape(-1)
    found: list[float] = []
    swept(lambda part: found.append(work(flat[part])), len(flat), 1, streamed=True, spread=True)
    return sum(found)
