"""Stage ``draw``: what the models that methods picked make of the pseudo-prompts.

As the stages before it, it reads no answer of a test task: what is drawn hangs on the picks alone.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from gmi_registry.bench.cache import StageCache, document_bytes, put, sha256_file
from gmi_registry.bench.choice import SINGLE, chosen_tasks, first_model, guesses, shown_methods
from gmi_registry.bench.file import Benchmark
from gmi_registry.bench.gallery import load_arrays
from gmi_registry.bench.studio import Order, Studio
from gmi_registry.bench.tasks import read_tasks
from gmi_registry.errors import GenerationError
from gmi_registry.spec.fields import RelativePath

__all__ = ["draw_stage", "forget_drawn", "read_drawn"]

DRAWN = "drawn/drawn.json"

Progress = Callable[[int, int], None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Format(_Part):
    name: Literal["gmi-bench-drawn"] = "gmi-bench-drawn"
    version: Literal[1] = 1


class _Drawn(_Part):
    model: str
    prompt: str
    image: RelativePath


class _DrawnFile(_Part):
    format: _Format = _Format()
    seed: int
    pictures: tuple[_Drawn, ...]


def draw_stage(benchmark: Benchmark, studio: Studio, cache: StageCache, progress: Progress) -> bool:
    """Draw what is missing for the tasks and methods that are shown; whether there was any.

    Every model that came first draws the pseudo-prompt of each task where it did, with a seed that
    no task has. Written are the pictures, in ``drawn``, and ``drawn/drawn.json``. Nothing is done
    for a studio that cannot draw any prompt. Raises GenerationError for a model that cannot draw,
    InputError for distances that are damaged or a folder that cannot be written.
    """
    if not studio.free or SINGLE not in benchmark.protocols:
        return False
    seed = _free_seed(benchmark)
    prompts = _wanted(cache.folder)
    orders = [Order("guessed", model, prompts[model], (seed,)) for model in sorted(prompts)]
    total = sum(map(len, orders))
    found = {
        order.model: cache.find("draw", _part(order), studio.inputs(order)) for order in orders
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
            files = [_adopt(path, cache.folder) for path in studio.draw([order], told)[0]]
            seconds = time.perf_counter() - start
            record = cache.keep("draw", _part(order), studio.inputs(order), files, seconds)
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


def _part(order: Order) -> str:
    return f"{order.part}-{order.model:04d}"


def _adopt(path: Path, folder: Path) -> tuple[str, str]:
    """A picture's place in ``drawn``, where it now is, and its SHA-256."""
    digest = sha256_file(path)
    if digest is None:
        raise GenerationError(
            f"{path}: a generated picture is gone", hint="run the same command again"
        )
    name = f"drawn/{digest[:32]}.png"
    return name, put(folder / name, path.read_bytes())
