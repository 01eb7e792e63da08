"""A results folder as the stages before ``score`` leave it, with embeddings that are made up."""

from __future__ import annotations

from itertools import count

import numpy as np

from benchmarks.paper.definition import HALVES, OWN_PROMPTS, SPLITS, Benchmark, ModelEntry, Seeds
from benchmarks.paper.folder import (
    StageCache,
    Task,
    TaskFile,
    answer_bytes,
    answer_path,
    array_bytes,
    task_path,
)
from benchmarks.paper.generate import SPECS, Described, SpecFile
from benchmarks.paper.score import score_stage
from tests.support.report_run import put

WIDTH = 6
METHODS = ("rkme-clip", "paper", "modelverse", "default", "default-none")


def benchmark_of(models=8, prompts=6, dev_seeds=(7, 8), test_seeds=(0, 1, 2, 3), **changes):
    """``models`` models m00, m01, ... with two own prompts each, ``prompts`` default prompts."""
    entries = [
        ModelEntry(model=f"m{m:02d}", own=(f"own {m} a", f"own {m} b"), asked=(f"asked {m}",))
        for m in range(models)
    ]
    fields = {
        "name": "embedded",
        "version": 1,
        "generator": "example-2.1",
        "default_prompts": tuple(f"default {n}" for n in range(prompts)),
        "evaluation_prompts": ("evaluation 0", "evaluation 1", "evaluation 2"),
        "dev_prompts": ("dev 0", "dev 1", "dev 2"),
        "seeds": Seeds(dev=dev_seeds, test=test_seeds),
        "protocols": ("images-1", *HALVES, *OWN_PROMPTS),
        "methods": METHODS,
        "models": tuple(entries),
    }
    return Benchmark(**(fields | changes))


def write_embedded(folder, benchmark, gap=1.5, seed=0):
    """Everything up to the scores. An embedding is content + ``gap`` x style + noise."""
    draw = np.random.default_rng(seed)
    styles = draw.normal(size=(len(benchmark.models), WIDTH))
    contents, numbers = {}, count()

    def content(prompt):
        return contents.setdefault(prompt, 2 * draw.normal(size=WIDTH))

    def drawn(model, prompts, seeds):
        """Names, prompts, seeds and embeddings, prompt by prompt."""
        return [
            (
                f"images/{next(numbers):032x}.png",
                prompt,
                at,
                content(prompt) + gap * styles[model] + 0.3 * draw.normal(size=WIDTH),
            )
            for prompt in prompts
            for at in seeds
        ]

    entries = list(enumerate(benchmark.models))
    default = [drawn(m, benchmark.defaults, benchmark.seeds.specs) for m, _ in entries]
    own = [drawn(m, entry.own, benchmark.seeds.specs) for m, entry in entries]
    described = tuple(
        Described(
            name=entry.label,
            model=entry.model,
            downloads=m,
            images=tuple(row[0] for row in default[m]),
            own_prompts=entry.own,
            own_images=tuple(row[0] for row in own[m]),
        )
        for m, entry in entries
    )
    specs = SpecFile(prompts=benchmark.defaults, seeds=benchmark.seeds.specs, models=described)
    put(folder / SPECS, specs.model_dump_json().encode())
    stacked = {"specs": default, "own": own}
    for part, rows in stacked.items():
        texts = [[content(row[1]) for row in model] for model in rows]
        arrays = {
            "image_embeddings": np.stack([[row[3] for row in model] for model in rows]),
            "prompt_embeddings": np.stack(texts if part == "own" else texts[0]),
            "image_prompt": np.arange(len(rows[0]), dtype=np.int32),
        }
        put(folder / "embeddings" / f"{part}.npz", array_bytes(arrays))
    for split in SPLITS:
        _write_split(folder, benchmark, split, drawn, content)


def _write_split(folder, benchmark, split, drawn, content):
    seeds = benchmark.seeds_of(split)
    shown = {}
    for protocol in benchmark.protocols_of(split):
        tasks, truth = [], []
        for m, entry in enumerate(benchmark.models):
            kind = "asked" if protocol in OWN_PROMPTS else split
            prompts = entry.asked if kind == "asked" else benchmark.prompts_of(split)
            if (kind, m) not in shown:
                shown[kind, m] = drawn(m, prompts, seeds)
            for name, prompt, at, _ in shown[kind, m]:
                tasks.append(Task(prompts=(prompt,), seeds=(at,), images=(name,), group="1"))
                truth.append(m)
        names = tuple(entry.label for entry in benchmark.models)
        file = TaskFile(models=names, tasks=tuple(tasks))
        put(task_path(folder, split, protocol), file.to_bytes())
        put(answer_path(folder, split, protocol), answer_bytes(truth))
    rows = sorted((row for part in shown.values() for row in part), key=lambda row: row[0])
    texts = sorted({row[1] for row in rows})
    names = np.array([row[0] for row in rows])
    arrays = {
        "images": names,
        "image_embeddings": np.stack([row[3] for row in rows]),
        "prompts": np.array(texts),
        "prompt_embeddings": np.stack([content(text) for text in texts]),
    }
    put(folder / "embeddings" / f"{split}.npz", array_bytes(arrays))
    guessed = {"images": names, "prompt_embeddings": np.stack([content(row[1]) for row in rows])}
    put(folder / "pseudo" / f"{split}.npz", array_bytes(guessed))


def run_stage(folder, benchmark):
    """The real stage; whether it had anything to do."""
    return score_stage(benchmark, StageCache(folder), lambda done, total: None)
