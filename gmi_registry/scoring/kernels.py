"""The RBF kernel k(x, y) = exp(-γ‖x - y‖²) on rows of vectors, and sweeps over those of all models.

γ multiplies the squared distance itself; it is not 1/(2σ²). Everything is computed in float32,
or in float64 as soon as one input is float64; float16 is widened before any arithmetic.

**A sweep** goes over the arrays of all models, a part at a time, on every core that there is. A sum
of products over images is bound by how fast memory is read, so each part is read once and what
follows is done while it is in the cache. The sums go through ``numpy.einsum`` and not through
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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

Floats = NDArray[np.floating[Any]]

# ‖x‖² + ‖y‖² - 2xy loses about log10(1/_CANCELLATION) digits when the distance is this small a
# part of the norms. Such pairs are subtracted coordinate by coordinate instead, which bounds the
# error of the kernel by some 1e-5 in float32 whatever the scale of the features.
_CANCELLATION = 1e-2
_HALF_BITS = np.int32(0x8FFFE000 - (1 << 32))
_HALF_BIAS = np.float32(2.0**112)
_BEYOND_HALF = 65536.0
_BLOCK_ELEMENTS = 1 << 20  # of a temporary: a few MB, small enough to stay near the cache


def working_dtype(*arrays: Floats) -> np.dtype[Any]:
    """float64 if any of ``arrays`` is float64, else float32."""
    return np.result_type(np.float32, *arrays)


def widened(array: Floats, dtype: np.dtype[Any]) -> Floats:
    """``array`` as ``dtype``, the array itself where it is that already; to the last bit as
    ``astype`` does it.

    From half to single precision this is four times as fast: numpy converts one number at a time.
    """
    if array.dtype != np.float16 or dtype != np.float32:
        return array.astype(dtype, copy=False)
    # Sign, exponent and fraction move to their places; the product mends the exponent's bias, and
    # makes numbers below the normal ones right as well.
    bits = array.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _HALF_BITS
    wide: Floats = bits.view(np.float32)
    wide *= _HALF_BIAS
    # Infinity and NaN have an exponent like any other here, and so come out beyond all halves.
    if wide.size and max(wide.max(), -wide.min()) >= _BEYOND_HALF:
        return array.astype(dtype)
    return wide


def squared_distances(x: Floats, y: Floats) -> Floats:
    """‖x_i - y_j‖² for rows of ``x`` [n, D] and ``y`` [m, D]; returns [n, m], never negative.

    Equal rows are exactly 0 apart. Values too large for the dtype become inf, not NaN.
    """
    dtype = working_dtype(x, y)
    wide_y = y.astype(dtype, copy=False)
    out = np.empty((x.shape[0], y.shape[0]), dtype)
    # Image embeddings share a large common mean; without it the norms, and so the rounding, shrink.
    # With a single row of y the centre is that row, and the result is exact.
    centre = wide_y.mean(axis=0) if len(wide_y) else np.zeros(x.shape[1], dtype)
    centred_y = wide_y - centre
    norms_y = np.einsum("ij,ij->i", centred_y, centred_y)
    rows = max(1, _BLOCK_ELEMENTS // max(1, x.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.shape[0], rows):
            wide_x = widened(x[start : start + rows], dtype)
            centred_x = wide_x - centre
            norms_x = np.einsum("ij,ij->i", centred_x, centred_x)
            scale = norms_x[:, None] + norms_y[None, :]
            block = scale - 2 * (centred_x @ centred_y.T)
            # Written as a negation so that NaN (inf - inf) is recomputed too.
            i, j = np.nonzero(~(block > _CANCELLATION * scale))
            block[i, j] = _subtracted(wide_x, wide_y, i, j)
            out[start : start + rows] = block
    return out


def _subtracted(x: Floats, y: Floats, i: NDArray[np.intp], j: NDArray[np.intp]) -> Floats:
    """‖x[i] - y[j]‖² pair by pair, by subtraction; [len(i)]."""
    out = np.empty(len(i), x.dtype)
    pairs = max(1, _BLOCK_ELEMENTS // max(1, x.shape[1]))
    for start in range(0, len(i), pairs):
        part = slice(start, start + pairs)
        difference = x[i[part]] - y[j[part]]
        out[part] = np.einsum("ij,ij->i", difference, difference)
    return out


def rbf(x: Floats, y: Floats, gamma: float) -> Floats:
    """k(x_i, y_j) for rows of ``x`` [n, D] and ``y`` [m, D]; returns [n, m] in [0, 1].

    Equal rows give exactly 1; far ones may underflow to 0. Raises ValueError unless γ > 0.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    squared = squared_distances(x, y)
    squared *= -gamma
    return np.exp(squared, out=squared)


def row_kernel(
    rows: Floats, norms: Floats, products: Floats, query: Floats, gamma: float
) -> Floats:
    """k(x_i, z) from products that were computed before, one query at a time or several.

    ``rows`` [n, D], ``norms`` [n] their ‖x‖², and either ``products`` [n] with ``query`` [D] or
    ``products`` [n, B] with ``query`` [B, D]; all of one dtype. Returns the shape of ``products``,
    which are overwritten, in [0, 1]; where rounding could be felt the difference is taken
    coordinate by coordinate, and so equal rows give exactly 1. Raises ValueError unless γ > 0.
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    queries = np.atleast_2d(query)
    lengths = np.einsum("bj,bj->b", queries, queries)
    squared = products.reshape(len(rows), len(queries))
    if not squared.size:
        return products
    with np.errstate(over="ignore", invalid="ignore"):
        squared *= -2
        squared += norms[:, None]
        squared += lengths
        # Mostly no pair is near, which one number says. Written as negations, so that NaN
        # (inf - inf) is recomputed too.
        if not squared.min() > _CANCELLATION * (norms.max() + lengths.max()):
            i, j = np.nonzero(~(squared > _CANCELLATION * (norms[:, None] + lengths)))
            squared[i, j] = _subtracted(rows, queries, i, j)
        squared *= -gamma
    return np.exp(squared, out=squared).reshape(products.shape)


def gram(z: Floats, gamma: float) -> Floats:
    """G = k(Z, Z) for rows of ``z`` [N, D]; [N, N], symmetric, ones on the diagonal."""
    kernel = rbf(z, z, gamma)
    # BLAS may round (i, j) and (j, i) differently; the quadratic form of Eq. 9 wants symmetry.
    return (kernel + kernel.T) / 2


def grams(image_embeddings: Floats, gamma: float) -> Floats:
    """G_m of every model: ``image_embeddings`` [M, N, D] gives [M, N, N]."""
    count, rows, _ = image_embeddings.shape
    out = np.empty((count, rows, rows), working_dtype(image_embeddings))
    for m in range(count):
        out[m] = gram(image_embeddings[m], gamma)
    return out


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
