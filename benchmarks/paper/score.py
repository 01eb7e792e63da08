"""Stage ``score``: distances of every task to every model. No answer of a test task is read."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np

from benchmarks.paper.definition import OWN_PROMPTS, PROTOCOLS, SPLITS, Benchmark, Split, gallery_of
from benchmarks.paper.fitting import (
    GAMMAS,
    HELD_OUT_FILE,
    SHRINKAGES,
    UNFITTED,
    fit,
    held_out_choices,
    held_out_distances,
    held_out_methods,
)
from benchmarks.paper.folder import (
    Progress,
    StageCache,
    answer_path,
    array_bytes,
    document_bytes,
    read_tasks,
    sha256_file,
    task_path,
    versions,
)
from benchmarks.paper.galleries import RunArrays
from benchmarks.paper.methods import METHODS, WITH_FIT, Array, Fit, Queries

SCORING = 2
"""Counts up when a method's arithmetic changes, so that kept distances are worked out anew."""

FITTED = "fitted.json"

_SINGLE = "images-1"


def score_stage(benchmark: Benchmark, cache: StageCache, progress: Progress) -> bool:
    """Work out what is missing; whether there was any.

    Written are ``scores/SPLIT/PROTOCOL.npz``, a method a key, each [Q, M] float64 with Q tasks in
    the order of their file, ``fitted.json`` where a method wants it, and ``scores/late.npz`` for
    models that join late.
    """
    work = _Scoring(benchmark, cache, progress)
    progress(0, work.total)
    for split in SPLITS:
        for protocol in benchmark.protocols_of(split):
            work.score(split, protocol)
        for protocol in PROTOCOLS:
            if protocol not in benchmark.protocols_of(split):
                (cache.folder / "scores" / split / f"{protocol}.npz").unlink(missing_ok=True)
    work.score_late()
    return work.made


class _Scoring:
    """The parts of the stage. Distances of single images serve every protocol with the same
    specifications, and are kept here between them."""

    def __init__(self, benchmark: Benchmark, cache: StageCache, progress: Progress) -> None:
        self.made = False
        self._benchmark = benchmark
        self._cache = cache
        self._progress = progress
        self._run_arrays = RunArrays(cache.folder, benchmark.gamma)
        self._of_images: dict[tuple[str, str, str], tuple[str, Array]] = {}
        self._done = 0
        parts = sum(len(benchmark.protocols_of(split)) for split in SPLITS)
        self._late_methods = held_out_methods(benchmark.methods)
        self._late = held_out_choices(len(benchmark.models))
        if not self._late_methods or _SINGLE not in benchmark.protocols:
            self._late = self._late[:0]
        # One more than the choices: nobody late, to compare with.
        self.total = parts * len(benchmark.methods) + (len(self._late) and 1 + len(self._late))
        self._fit: Fit | None = None

    def score(self, split: Split, protocol: str) -> None:
        """One split under one protocol."""
        methods = self._benchmark.methods

        def files() -> list[tuple[str, str]]:
            tasks = read_tasks(self._cache.folder, split, protocol)
            queries, members = self._run_arrays.queries(split, tasks)
            scores = {}
            for method in methods:
                each = self._distances(split, protocol, method, queries)
                scores[method] = each[members].mean(axis=1)
                if self._benchmark.resolution:
                    steps = np.round(scores[method] / self._benchmark.resolution)
                    scores[method] = steps * self._benchmark.resolution
                self._told()
            return [self._cache.write(f"scores/{split}/{protocol}.npz", array_bytes(scores))]

        inputs = self._inputs(split, protocol)
        if self._cache.make("score", f"{split}-{protocol}", inputs, files):
            self.made = True
        else:
            self._told(len(methods))

    def score_late(self) -> None:
        """The test tasks of single images, with models left out of what is pooled and fitted."""
        folder = self._cache.folder
        if not len(self._late):
            (folder / HELD_OUT_FILE).unlink(missing_ok=True)
            return
        inputs: list[object] = [self._common(), list(self._late_methods), self._late.tolist()]
        inputs += [self._files(split, _SINGLE) for split in SPLITS]
        inputs += [sha256_file(answer_path(folder, "dev", _SINGLE)), list(GAMMAS), list(SHRINKAGES)]

        def files() -> list[tuple[str, str]]:
            arrays = held_out_distances(
                folder, self._run_arrays, _SINGLE, self._late_methods, self._late, self._told
            )
            return [self._cache.write(HELD_OUT_FILE, array_bytes(arrays))]

        self.made |= self._cache.make("score", "late", inputs, files)
        self._told(self.total - self._done)

    def _told(self, parts: int = 1) -> None:
        self._done += parts
        self._progress(self._done, self.total)

    def _distances(self, split: Split, protocol: str, method: str, queries: Queries) -> Array:
        """[I, M] of the query images."""
        key = (split, gallery_of(protocol), method)
        asked = queries.digest
        known = self._of_images.get(key)
        if known is None or known[0] != asked:
            fitted = self._fitted() if method in WITH_FIT else UNFITTED
            distances = METHODS[method](self._run_arrays.gallery(protocol), queries, fitted)
            known = asked, np.asarray(distances, float)
            self._of_images[key] = known
        return known[1]

    def _fitted(self) -> Fit:
        """Fitted on dev when a method first asks; what was fitted before is taken up."""
        if self._fit is None:
            folder, protocol = self._cache.folder, self._fitting_protocol
            inputs = [self._common(), self._files("dev", protocol), list(GAMMAS), list(SHRINKAGES)]
            inputs.append(sha256_file(answer_path(folder, "dev", protocol)))

            def files() -> list[tuple[str, str]]:
                found, tried = fit(folder, self._run_arrays, protocol)
                document = {"split": "dev", "protocol": protocol, "fit": asdict(found)}
                return [self._cache.write(FITTED, document_bytes({**document, "top_1": tried}))]

            self._cache.make("fit", "fit", inputs, files)
            self._fit = Fit(**json.loads((folder / FITTED).read_bytes())["fit"])
        return self._fit

    @property
    def _fitting_protocol(self) -> str:
        return self._benchmark.protocols_of("dev")[0]

    def _common(self) -> list[object]:
        benchmark = self._benchmark
        return [SCORING, benchmark.gamma, benchmark.resolution, versions(["numpy"])]

    def _files(self, split: Split, protocol: str) -> list[str | None]:
        """Digests of what the distances rest on."""
        folder = self._cache.folder
        places = [
            folder / "specs.json",
            folder / "embeddings" / "specs.npz",
            folder / "embeddings" / f"{split}.npz",
            folder / "pseudo" / f"{split}.npz",
            task_path(folder, split, protocol),
        ]
        if protocol in OWN_PROMPTS:
            places.append(folder / "embeddings" / "own.npz")
        return [sha256_file(place) for place in places]

    def _inputs(self, split: Split, protocol: str) -> object:
        inputs: list[object] = [self._common(), self._files(split, protocol)]
        inputs.append(list(self._benchmark.methods))
        if any(method in WITH_FIT for method in self._benchmark.methods):
            dev = self._fitting_protocol
            inputs.append(self._files("dev", dev))
            inputs.append([sha256_file(answer_path(self._cache.folder, "dev", dev))])
        return inputs
