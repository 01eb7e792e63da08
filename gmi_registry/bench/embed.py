"""Stage ``embed``: pictures and prompts to vectors."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmi_registry.bench.cache import StageCache, array_bytes, put
from gmi_registry.bench.file import SPLITS, Benchmark, Split
from gmi_registry.bench.generate import SpecFile, read_specs
from gmi_registry.bench.library import versions
from gmi_registry.bench.studio import Studio
from gmi_registry.bench.tasks import Task, read_tasks
from gmi_registry.encoders.protocol import Matched
from gmi_registry.errors import GenerationError
from gmi_registry.spec.canonical import canonical_digest

__all__ = [
    "asked_in_words",
    "embed_stage",
    "open_picture",
    "split_images",
    "split_tasks",
    "with_words",
]

_AT_ONCE = 256
_ENCODING = ("open_clip_torch", "pillow", "timm", "torch", "transformers")

Progress = Callable[[int, int], None]
Arrays = dict[str, NDArray[np.generic]]


def embed_stage(
    benchmark: Benchmark, studio: Studio, cache: StageCache, progress: Progress
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
    work = _Work(studio, cache, progress)
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
            f"{path}: a generated picture is gone or damaged", hint="run the same command again"
        ) from error


class _Work:
    """The parts of one stage, with their progress."""

    def __init__(self, studio: Studio, cache: StageCache, progress: Progress) -> None:
        self.total = 0
        self.made = False
        self._done = 0
        self._studio = studio
        self._cache = cache
        self._progress = progress

    def specifications(self, part: str, rows: Sequence[Sequence[str]], specs: SpecFile) -> None:
        """One block of every specification."""
        own = part == "own"
        texts = [model.own_prompts for model in specs.models] if own else [specs.prompts]
        names = [name for row in rows for name in row]
        inputs: list[object] = [
            self._key(),
            str(self._studio.precision),
            [list(row) for row in rows],
        ]
        inputs.append([list(prompts) for prompts in texts])
        seeds = len(specs.seeds)

        def arrays() -> Arrays:
            images = self._images(names).reshape(len(rows), len(rows[0]), -1)
            prompts = np.stack([self._studio.encoder().encode_texts(each) for each in texts])
            return {
                "image_embeddings": images.astype(self._studio.precision),
                "prompt_embeddings": (prompts if own else prompts[0]).astype(
                    self._studio.precision
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
                "prompt_embeddings": self._studio.encoder().encode_texts(texts),
            }

        self._make(split, [self._key(), list(names), list(texts)], len(names), arrays)

    def words(self, wordings: Sequence[Sequence[str]], texts: Sequence[str]) -> None:
        """What is asked in words."""

        def arrays() -> Arrays:
            encoder = self._studio.encoder()
            scale = encoder.logit_scale if isinstance(encoder, Matched) else 0.0
            return {
                "wordings": np.array(wordings),
                "texts": np.array(texts),
                "text_embeddings": encoder.encode_texts(texts),
                "logit_scale": np.array(scale, np.float64),
            }

        self._make("words", [self._key(), [list(it) for it in wordings], list(texts)], 0, arrays)

    def _key(self) -> object:
        return [self._studio.encoder_id, versions(_ENCODING)]

    def _make(self, part: str, inputs: object, count: int, arrays: Callable[[], Arrays]) -> None:
        if self._cache.find("embed", part, inputs) is None:
            self.made = True
            start = time.perf_counter()
            name = f"embeddings/{part}.npz"
            digest = put(self._cache.folder / name, array_bytes(arrays()))
            seconds = time.perf_counter() - start
            self._cache.keep("embed", part, inputs, [(name, digest)], seconds)
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
                rows = self._studio.encoder().encode_images(pictures)
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
