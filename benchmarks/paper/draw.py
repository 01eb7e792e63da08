"""Stage ``draw``: what the models that methods picked make of the pseudo-prompts.

Like the stages before it, it reads no answer of a test task: which images are made depends on the
picks alone.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.paper.definition import Benchmark
from benchmarks.paper.folder import (
    Progress,
    StageCache,
    document_bytes,
    load_arrays,
    put,
    read_tasks,
)
from benchmarks.paper.generator import Generator, Order
from gmi_registry.scoring.ranking import ascending
from gmi_registry.spec.fields import RelativePath

SINGLE = "images-1"
"""The protocol that is shown."""

SHOWN = ("download", "rkme-basic", "rkme-clip", "modelverse", "paper", "default")

_COUNT = 8
_SEED = 7


def chosen_tasks(tasks: int, count: int = _COUNT) -> list[int]:
    """Up to ``count`` different task numbers, by a fixed draw: nobody chose those that look good.

    Nothing but the number of tasks enters, so that a stage without the answers can ask as well.
    """
    drawn = np.random.default_rng(_SEED).permutation(tasks)[:count]
    return sorted(int(task) for task in drawn)


def shown_methods(scored: Iterable[str]) -> list[str]:
    """Those of ``SHOWN`` that were scored; of a run without any, as many of its own."""
    scored = list(scored)
    return [name for name in SHOWN if name in scored] or scored[: len(SHOWN)]


def first_model(distances: NDArray[np.float64], models: tuple[str, ...]) -> int:
    """The nearest of M models by one task's distances [M]; of equals the first by name."""
    return int(ascending(distances, lambda model: models[model])[0])


def guesses(folder: Path) -> dict[str, str]:
    """Picture of a test task to its pseudo-prompt, without those for which none was guessed."""
    try:
        said = json.loads((folder / "pseudo" / "test.json").read_bytes())
    except (OSError, ValueError):
        return {}
    pairs = said.items() if isinstance(said, dict) else ()
    return {image: text for image, text in pairs if isinstance(text, str) and text.strip()}


DRAWN = "drawn/drawn.json"


class _DrawnPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _DrawnFormat(_DrawnPart):
    name: Literal["gmi-bench-drawn"] = "gmi-bench-drawn"
    version: Literal[1] = 1


class _Drawn(_DrawnPart):
    model: str
    prompt: str
    image: RelativePath


class _DrawnFile(_DrawnPart):
    format: _DrawnFormat = _DrawnFormat()
    seed: int
    pictures: tuple[_Drawn, ...]


def draw_stage(
    benchmark: Benchmark, generator: Generator, cache: StageCache, progress: Progress
) -> bool:
    """Generate what is missing for the tasks and methods that are shown; whether there was any.

    Every model that came first gets the pseudo-prompt of each task where it did, with a seed that
    no task has. Written are the images, in ``drawn``, and ``drawn/drawn.json``. Nothing is done for
    a generator that knows the benchmark's prompts alone. Raises GenerationError for a model that
    fails, InputError for distances that are damaged or a folder that cannot be written.
    """
    if not generator.free or SINGLE not in benchmark.protocols:
        return False
    seed = _free_seed(benchmark)
    prompts = _wanted(cache.folder)
    orders = [Order("guessed", model, prompts[model], (seed,)) for model in sorted(prompts)]
    total = sum(map(len, orders))
    found = {
        order.model: cache.find("draw", order.name, generator.inputs(order)) for order in orders
    }
    done = sum(len(order) for order in orders if found[order.model] is not None)
    progress(done, total)
    names = [entry.label for entry in benchmark.models]
    pictures = []
    for order in orders:
        record = found[order.model]
        if record is None:

            def told(drawn: int, before: int = done) -> None:
                progress(before + drawn, total)

            start = time.perf_counter()
            files = [cache.adopt(path, "drawn") for path in generator.generate([order], told)[0]]
            seconds = time.perf_counter() - start
            record = cache.keep("draw", order.name, generator.inputs(order), files, seconds)
            done += len(order)
        pictures += [
            _Drawn(model=names[order.model], prompt=prompt, image=image)
            for prompt, (image, _) in zip(order.prompts, record.files, strict=True)
        ]
    file = _DrawnFile(seed=seed, pictures=tuple(pictures))
    put(cache.folder / DRAWN, document_bytes(file.model_dump(mode="json")))
    return any(record is None for record in found.values())


def read_drawn(folder: Path) -> dict[tuple[str, str], str]:
    """Model, by its name in the tables, and pseudo-prompt to the picture file.

    A list that is missing or damaged is an empty one.
    """
    try:
        file = _DrawnFile.model_validate_json((folder / DRAWN).read_bytes())
    except (OSError, ValidationError):
        return {}
    return {(it.model, it.prompt): it.image for it in file.pictures}


def forget_drawn(folder: Path) -> None:
    """Remove the list of what was drawn: something that it hangs on has changed."""
    (folder / DRAWN).unlink(missing_ok=True)


def _wanted(folder: Path) -> dict[int, tuple[str, ...]]:
    """Model to the pseudo-prompts of the shown tasks for which some method picks it."""
    file = read_tasks(folder, "test", SINGLE)
    distances = load_arrays(folder / "scores" / "test" / f"{SINGLE}.npz")
    guessed = guesses(folder)
    wanted: dict[int, set[str]] = defaultdict(set)
    for number in chosen_tasks(len(file.tasks)):
        prompt = guessed.get(file.tasks[number].images[0])
        if prompt is not None:
            for method in shown_methods(distances):
                wanted[first_model(distances[method][number], file.models)].add(prompt)
    return {model: tuple(sorted(prompts)) for model, prompts in wanted.items()}


def _free_seed(benchmark: Benchmark) -> int:
    """The smallest that the benchmark does not use: the right model must not repeat the query."""
    used = {*benchmark.seeds.specs, *benchmark.seeds.dev, *benchmark.seeds.test}
    return next(seed for seed in count() if seed not in used)
