"""One operation on an index, in a process of its own."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import ENGINES
from .source import ARRAYS, GAMMA, RARE, Arrays, N

CHOSEN = [3, 7, 11, 200, 350, 500, 501, 700, 820, 999]


def default_distances(beside: Arrays, query: Arrays, rows: Any, means: np.ndarray) -> np.ndarray:
    """(z - mean)' A (z - mean), of which the part that is the means' own lies beside."""
    direction = beside["whitener"] @ query["image"]
    own = float(query["image"].astype(float) @ direction)
    return np.asarray(beside["norm"][rows] - 2 * (means @ direction).astype(float) + own)


def paper_distances(query: Arrays, block: Arrays) -> np.ndarray:
    """Eq. 9 of a block, in steps that stay in the processor's cache."""
    image, w = query["image"], query["weights"]
    upper, out = np.triu_indices(N, 1), []
    pairs = (2 * np.outer(w, w)[upper]).astype(np.float32)
    for start in range(0, len(block["row"]), 50):
        wide = np.asarray(block["images"][start : start + 50], np.float32)
        wide = wide - image
        kernel = np.exp(-GAMMA * np.einsum("mnd,mnd->mn", wide, wide))
        own = block["gram"][start : start + 50] @ pairs + float(w @ w)
        out.append(own / N**2 - 2 / N * (kernel @ w) + 1)
    return np.concatenate(out)


def top(rows: np.ndarray, distances: np.ndarray) -> list[int]:
    return [int(row) for row in rows[np.argsort(distances, kind="stable")[:10]]]


def child(name: str, work: str, folder: str, source: Path, start: int, stop: int) -> None:
    """One operation in a process of its own; prints what it took."""
    engine = ENGINES[name](folder)
    query = dict(np.load(source / "query.npz"))
    found: dict[str, Any] = {}
    if work in ("build", "add"):
        given = {it: np.load(source / f"{it}.npy", mmap_mode="r") for it in ARRAYS}
        entries = json.loads((source / "entries.json").read_text())
    began = time.perf_counter()
    if folder.startswith("hf:"):
        engine.arrive()
    engine.load()
    loaded = time.perf_counter()
    if work in ("build", "add"):
        engine.put(given, entries, start, stop)
    elif work in ("default", "filtered"):
        beside = dict(np.load(source / "beside.npz"))
        at, means = engine.means(RARE if work == "filtered" else None)
        read = time.perf_counter()
        best = top(at, default_distances(beside, query, at, means))
        found = {"best": best, "refs": engine.refs(best), "read": read - loaded, "kept": len(at)}
    elif work == "paper":
        each = [(block["row"], paper_distances(query, block)) for block in engine.blocks()]
        at, distances = (np.concatenate(part) for part in zip(*each, strict=True))
        found = {"best": top(at, distances), "kept": len(at)}
    elif work == "fetch":
        found = {"sum": float(engine.fetch(CHOSEN).sum(dtype=float))}
    ended = time.perf_counter()
    peak = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
    print(json.dumps({"seconds": ended - began, "import": loaded - began, "peak": peak} | found))
