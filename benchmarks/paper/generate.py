"""Stage ``generate``: every picture of a benchmark, its tasks, and in other files their answers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.paper.definition import (
    OWN_PROMPTS,
    PROTOCOLS,
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
    put,
    task_path,
)
from benchmarks.paper.generator import Generator, Order, orders_of

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
