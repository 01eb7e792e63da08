"""Which members of a group the statistics of all are worked out from."""

from __future__ import annotations

import hashlib
import heapq
import zlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CONTENT_MODELS",
    "SCATTER_MODELS",
    "TEMPERATURE_MODELS",
    "drawn_by_lot",
    "sampled",
    "sampled_by_name",
]

SCATTER_MODELS = 256
"""Ten thousand images pin down a covariance of a thousand dimensions better than the shrinkage
cares for."""

TEMPERATURE_MODELS = 64
"""A temperature is one number."""

CONTENT_MODELS = 256
"""What models in general draw for a prompt is known to a sixteenth of what they differ by, and what
it is off by is the same for all of them."""


def sampled(digests: Sequence[str], most: int) -> NDArray[np.intp]:
    """The rows, ascending, of the ``most`` members whose digests come first; all where there are
    no more.

    A digest is as good as a number drawn at random, and stays with its member: of a million
    members a hundred more change one of ``most`` = 256 in a fortieth of the cases, and what was
    worked out from the sample stays right. Rows spread evenly would nearly all be others.
    """
    if len(digests) <= most:
        return np.arange(len(digests))
    first = heapq.nsmallest(most, range(len(digests)), key=lambda row: (digests[row], row))
    return np.array(sorted(first), np.intp)


def drawn_by_lot(digests: Sequence[str], most: int) -> NDArray[np.intp]:
    """The rows, ascending, of ``most`` members drawn by lot; all where there are no more.

    The digests of all members together are the seed, so that nobody can choose to be drawn: each
    specification that is tried draws everybody anew. The same members give the same draw.
    """
    if len(digests) <= most:
        return np.arange(len(digests))
    together = hashlib.sha256("".join(sorted(digests)).encode()).digest()

    def lot(row: int) -> tuple[bytes, int]:
        return hashlib.blake2b(digests[row].encode(), key=together, digest_size=16).digest(), row

    return np.array(sorted(heapq.nsmallest(most, range(len(digests)), key=lot)), np.intp)


def sampled_by_name(names: Sequence[str], most: int, but: Callable[[str], bool]) -> list[int]:
    """The same of those that are not ``but``, and where digests would have to be read for it: by
    check sums of their names."""
    order: Iterable[int] = range(len(names))
    if len(names) > most:
        sums = np.fromiter(map(zlib.crc32, map(str.encode, names)), np.uint32, len(names))
        order = np.argsort(sums, kind="stable").tolist()
    return sorted(islice((row for row in order if not but(names[row])), most))
