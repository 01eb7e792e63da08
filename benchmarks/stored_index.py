"""What it costs to write, open and ask the stored index: ``python -m benchmarks.stored_index``.

Every operation is a process of its own, timed after its imports; a rank is the default score
without a prompt, opened, answered and its first ten hits named. Embeddings are random numbers with
the spectrum of CLIP's: content that all models share, styles in families, noise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.hub import ENCODER, GAMMA, D, N, entry
from gmi_registry.index import Filters, ImageQuery, IndexedSpec, SpecStatus
from gmi_registry.index.rank import rank_groups
from gmi_registry.index.stored import FolderFiles, NewSpec, StoredIndex, update_index
from gmi_registry.scoring import SCORES, Query, gram
from gmi_registry.search.source import HubIndex

ADDED = 100
RARE = "one-in-a-hundred"
OPERATIONS = (
    "build",
    "add",
    "open cold",
    "open warm",
    "default",
    "tag",
    "images cold",
    "images",
    "paper",
)


class Source:
    """Rows that are made when they are asked for; ``seconds`` is what making them took."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(5)
        self._scale = {
            slope: np.arange(1, D + 1, dtype=np.float32) ** (slope / 2) for slope in (-2.9, -0.8)
        }
        self._basis = np.linalg.qr(self._rng.normal(size=(D, D)))[0].astype(np.float32)
        self._content = self._drawn(N, 52, -2.9)
        self._families = self._drawn(250, 14, -0.8)
        self._prompts = self._rng.normal(size=(N, D)).astype(np.float16)
        self.seconds = 0.0

    def rows(self, start: int, stop: int) -> Iterator[NewSpec]:
        for number in range(start, stop):
            began = time.perf_counter()
            row = self._row(number)
            self.seconds += time.perf_counter() - began
            yield row

    def query(self) -> Query:
        image = self._content[:1] + self._families[:1] + self._drawn(1, 30, -2.9)
        return Query(image, None, (None,), "none", ENCODER.id)

    def _drawn(self, rows: int, variance: float, slope: float) -> np.ndarray:
        scale = self._scale[slope]
        scale = scale * np.sqrt(variance / np.square(scale).sum())
        return (self._rng.standard_normal((rows, D), np.float32) * scale) @ self._basis

    def _row(self, number: int) -> NewSpec:
        style = self._families[number % len(self._families)] + self._drawn(1, 13, -0.8)
        images = (self._content + style + self._drawn(N, 17, -2.9)).astype(np.float16)
        described = entry(number)
        if number % 100 == 37:
            described = replace(described, tags=(*described.tags, RARE))
        indexed = IndexedSpec(
            described, images, self._prompts, gram(images, GAMMA).astype(np.float32)
        )
        return NewSpec(indexed, SpecStatus(False, "verified", f"{number:040x}"), ENCODER)


def operation(work: str, folder: Path, models: int) -> dict[str, Any]:
    """One operation, and what it took."""
    source = Source()
    if work in ("build", "add"):
        start, stop = (0, models) if work == "build" else (models, models + ADDED)
        began = time.perf_counter()
        change = update_index(folder / "index", source.rows(start, stop))
        seconds = time.perf_counter() - began - source.seconds
        mine = {"MB written": change.written / 1e6, "files": len(change.new)}
        return {"seconds": seconds} | mine
    filters = Filters(tags=(RARE,)) if work == "tag" else Filters()
    question = ImageQuery(source.query(), SCORES["paper" if work == "paper" else "default"])
    began = time.perf_counter()
    cache = folder / "cache"
    with StoredIndex.open(FolderFiles(folder / "index"), cache_dir=cache) as stored:
        opened = time.perf_counter()
        if work in ("open cold", "open warm"):
            return {"seconds": opened - began, "rows": len(stored), "parts": stored.info.parts}
        if work.startswith("images"):
            stack = stored.groups[0]
            stack.images(range(0, len(stack), len(stack) // 10))
            return {"seconds": time.perf_counter() - began}
        index = HubIndex(stored, "hf", "made")
        selections = index.select(filters)
        selected = time.perf_counter()
        found = rank_groups(index, selections, question, best_prompts=0)
        ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "open": opened - began,
        "select": selected - opened,
        "answer": ended - selected,
        "compared": found.matched,
    }


def measured(work: str, folder: Path, models: int) -> dict[str, Any]:
    """The same in a process of its own, with its peak memory."""
    words = [
        sys.executable,
        "-m",
        "benchmarks.stored_index",
        "--child",
        work,
        "--folder",
        str(folder),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(
        [*words, "--models", str(models)], env=environment, check=True, stdout=subprocess.PIPE
    )
    return dict(json.loads(done.stdout))


def table(models: int, folder: Path, rounds: int) -> str:
    """All operations, as Markdown; of those that can be repeated the median."""
    lines = ["| operation | seconds | peak MB | more |", "|---|---|---|---|"]
    for work in OPERATIONS:
        again = 1 if work in ("build", "add", "open cold", "images cold") else rounds
        runs = sorted((measured(work, folder, models) for _ in range(again)), key=seconds_of)
        middle = runs[len(runs) // 2]
        seconds, peak = middle.pop("seconds"), middle.pop("peak")
        more = ", ".join(f"{name} {value:.3g}" for name, value in middle.items())
        lines.append(f"| {work} | {seconds:.3g} | {peak:.0f} | {more} |")
    size = sum(path.stat().st_size for path in (folder / "index").rglob("*-*"))
    cache = sum(path.stat().st_size for path in (folder / "cache").rglob("*"))
    return "\n".join([*lines, "", f"index {size / 1e6:.0f} MB, cache {cache / 1e6:.1f} MB"])


def seconds_of(run: dict[str, Any]) -> float:
    return float(run["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        found = operation(arguments.child, arguments.folder, arguments.models)
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        found["peak"] = int(peak[1]) / 1024 if peak else 0
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        print(table(arguments.models, Path(scratch), arguments.rounds))


if __name__ == "__main__":
    main()
