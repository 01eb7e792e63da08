"""One operation on an index in a process of its own: what it took, and how right it was."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.build import entry_name
from benchmarks.scale.hub import ENCODER, SHARES, MadeHub, N
from benchmarks.scale.spectrum import ICONS
from gmi_registry.index import Filters, ImageQuery, IndexQuery, ModelQuery, TextQuery, Wording
from gmi_registry.index.groups import rows_without
from gmi_registry.index.rank import rank_groups
from gmi_registry.index.stored import FolderFiles, StoredGroup, StoredIndex
from gmi_registry.scoring import SCORES, Query
from gmi_registry.scoring.default import SHRINKAGE, whitened_means
from gmi_registry.search.source import HubIndex

TOP = 10
_BLOCK = 16_384
_LOGIT_SCALE = 100.0
_ESTIMATED = "means: an index, estimates first"
_FULL = "means: default score of all"
_WHOLE = {"prompt": 10, "paper": 10, "words": 10, "style": 5, "like": 3}
QUESTIONS = tuple(_WHOLE)
"""Those that read images, and for how many queries each is compared with the full pass over all
images, which takes a while."""


def operation(work: str, folder: Path, queries: int) -> dict[str, Any]:
    """``prepare``, ``open``, ``truth``, ``flat``, or a question: ``default``, a tag, or one of
    ``QUESTIONS``."""
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
        if work == "flat":
            return flat(stored, queries)
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


def flat(stored: StoredIndex, queries: int) -> dict[str, Any]:
    """All means in memory, each compared with the query: by faiss, and by the full pass here."""
    try:
        import faiss
    except ImportError:
        raise SystemExit("faiss is not installed: pip install faiss-cpu") from None
    (stack,) = stored.groups
    _, images = MadeHub(ICONS).queries(len(stack), queries)
    means = stack.means
    whole, _ = whitened_means(means, stack.scatter)
    factor = whole.factor.astype(np.float32)
    peer = faiss.IndexFlatL2(means.shape[1])
    for start in range(0, len(means), _BLOCK):
        peer.add((means[start : start + _BLOCK] - whole.centre) @ factor)

    def ours(image: np.ndarray) -> np.ndarray:
        distances = whole.distances(image[None], 1 / N)[0]
        near = np.argpartition(distances, TOP)[:TOP]
        return np.asarray(near[np.argsort(distances[near])])

    def theirs(image: np.ndarray) -> Any:
        return peer.search(((image - whole.centre) @ factor)[None], TOP)

    found: dict[str, Any] = {}
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        name = f"means: faiss flat, {threads} thread{'s' * (threads > 1)}"
        found |= _row(name, [_timed(theirs, image)[0] for image in images[:40]])
    return found | _row(_FULL, [_timed(ours, image)[0] for image in images[:40]])


def _row(work: str, times: Sequence[float]) -> dict[str, list[float]]:
    """A line of ``benchmarks.speed.curves``: the median and the least, in ms."""
    return {work: [statistics.median(times) * 1e3, min(times) * 1e3]}


def selections() -> dict[str, Filters]:
    """What is asked for, by name."""
    return {"default": Filters()} | {tag: Filters(tags=(tag,)) for tag in SHARES}


def asked(work: str, stored: StoredIndex, folder: Path, queries: int) -> dict[str, Any]:
    """The same query images one after the other, as a search asks: select, rank, name ten hits."""
    (stack,) = stored.groups
    index = HubIndex(stored, "hf", "made")
    filters = selections().get(work, Filters())
    asked = questions(work, stack, queries)

    def once(question: IndexQuery) -> list[Any]:
        selected = index.select(filters, question.about)
        return list(rank_groups(index, selected, question, top=TOP, best_prompts=0).groups[0].hits)

    first, _ = _timed(once, asked[0])
    times, hits = zip(*(_timed(once, question) for question in asked), strict=True)
    found: dict[str, Any] = {
        "first ms": first * 1e3,
        "p50 ms": statistics.median(times) * 1e3,
        "p90 ms": float(np.percentile(times, 90)) * 1e3,
        "queries": len(times),
    }
    if work == "default":
        found |= _row(_ESTIMATED, times)
    if work in QUESTIONS:
        found |= _recall(stack, asked[: _WHOLE[work]], hits)
    else:
        found |= _compared(hits, np.load(folder / "truth.npz"), work)
    return found


def questions(work: str, stack: StoredGroup, queries: int) -> list[IndexQuery]:
    """One for each query image, or for the model that it is by."""
    hub = MadeHub(ICONS)
    numbers, images = hub.queries(len(stack), queries)
    if work == "words":
        # Texts have the images' space; where they lie in it this hub does not say.
        return [TextQuery(image, ENCODER.id) for image in images]
    if work == "like":
        rows = {name: row for row, name in enumerate(stack.names)}
        names = [entry_name(int(number)) for number in numbers]
        return [ModelQuery(stack.indexed(rows[name])) for name in names]
    if work == "style":
        plain = [Query(image[None], None, (None,), "none", ENCODER.id) for image in images]
        return [
            ImageQuery(query, SCORES["default"], None, Wording(image, _LOGIT_SCALE))
            for query, image in zip(plain, images, strict=True)
        ]
    # About as near to one prompt as to another, as texts are: weights vary by a quarter.
    wording = hub.prompts.astype(np.float32).sum(axis=0)[None] if work in QUESTIONS else None
    score = SCORES["paper" if work == "paper" else "default"]
    pseudo = (None if wording is None else "words",)
    return [
        ImageQuery(Query(image[None], wording, pseudo, "none", ENCODER.id), score)
        for image in images
    ]


def _recall(stack: StoredGroup, questions: Sequence[IndexQuery], hits: Any) -> dict[str, Any]:
    """The share of the first ten that are as near as the tenth of the full pass, and how long that
    takes."""
    shares, times = [], []
    for question, mine in zip(questions, hits, strict=False):
        about = [] if question.about is None else [str(question.about)]
        chosen = rows_without(range(len(stack)), stack.names, about)
        began = time.perf_counter()
        distances = question.distances(stack, chosen)
        times.append(time.perf_counter() - began)
        limit = float(np.partition(distances, TOP - 1)[TOP - 1])
        slack = 1e-6 * abs(limit) + 1e-7
        shares.append(float(np.mean([hit.distance <= limit + slack for hit in mine])))
    return {
        "recall": float(np.mean(shares)),
        "all ten": float(np.mean([share == 1 for share in shares])),
        "full pass s": statistics.median(times),
    }


def _compared(hits: Any, known: Any, work: str) -> dict[str, Any]:
    """Recall of the first ten, the share of queries with all of them, and the error of distances.

    A model that is as near as the tenth is as good as it: copies are.
    """
    shares = []
    worst = 0.0
    for mine, limits in zip(hits, known[f"{work} distances"], strict=True):
        distances = np.array([hit.distance for hit in mine])
        slack = 1e-5 * abs(limits[-1]) + 1e-4
        shares.append(float(np.mean(distances <= limits[-1] + slack)))
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
