"""One operation on an index in a process of its own: what it took, and how right it was."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.hub import ENCODER, SHARES, MadeHub, N
from benchmarks.scale.spectrum import ICONS
from gmi_registry.hub_index import HubIndex
from gmi_registry.index import Filters, ImageQuestion
from gmi_registry.index.comparison import answer
from gmi_registry.index.stored import FolderFiles, StoredIndex
from gmi_registry.scoring import SCORES, Query
from gmi_registry.scoring.default import SHRINKAGE

TOP = 10
_BLOCK = 16_384


def operation(work: str, folder: Path, queries: int) -> dict[str, Any]:
    """``prepare``, ``open``, ``truth``, or a question: ``default``, a tag, ``prompt``, ``paper``"""
    began = time.perf_counter()
    with StoredIndex.open(FolderFiles(folder / "index"), cache_dir=folder / "cache") as stored:
        opened = time.perf_counter() - began
        if work == "open":
            return {"seconds": opened, "models": len(stored)}
        if work == "prepare":
            began = time.perf_counter()
            assert stored.groups[0].estimator is not None
            return {"seconds": time.perf_counter() - began, "first open": opened}
        if work == "truth":
            return truth(stored, folder, queries)
        return asked(work, stored, folder, queries)


def truth(stored: StoredIndex, folder: Path, queries: int) -> dict[str, Any]:
    """The first ten of all, and of each tag, by the full pass; kept in ``truth.npz``."""
    began = time.perf_counter()
    (stack,) = stored.groups
    _, images = MadeHub(ICONS).queries(len(stack), queries)
    distances = np.empty((queries, len(stack)), np.float32)
    means, factor = stack.means, stack.scatter.whitening(SHRINKAGE)
    centre = means[::97].mean(axis=0)
    asked = (images - centre).astype(np.float64) @ factor
    own = np.square(asked).sum(axis=1) - stack.scatter.spread(SHRINKAGE) / N
    for start in range(0, len(stack), _BLOCK):
        part = slice(start, start + _BLOCK)
        white = (means[part] - centre) @ factor.astype(np.float32)
        found = np.square(white).sum(axis=1) - 2 * (asked.astype(np.float32) @ white.T)
        distances[:, part] = found + own[:, None]
    kept = {}
    for name, filters in selections().items():
        rows = np.asarray(stack.select(filters), np.intp)
        among = distances[:, rows]
        near = np.argpartition(among, TOP, axis=1)[:, :TOP]
        near = np.take_along_axis(near, np.argsort(np.take_along_axis(among, near, 1), 1), 1)
        kept[name] = np.array([[stack.names[row] for row in rows[it]] for it in near])
        kept[f"{name} distances"] = np.take_along_axis(among, near, 1)
    np.savez(folder / "truth.npz", **kept)
    return {"seconds": time.perf_counter() - began}


def selections() -> dict[str, Filters]:
    """What is asked for, by name."""
    return {"default": Filters()} | {tag: Filters(tags=(tag,)) for tag in SHARES}


def asked(work: str, stored: StoredIndex, folder: Path, queries: int) -> dict[str, Any]:
    """The same query images one after the other, as a search asks: select, rank, name ten hits."""
    (stack,) = stored.groups
    hub = MadeHub(ICONS)
    _, images = hub.queries(len(stack), queries)
    index = HubIndex(stored, "hf", "made")
    filters = selections().get(work, Filters())
    score = SCORES["paper" if work == "paper" else "default"]
    prompts = work in ("prompt", "paper")

    def question(image: np.ndarray) -> ImageQuestion:
        words = hub.prompts[:1].astype(np.float32) if prompts else None
        query = Query(image[None], words, ("words",) if prompts else (None,), "none", ENCODER.id)
        return ImageQuestion(query, score)

    def once(image: np.ndarray) -> list[Any]:
        selected = index.select(filters)
        found = answer(index, selected, question(image), top=TOP, best_prompts=0)
        return list(found.groups[0].hits)

    first, _ = _timed(once, images[0])
    some = images[:3] if work == "paper" else images
    times, hits = zip(*(_timed(once, image) for image in some), strict=True)
    found: dict[str, Any] = {
        "first ms": first * 1e3,
        "p50 ms": statistics.median(times) * 1e3,
        "p90 ms": float(np.percentile(times, 90)) * 1e3,
        "queries": len(times),
    }
    if not prompts:
        found |= _compared(hits, np.load(folder / "truth.npz"), work)
    return found


def _compared(hits: Any, known: Any, work: str) -> dict[str, Any]:
    """Recall of the first ten, the share of queries with all of them, and the error of distances.

    A model that is as near as the tenth is as good as it: copies are.
    """
    shares = []
    worst = 0.0
    for mine, limits in zip(hits, known[f"{work} distances"], strict=True):
        distances = np.array([hit.distance for hit in mine])
        slack = 1e-5 * abs(limits[-1]) + 1e-4
        shares.append(float(np.mean(distances <= limits + slack)))
        worst = max(worst, float(np.abs(distances / limits - 1).max()))
    return {
        "recall": float(np.mean(shares)),
        "all ten": float(np.mean([share == 1 for share in shares])),
        "error": worst,
    }


def _timed(call: Callable[[np.ndarray], Any], image: np.ndarray) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call(image)
    return time.perf_counter() - began, result


def memory() -> dict[str, float]:
    """MB: the most that was resident, and what of it now is the process's own."""
    status = Path("/proc/self/status").read_text()
    found = {}
    for key, name in (("VmHWM", "peak MB"), ("RssAnon", "own MB"), ("RssFile", "mapped MB")):
        line = re.search(rf"{key}:\s+(\d+)", status)
        found[name] = int(line[1]) / 1024 if line else 0.0
    return found
