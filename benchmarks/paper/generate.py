"""Stages ``generate``, ``embed``, ``interrogate`` and ``draw``: every picture of a benchmark, its
tasks, the vectors of both, and pseudo-prompts.

``generate`` makes the pictures of specifications and tasks; the answers are in files of their own.
``draw`` has the models that methods picked make something of the pseudo-prompts. Like the stages
before it, it reads no answer of a test task: which images are made depends on the picks alone.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

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
    array_bytes,
    document_bytes,
    load_arrays,
    put,
    read_specs,
    read_tasks,
    task_path,
    versions,
)
from benchmarks.paper.generators import Generator, Order, orders_of
from gmi_registry.encoders.encoder import Matched
from gmi_registry.generation.images import open_generated
from gmi_registry.interrogators import shipped_phrases
from gmi_registry.scoring.scores import ascending
from gmi_registry.spec.canonical import canonical_digest
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


_AT_ONCE = 256
_ENCODING = ("open_clip_torch", "pillow", "timm", "torch", "transformers")

Arrays = dict[str, NDArray[np.generic]]


def embed_stage(
    benchmark: Benchmark, generator: Generator, cache: StageCache, progress: Progress
) -> bool:
    """Encode what is missing; whether there was any.

    Written are, under ``embeddings``: ``specs.npz`` with ``image_embeddings`` [M, N, D],
    ``prompt_embeddings`` [P, E] and ``image_prompt`` [N], rounded as specifications store them;
    ``own.npz`` likewise with a block a model, [M, n, D], [M, p, E], [n]; and ``dev.npz`` and
    ``test.npz`` with the picture files ``images`` [I] (sorted) and their ``image_embeddings``
    [I, D], and ``prompts`` [T] with ``prompt_embeddings`` [T, E]. Where models have words, what is
    asked in words is in ``words.npz``: ``wordings`` [M, K], ``texts`` [T], ``text_embeddings``
    [T, E] of these, and the encoder's ``logit_scale``, 0 where it never matched texts with images.
    All raw.
    """
    specs = read_specs(cache.folder)
    work = _Embedding(generator, cache, progress)
    blocks = [("specs", [model.images for model in specs.models])]
    if benchmark.own_prompts:
        blocks.append(("own", [model.own_images for model in specs.models]))
    splits: list[tuple[Split, tuple[str, ...], tuple[str, ...]]] = []
    for split in SPLITS:
        tasks = split_tasks(benchmark, cache.folder, split)
        prompts = sorted({prompt for task in tasks for prompt in task.prompts})
        splits.append((split, split_images(tasks), tuple(prompts)))
    work.total = sum(len(names) for _, rows in blocks for names in rows)
    work.total += sum(len(names) for _, names, _ in splits)
    progress(0, work.total)
    for part, rows in blocks:
        work.specifications(part, rows, specs)
    for split, names, texts in splits:
        work.queries(split, names, texts)
    if benchmark.models[0].words:
        work.words([entry.words for entry in benchmark.models], asked_in_words(benchmark))
    else:
        (cache.folder / "embeddings" / "words.npz").unlink(missing_ok=True)
    return work.made


def asked_in_words(benchmark: Benchmark) -> tuple[str, ...]:
    """Every text of a search by words, sorted: models' words, what is to be seen, and both."""
    prompts = benchmark.prompts_of("test")
    words = [wording for entry in benchmark.models for wording in entry.words]
    texts = {with_words(prompt, wording) for prompt in prompts for wording in words}
    return tuple(sorted(texts | {*words, *prompts}))


def with_words(prompt: str, words: str) -> str:
    """What one would type who looks for a model by what it draws and how."""
    return f"{prompt}, {words}"


def split_tasks(benchmark: Benchmark, folder: Path, split: Split) -> list[Task]:
    """The tasks of all protocols of a split."""
    protocols = benchmark.protocols_of(split)
    return [task for protocol in protocols for task in read_tasks(folder, split, protocol).tasks]


def split_images(tasks: Sequence[Task]) -> tuple[str, ...]:
    """Each picture of the tasks once, sorted."""
    return tuple(sorted({image for task in tasks for image in task.images}))


class _Embedding:
    """The parts of one stage, with their progress."""

    def __init__(self, generator: Generator, cache: StageCache, progress: Progress) -> None:
        self.total = 0
        self.made = False
        self._done = 0
        self._generator = generator
        self._cache = cache
        self._progress = progress

    def specifications(self, part: str, rows: Sequence[Sequence[str]], specs: SpecFile) -> None:
        """One block of every specification."""
        own = part == "own"
        texts = [model.own_prompts for model in specs.models] if own else [specs.prompts]
        names = [name for row in rows for name in row]
        inputs: list[object] = [
            self._key(),
            str(self._generator.precision),
            [list(row) for row in rows],
        ]
        inputs.append([list(prompts) for prompts in texts])
        seeds = len(specs.seeds)

        def arrays() -> Arrays:
            images = self._images(names).reshape(len(rows), len(rows[0]), -1)
            prompts = np.stack([self._generator.encoder().encode_texts(each) for each in texts])
            return {
                "image_embeddings": images.astype(self._generator.precision),
                "prompt_embeddings": (prompts if own else prompts[0]).astype(
                    self._generator.precision
                ),
                "image_prompt": np.repeat(np.arange(len(texts[0]), dtype=np.int32), seeds),
            }

        self._make(part, inputs, len(names), arrays)

    def queries(self, split: Split, names: Sequence[str], texts: Sequence[str]) -> None:
        """The pictures and true prompts of a split."""

        def arrays() -> Arrays:
            return {
                "images": np.array(names),
                "image_embeddings": self._images(names),
                "prompts": np.array(texts),
                "prompt_embeddings": self._generator.encoder().encode_texts(texts),
            }

        self._make(split, [self._key(), list(names), list(texts)], len(names), arrays)

    def words(self, wordings: Sequence[Sequence[str]], texts: Sequence[str]) -> None:
        """What is asked in words."""

        def arrays() -> Arrays:
            encoder = self._generator.encoder()
            scale = encoder.logit_scale if isinstance(encoder, Matched) else 0.0
            return {
                "wordings": np.array(wordings),
                "texts": np.array(texts),
                "text_embeddings": encoder.encode_texts(texts),
                "logit_scale": np.array(scale, np.float64),
            }

        self._make("words", [self._key(), [list(it) for it in wordings], list(texts)], 0, arrays)

    def _key(self) -> object:
        return [self._generator.encoder_id, versions(_ENCODING)]

    def _make(self, part: str, inputs: object, count: int, arrays: Callable[[], Arrays]) -> None:
        def files() -> list[tuple[str, str]]:
            return [self._cache.write(f"embeddings/{part}.npz", array_bytes(arrays()))]

        if self._cache.make("embed", part, inputs, files):
            self.made = True
            shutil.rmtree(self._chunks, ignore_errors=True)
        else:
            self._done += count
        self._progress(self._done, self.total)

    @property
    def _chunks(self) -> Path:
        return self._cache.folder / "work" / "embeddings"

    def _images(self, names: Sequence[str]) -> NDArray[np.floating[Any]]:
        """[B, D], in fixed chunks that are kept until the whole part is written."""
        parts = []
        for start in range(0, len(names), _AT_ONCE):
            chunk = names[start : start + _AT_ONCE]
            place = self._chunks / f"{canonical_digest([self._key(), list(chunk)])[:32]}.npy"
            rows = _kept(place)
            if rows is None:
                pictures = [open_generated(self._cache.folder / name) for name in chunk]
                rows = self._generator.encoder().encode_images(pictures)
                stream = io.BytesIO()
                np.save(stream, rows)
                put(place, stream.getvalue())
            parts.append(rows)
            self._done += len(chunk)
            self._progress(self._done, self.total)
        return np.concatenate(parts)


def _kept(place: Path) -> NDArray[np.floating[Any]] | None:
    try:
        rows: NDArray[np.floating[Any]] = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return rows


_GUESSES_AT_ONCE = 64

Guesses = list[str | None]


def interrogate_stage(
    benchmark: Benchmark, generator: Generator, cache: StageCache, progress: Progress
) -> bool:
    """Guess the prompts of both splits' pictures; whether any had to be.

    Written are ``pseudo/SPLIT.json``, picture file to pseudo-prompt or null, and
    ``pseudo/SPLIT.npz`` with ``images`` [I] (sorted) and ``prompt_embeddings`` [I, E], a row of
    zeros where nothing was guessed. The default prompts are among the phrases that the mode
    ``phrases`` chooses from, as in a search.
    """
    key = [
        benchmark.interrogator,
        list(benchmark.defaults),
        canonical_digest(list(shipped_phrases())),
        generator.encoder_id,
        versions(),
    ]
    images = {split: split_images(split_tasks(benchmark, cache.folder, split)) for split in SPLITS}
    total, done, made = sum(map(len, images.values())), 0, False
    progress(0, total)
    for split, names in images.items():

        def told(count: int, before: int = done) -> None:
            progress(before + count, total)

        def files(split: str = split, names: Sequence[str] = names) -> list[tuple[str, str]]:
            guesses = _guesses(benchmark, generator, cache.folder, key, names, told)
            return _write_guesses(generator, cache, split, names, guesses)

        if cache.make("interrogate", split, [key, list(names)], files):
            made = True
            shutil.rmtree(cache.folder / "work" / "pseudo", ignore_errors=True)
        done += len(names)
        progress(done, total)
    return made


def _guesses(
    benchmark: Benchmark,
    generator: Generator,
    folder: Path,
    key: object,
    names: Sequence[str],
    progress: Callable[[int], None],
) -> Guesses:
    """In chunks that are kept until the whole split is written: a captioner takes its time."""
    if benchmark.interrogator == "none":
        return [None] * len(names)
    ask = generator.guess(benchmark.defaults)
    guesses: Guesses = []
    for start in range(0, len(names), _GUESSES_AT_ONCE):
        chunk = names[start : start + _GUESSES_AT_ONCE]
        name = canonical_digest([key, list(chunk)])[:32]
        place = folder / "work" / "pseudo" / f"{name}.json"
        found = _kept_guesses(place, len(chunk))
        if found is None:
            found = [ask(open_generated(folder / image)) for image in chunk]
            put(place, document_bytes(found))
        guesses += found
        progress(len(guesses))
    return guesses


def _kept_guesses(place: Path, count: int) -> Guesses | None:
    try:
        found: Guesses = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) and len(found) == count else None


def _write_guesses(
    generator: Generator, cache: StageCache, split: str, names: Sequence[str], guesses: Guesses
) -> list[tuple[str, str]]:
    texts = sorted({guess for guess in guesses if guess is not None})
    # One more text, so that the width is known where nothing was guessed.
    rows = generator.encoder().encode_texts([*texts, "0"])
    known = dict(zip(texts, rows, strict=False))
    nothing = np.zeros_like(rows[0])
    embeddings = np.stack([nothing if guess is None else known[guess] for guess in guesses])
    arrays = {"images": np.array(names), "prompt_embeddings": embeddings}
    said = dict(zip(names, guesses, strict=True))
    return [
        cache.write(f"pseudo/{split}.json", document_bytes(said)),
        cache.write(f"pseudo/{split}.npz", array_bytes(arrays)),
    ]
