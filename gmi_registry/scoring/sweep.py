"""One sweep over the arrays of all models, a part at a time, on every core that there is.

A sum of products over images is bound by how fast memory is read, so each part is read once and
what follows is done while it is in the cache. The sums go through ``numpy.einsum`` and not through
BLAS: its result for a row does not depend on where in an array the row stands, so that equal
specifications tie to the last bit, and so do a filtered ranking and a whole one. Products of
matrices are BLAS's, which has one thread meanwhile: every core has a part of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np  # which brings the BLAS that is looked for
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from gmi_registry.scoring.kernels import Floats, widened

_taken = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it a product of matrices takes the thread that asks for it, and no other.

    For those that put a thread on every core: several callers of a BLAS with threads of its own
    keep each other waiting. It is a setting of the whole process, so the first that is in it sets
    it and sets it back; for another that stays longer, products have their threads again.
    """
    if not _taken.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        _taken.release()


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


# Large enough that a part takes far longer than handing it to a thread.
_STREAMED_ELEMENTS = 1 << 22
# Below this, waking a thread takes longer than it saves.
_SPREAD_ELEMENTS = 1 << 23
# What is widened, or read more than once, has to stay in a core's own cache.
_CACHED_ELEMENTS = 1 << 18


def cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def swept(
    work: Callable[[slice], None], models: int, elements: int, *, streamed: bool, spread: bool
) -> None:
    """Call ``work`` with slices that together are 0..models-1; each writes to its own place.

    ``elements`` is the size of one model; ``streamed`` says that ``work`` reads each part once as
    it is, ``spread`` that parts go to all cores. What ``work`` raises is raised here.
    """
    most = _STREAMED_ELEMENTS if streamed else _CACHED_ELEMENTS
    step = max(1, most // max(1, elements))
    parts = [slice(start, min(start + step, models)) for start in range(0, models, step)]
    enough = spread and models * elements >= _SPREAD_ELEMENTS
    threads = min(cores(), len(parts)) if enough else 1
    # Each thread takes what is next: a queue of tasks would cost more than small parts do.
    waiting = iter(parts)

    def run() -> None:
        for part in waiting:
            work(part)

    # Also for one: threads of BLAS keep a core busy for a while after a product.
    with one_thread():
        if threads < 2:
            run()
            return
        with ThreadPoolExecutor(threads - 1) as pool:
            others = [pool.submit(run) for _ in range(threads - 1)]
            run()
            for other in others:
                other.result()


def products(rows: Floats, vector: Floats) -> Floats:
    """``rows`` [n, K] times ``vector`` [K] of one dtype: [n], each from its own row alone."""
    return np.asarray(np.einsum("ij,j->i", rows, vector))


def norm_range(images: Floats) -> NDArray[np.float32]:
    """The least and the greatest L2 norm of the rows of each model [M, N, D]: [M, 2]."""
    out = np.empty((len(images), 2), np.float32)

    def work(part: slice) -> None:
        block = widened(images[part], np.dtype(np.float32))
        norms = np.sqrt(np.einsum("mnd,mnd->mn", block, block))
        out[part, 0], out[part, 1] = norms.min(axis=1), norms.max(axis=1)

    swept(work, len(images), images[0].size if len(images) else 1, streamed=False, spread=True)
    return out


def row_norms(rows: Floats) -> Floats:
    """‖x‖² of ``rows`` [n, D]: [n], each from its own row alone."""
    return np.asarray(np.einsum("ij,ij->i", rows, rows))
