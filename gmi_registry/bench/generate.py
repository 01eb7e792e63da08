"""Stage ``generate``: every picture of a benchmark, its tasks, and in other files their answers."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gmi_registry.bench.cache import Record, StageCache, document_bytes, placing, put, sha256_file
from gmi_registry.bench.file import SPLITS, Benchmark, Split
from gmi_registry.bench.protocol import OWN_PROMPTS, PROTOCOLS, group_of, images_of, windows
from gmi_registry.bench.studio import Order, Studio, orders_of
from gmi_registry.bench.tasks import Task, TaskFile, label_bytes, label_path, task_path
from gmi_registry.errors import GenerationError, InputError
from gmi_registry.spec.fields import RelativePath

__all__ = ["Described", "SpecFile", "generate_stage", "read_specs"]

SPECS = "specs.json"

Progress = Callable[[int, int], None]
Drawn = Mapping[tuple[str, int], tuple[str, ...]]
"""(part, model) to the picture files of that order, prompt by prompt, seed by seed."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Format(_Part):
    name: Literal["gmi-bench-specs"] = "gmi-bench-specs"
    version: Literal[1] = 1


class Described(_Part):
    """A model and the pictures of its specification, default block and own block."""

    name: str
    model: str
    downloads: Annotated[int, Field(ge=0)] | None
    images: tuple[RelativePath, ...]
    own_prompts: tuple[str, ...]
    own_images: tuple[RelativePath, ...]


class SpecFile(_Part):
    """``specs.json``: what every model drew for the default prompts. No task is in it."""

    format: _Format = _Format()
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    models: tuple[Described, ...]


def generate_stage(
    benchmark: Benchmark, studio: Studio, cache: StageCache, progress: Progress
) -> bool:
    """Draw what is missing, then write ``specs.json``, tasks and answers; whether it drew any.

    Pictures go to ``images``, each named by the digest of its bytes. Raises GenerationError for a
    model that cannot draw, InputError where the folder cannot be written.
    """
    orders = orders_of(benchmark)
    total = sum(map(len, orders))
    drawn: dict[tuple[str, int], tuple[str, ...]] = {}
    missing: dict[int, list[Order]] = defaultdict(list)
    for order in orders:
        record = cache.find("generate", _part(order), studio.inputs(order))
        if record is None:
            missing[order.model].append(order)
        else:
            drawn[order.part, order.model] = _names(record)
    done = total - sum(len(order) for wanted in missing.values() for order in wanted)
    progress(done, total)
    for wanted in missing.values():
        for order, record in _draw(wanted, studio, cache, done, total, progress):
            drawn[order.part, order.model] = _names(record)
            done += len(order)
    _write_specs(benchmark, studio, cache.folder, drawn)
    for split in SPLITS:
        for protocol in PROTOCOLS:
            _write_tasks(benchmark, cache.folder, split, protocol, drawn)
    return bool(missing)


def read_specs(folder: Path) -> SpecFile:
    """The pictures of every specification. Raises InputError for a file that is not there."""
    path = folder / SPECS
    try:
        return SpecFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise InputError(
            f"{path}: cannot be read: {reason}", hint="gmi bench run, with the same --out"
        ) from None


def _draw(
    wanted: list[Order],
    studio: Studio,
    cache: StageCache,
    done: int,
    total: int,
    progress: Progress,
) -> Iterator[tuple[Order, Record]]:
    """Orders of one model, which is loaded once for all of them."""
    start = time.perf_counter()
    pictures = studio.draw(wanted, lambda count: progress(done + count, total))
    seconds = time.perf_counter() - start
    for order, paths in zip(wanted, pictures, strict=True):
        files = [_adopt(path, cache.folder) for path in paths]
        share = seconds * len(order) / sum(map(len, wanted))
        yield order, cache.keep("generate", _part(order), studio.inputs(order), files, share)


def _adopt(path: Path, folder: Path) -> tuple[str, str]:
    """A picture's place in ``images``, where it now is, and its SHA-256.

    The name is the digest of the bytes: it must not say which model drew the picture.
    """
    digest = sha256_file(path)
    if digest is None:
        raise GenerationError(
            f"{path}: a generated picture is gone", hint="run the same command again"
        )
    name = f"images/{digest[:32]}.png"
    target = folder / name
    if sha256_file(target) == digest:
        return name, digest
    with placing(target) as scratch:
        try:
            scratch.hardlink_to(path)
        except OSError:  # a disk without hard links
            shutil.copyfile(path, scratch)
    return name, digest


def _part(order: Order) -> str:
    return f"{order.part}-{order.model:04d}"


def _names(record: Record) -> tuple[str, ...]:
    return tuple(name for name, _ in record.files)


def _write_specs(benchmark: Benchmark, studio: Studio, folder: Path, drawn: Drawn) -> None:
    models = [
        Described(
            name=entry.label,
            model=studio.models[number],
            downloads=studio.downloads[number],
            images=drawn["specs", number],
            own_prompts=entry.own if benchmark.own_prompts else (),
            own_images=drawn.get(("own", number), ()),
        )
        for number, entry in enumerate(benchmark.models)
    ]
    file = SpecFile(prompts=benchmark.defaults, seeds=benchmark.seeds.specs, models=tuple(models))
    put(folder / SPECS, document_bytes(file.model_dump(mode="json")))


def _write_tasks(
    benchmark: Benchmark, folder: Path, split: Split, protocol: str, drawn: Drawn
) -> None:
    tasks, labels = task_path(folder, split, protocol), label_path(folder, split, protocol)
    if protocol not in benchmark.protocols_of(split):
        tasks.unlink(missing_ok=True)
        labels.unlink(missing_ok=True)
        return
    made = [
        (task, number)
        for number in range(len(benchmark.models))
        for task in _tasks_of(benchmark, number, split, protocol, drawn)
    ]
    # By digests of pictures: the place of a task must not say which model it is about.
    made.sort(key=lambda pair: (pair[0].images, pair[1]))
    names = tuple(entry.label for entry in benchmark.models)
    put(tasks, TaskFile(models=names, tasks=tuple(task for task, _ in made)).to_bytes())
    put(labels, label_bytes([number for _, number in made]))


def _tasks_of(
    benchmark: Benchmark, number: int, split: Split, protocol: str, drawn: Drawn
) -> Iterator[Task]:
    if protocol in OWN_PROMPTS:
        prompts, part = benchmark.models[number].asked, "asked"
    else:
        prompts, part = benchmark.prompts_of(split), split
    seeds = benchmark.seeds_of(split)
    images = drawn[part, number]
    for window in windows(len(prompts), len(seeds), images_of(protocol)):
        yield Task(
            prompts=tuple(prompts[prompt] for prompt, _ in window),
            seeds=tuple(seeds[seed] for _, seed in window),
            images=tuple(images[prompt * len(seeds) + seed] for prompt, seed in window),
            group="1" if part == "asked" else group_of(window[0][0], len(prompts)),
        )
