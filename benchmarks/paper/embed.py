"""Stages ``embed`` and ``interrogate``: vectors of pictures and prompts, and pseudo-prompts."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.paper.definition import SPLITS, Benchmark, Split
from benchmarks.paper.folder import (
    Progress,
    SpecFile,
    StageCache,
    Task,
    array_bytes,
    document_bytes,
    put,
    read_specs,
    read_tasks,
    versions,
)
from benchmarks.paper.generators import Generator
from gmi_registry.encoders.encoder import Matched
from gmi_registry.errors import GenerationError
from gmi_registry.interrogators import shipped_phrases
from gmi_registry.spec.canonical import canonical_digest

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


def open_picture(path: Path) -> Image.Image:
    """One of this run's own pictures as RGB. Raises GenerationError where it is gone."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise GenerationError(
            f"{path}: a generated image is missing or damaged", hint="run the same command again"
        ) from error


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
                pictures = [open_picture(self._cache.folder / name) for name in chunk]
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
            found = [ask(open_picture(folder / image)) for image in chunk]
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
