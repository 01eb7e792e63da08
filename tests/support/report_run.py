"""A finished run whose answers are known, as the score stage leaves it."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from benchmarks.paper.folder import (
    Task,
    TaskFile,
    answer_bytes,
    answer_path,
    array_bytes,
    task_path,
)

FORMAT = {"name": "gmi-bench", "version": 1}


def truth_of(models, prompts, seeds):
    """The right model of each task, one task a model, prompt and seed."""
    return np.repeat(np.arange(models), prompts * seeds)


def noisy(truth, models, gap, seed=0):
    """Distances [Q, M] of Gauss' noise, with the right model nearer by ``gap`` deviations."""
    distances = np.random.default_rng(seed).normal(size=(len(truth), models))
    distances[np.arange(len(truth)), truth] -= gap
    return distances


def perfect(truth, models):
    """Distances [Q, M] that are 0 for the right model and 1 for the rest."""
    return (np.arange(models) != truth[:, None]).astype(float)


def write_split(folder, split, protocol, models, truth, scores, *, prompts=3, seeds=2, draw=False):
    """Tasks, answers and distances of one split."""
    each = prompts * seeds
    names = tuple(f"model-{number:02d}" for number in range(models))
    tasks = []
    for number, model in enumerate(truth):
        prompt, seed = divmod(number % each, seeds)
        image = f"images/{number:04d}.png"
        tasks.append(
            Task(
                prompts=(f"a <b>picture</b> of thing {prompt} & co",),
                seeds=(seed,),
                images=(image,),
                group=str(1 + 3 * prompt // prompts),
            )
        )
        if draw:
            (folder / "images").mkdir(parents=True, exist_ok=True)
            hue = int(255 * model / models)
            colour = Image.new("HSV", (24, 24), (hue, 150, 200 - 20 * seed)).convert("RGB")
            colour.save(folder / image)
    put(task_path(folder, split, protocol), TaskFile(models=names, tasks=tuple(tasks)).to_bytes())
    put(answer_path(folder, split, protocol), answer_bytes([int(model) for model in truth]))
    put(folder / "scores" / split / f"{protocol}.npz", array_bytes(scores))


def write_summary(folder, protocols, methods, **changes):
    """``bench.json``."""
    summary = {
        "format": FORMAT,
        "name": "small",
        "digest": "0" * 64,
        "encoder": "tiny/none",
        "libraries": {"numpy": "2"},
        "seconds": {"generate": 75.0, "score": 0.5},
        "protocols": list(protocols),
        "methods": list(methods),
    }
    put(folder / "bench.json", json.dumps(summary | changes).encode())


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
