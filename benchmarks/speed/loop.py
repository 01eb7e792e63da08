"""The plain way, and the most that the machine can do: what everything else is compared with."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from gmi_registry.scoring.sweep import cores

_BLOCK = 1 << 22


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
    """The sum of all numbers, a core a part."""
    flat = array.reshape(-1)
    parts = [flat[start : start + _BLOCK] for start in range(0, len(flat), _BLOCK)]
    with ThreadPoolExecutor(cores()) as pool:
        return float(sum(pool.map(np.sum, parts)))


def multiplied(array: np.ndarray) -> float:
    """The sum of all squares, a core a part, by the BLAS."""
    flat = array.reshape(-1)
    size = -(-len(flat) // cores())
    parts = [flat[start : start + size] for start in range(0, len(flat), size)]
    with ThreadPoolExecutor(len(parts)) as pool:
        return float(sum(pool.map(lambda part: float(part @ part), parts)))
