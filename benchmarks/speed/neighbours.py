"""Libraries for nearest vectors, over the whitened means that the default score compares.

With A = F Fᵀ the default score without a prompt is ‖Fᵀ(z - μ)‖² but for terms that are the same
for all models, so its first ten are the ten nearest vectors Fᵀ(μ - c).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
from usearch.index import Index

from gmi_registry.scoring.default import WhitenedMeans
from gmi_registry.scoring.kernels import cores

COUNT = 10
_LINKS = 32
_EXPLORED = 64
_PROBED = 8

Search = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Neighbours:
    """An index of ``kept`` bytes, made in ``seconds``; ``search`` gives the rows nearest to a query
    [D], nearest first."""

    search: Search
    kept: int
    seconds: float


def whitened(means: WhitenedMeans) -> tuple[np.ndarray, Search]:
    """Fᵀ(μ - c) of all models [M, D], and the same of a query."""
    narrow = means.factor.astype(np.float32)
    apart = means.means - (means.centre - means.shift)

    def turned(query: np.ndarray) -> np.ndarray:
        return np.asarray((query - means.centre) @ narrow)

    return np.ascontiguousarray(apart @ narrow), turned


def indexes(means: WhitenedMeans) -> dict[str, Neighbours]:
    """Every index over the same whitened means, by its name.

    A flat one is searched by one thread as well as by all: where other work has a core, threads
    that share one query wait for each other, and may take longer than one of them alone.
    """
    vectors, turned = whitened(means)
    width = vectors.shape[1]
    lists = round(math.sqrt(len(vectors)))
    graph = faiss.IndexHNSWFlat(width, _LINKS)
    graph.hnsw.efSearch = _EXPLORED
    # The lists' centres have to outlive the index that refers to them.
    centres = faiss.IndexFlatL2(width)
    listed = faiss.IndexIVFFlat(centres, width, lists)
    listed.nprobe = max(1, lists // _PROBED)
    listed.cp.min_points_per_centroid = 1
    flat = _filled(faiss.IndexFlatL2(width), vectors)
    made = {
        f"faiss flat, {_counted(threads)}": _searched(*flat, turned, threads)
        for threads in _threads()
    }
    made["faiss HNSW"] = _searched(*_filled(graph, vectors), turned, 1)
    made["faiss IVF"] = _searched(*_filled(listed, vectors), turned, 1, centres)
    made["usearch HNSW"] = _usearch(vectors, turned)
    return made


def nearest_images(images: np.ndarray, count: int) -> dict[str, Neighbours]:
    """The ``count`` images nearest to a query, whichever models they are of: not Eq. 9."""
    flat = images.reshape(-1, images.shape[-1])
    index, seconds = _filled(faiss.IndexFlatL2(flat.shape[1]), flat)

    def searched(threads: int) -> Neighbours:
        def search(query: np.ndarray) -> np.ndarray:
            faiss.omp_set_num_threads(threads)
            return np.asarray(index.search(query[None], count)[1][0])

        return Neighbours(search, flat.nbytes, seconds)

    return {f"faiss nearest, {_counted(threads)}": searched(threads) for threads in _threads()}


def _threads() -> list[int]:
    return sorted({1, cores()})


def _counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def _filled(index: faiss.Index, vectors: np.ndarray) -> tuple[faiss.Index, float]:
    """The index with ``vectors`` in it, and the seconds that took on all cores."""
    faiss.omp_set_num_threads(cores())
    began = time.perf_counter()
    index.train(vectors)
    index.add(vectors)
    return index, time.perf_counter() - began


def _searched(
    index: faiss.Index,
    seconds: float,
    turned: Search,
    threads: int,
    centres: faiss.Index | None = None,
) -> Neighbours:
    def search(query: np.ndarray, _kept: faiss.Index | None = centres) -> np.ndarray:
        faiss.omp_set_num_threads(threads)
        return np.asarray(index.search(turned(query)[None], COUNT)[1][0])

    return Neighbours(search, faiss.serialize_index(index).nbytes, seconds)


def _usearch(vectors: np.ndarray, turned: Search) -> Neighbours:
    index = Index(
        ndim=vectors.shape[1],
        metric="l2sq",
        dtype="f32",
        connectivity=_LINKS // 2,
        expansion_search=_EXPLORED,
    )
    began = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors)
    seconds = time.perf_counter() - began

    def search(query: np.ndarray) -> np.ndarray:
        return np.asarray(index.search(turned(query), COUNT).keys)

    return Neighbours(search, index.memory_usage, seconds)
