"""Whether specifications were weighed by the same embeddings of the same prompts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.weights import unit_rows

__all__ = ["agree", "agreed"]

# As in the index in memory: half precision and other hardware stay above this cosine by far,
# another text does not reach it.
_SAME_PROMPT = 0.999


def agree(first: NDArray[np.float16], second: NDArray[np.float16]) -> bool:
    """Whether two arrays [P, E] point the same way in each row; zeros agree with zeros."""
    if first.shape != second.shape:
        return False
    wide = (unit_rows(array.astype(np.float32)) for array in (first, second))
    cosines = np.einsum("pe,pe->p", *wide)
    both_zero = ~(first.any(axis=1) | second.any(axis=1))
    return bool(((cosines > _SAME_PROMPT) | both_zero).all())


def agreed(candidates: Iterable[NDArray[np.float16]]) -> NDArray[np.float16]:
    """The array that most of ``candidates``, at least one, hold; of equals one fixed one."""
    arrays: dict[bytes, NDArray[np.float16]] = {}
    votes: Counter[bytes] = Counter()
    for array in candidates:
        key = hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
        arrays.setdefault(key, array)
        votes[key] += 1
    return arrays[max(votes, key=lambda key: (votes[key], key))]
