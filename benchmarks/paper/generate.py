"""Stages ``generate`` and ``draw``: every picture of a benchmark, and its tasks.

``generate`` makes the pictures of specifications and tasks; the answers are in files of their own.
``draw`` has the models that methods picked make something of the pseudo-prompts. Like the stages
before it, it reads no answer of a test task: which images are made depends on the picks alone.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.paper.definition import (
    OWN_PROMPTS,
    PROTOCOLS,
    SINGLE,
    SPLITS,
    Benchmark,
    Split,
    group_of,
    images_of,
    windows,
)
from benchmarks.paper.folder import (
    SPECS,
    Described,
    Progress,
    Record,
    SpecFile,
    StageCache,
    Task,
    TaskFile,
    answer_bytes,
    answer_path,
    document_bytes,
    load_arrays,
    put,
    read_tasks,
    task_path,
)
from benchmarks.paper.generators import Generator, Order, orders_of
from gmi_registry.scoring.ranking import ascending
from gmi_registry.spec.manifest import RelativePath

Generated = Mapping[tuple[str, int], tuple[str, ...]]
"""(part, model) to the picture files of that order, prompt by prompt, seed by seed."""


def generate_stage(
    benchmark: Benchmark, generator: Generator, cache: StageCache, progress: Progress
) -> bool:
    """Draw what is missing, then write ``specs.json``, tasks and answers; whether it drew any.

    Pictures go to ``images``, each named by the digest of its bytes. Raises GenerationError for a
    model that cannot draw, InputError where the folder cannot be written.
    """
    orders = orders_of(benchmark)
    total = sum(map(len, orders))
    generated: dict[tuple[str, int], tuple[str, ...]] = {}
    missing: dict[int, list[Order]] = defaultdict(list)
    for order in orders:
        record = cache.find("generate", order.name, generator.inputs(order))
        if record is None:
            missing[order.model].append(order)
        else:
            generated[order.part, order.model] = _names(record)
    done = total - sum(len(order) for wanted in missing.values() for order in wanted)
    progress(done, total)
    for wanted in missing.values():
        for order, record in _draw(wanted, generator, cache, done, total, progress):
            generated[order.part, order.model] = _names(record)
            done += len(order)
    _write_specs(benchmark, generator, cache.folder, generated)
    for split in SPLITS:
        for protocol in PROTOCOLS:
            _write_tasks(benchmark, cache.folder, split, protocol, generated)
    return bool(missing)


def _draw(
    wanted: list[Order],
    generator: Generator,
    cache: StageCache,
    done: int,
    total: int,
    progress: Progress,
) -> Iterator[tuple[Order, Record]]:
    """Orders of one model, which is loaded once for all of them."""
    start = time.perf_counter()
    pictures = generator.generate(wanted, lambda count: progress(done + count, total))
    seconds = time.perf_counter() - start
    for order, paths in zip(wanted, pictures, strict=True):
        files = [cache.adopt(path, "images") for path in paths]
        share = seconds * len(order) / sum(map(len, wanted))
        yield order, cache.keep("generate", order.name, generator.inputs(order), files, share)


def _names(record: Record) -> tuple[str, ...]:
    return tuple(name for name, _ in record.files)


def _write_specs(
    benchmark: Benchmark, generator: Generator, folder: Path, generated: Generated
) -> None:
    models = [
        Described(
            name=entry.label,
            model=generator.models[number],
            downloads=generator.downloads[number],
            images=generated["specs", number],
            own_prompts=entry.own if benchmark.own_prompts else (),
            own_images=generated.get(("own", number), ()),
        )
        for number, entry in enumerate(benchmark.models)
    ]
    file = SpecFile(prompts=benchmark.defaults, seeds=benchmark.seeds.specs, models=tuple(models))
    put(folder / SPECS, document_bytes(file.model_dump(mode="json")))


def _write_tasks(
    benchmark: Benchmark, folder: Path, split: Split, protocol: str, generated: Generated
) -> None:
    tasks, labels = task_path(folder, split, protocol), answer_path(folder, split, protocol)
    if protocol not in benchmark.protocols_of(split):
        tasks.unlink(missing_ok=True)
        labels.unlink(missing_ok=True)
        return
    made = [
        (task, number)
        for number in range(len(benchmark.models))
        for task in _tasks_of(benchmark, number, split, protocol, generated)
    ]
    # By digests of pictures: the place of a task must not say which model it is about.
    made.sort(key=lambda pair: (pair[0].images, pair[1]))
    names = tuple(entry.label for entry in benchmark.models)
    put(tasks, TaskFile(models=names, tasks=tuple(task for task, _ in made)).to_bytes())
    put(labels, answer_bytes([number for _, number in made]))


def _tasks_of(
    benchmark: Benchmark, number: int, split: Split, protocol: str, generated: Generated
) -> Iterator[Task]:
    if protocol in OWN_PROMPTS:
        prompts, part = benchmark.models[number].asked, "asked"
    else:
        prompts, part = benchmark.prompts_of(split), split
    seeds = benchmark.seeds_of(split)
    images = generated[part, number]
    for window in windows(len(prompts), len(seeds), images_of(protocol)):
        yield Task(
            prompts=tuple(prompts[prompt] for prompt, _ in window),
            seeds=tuple(seeds[seed] for _, seed in window),
            images=tuple(images[prompt * len(seeds) + seed] for prompt, seed in window),
            group="1" if part == "asked" else group_of(window[0][0], len(prompts)),
        )


# --- What the picked models make of the pseudo-prompts -------------------------------------------

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
