"""Stage ``interrogate``: what the prompt of each query image may have been."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gmi_registry.bench.cache import StageCache, array_bytes, document_bytes, put
from gmi_registry.bench.embed import open_picture, split_images, split_tasks
from gmi_registry.bench.file import SPLITS, Benchmark
from gmi_registry.bench.library import versions
from gmi_registry.bench.studio import Studio
from gmi_registry.interrogators.modes import shipped_phrases
from gmi_registry.spec.canonical import canonical_digest

__all__ = ["interrogate_stage"]

_AT_ONCE = 64

Progress = Callable[[int, int], None]
Guesses = list[str | None]


def interrogate_stage(
    benchmark: Benchmark, studio: Studio, cache: StageCache, progress: Progress
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
        studio.encoder_id,
        versions(),
    ]
    images = {split: split_images(split_tasks(benchmark, cache.folder, split)) for split in SPLITS}
    total, done, made = sum(map(len, images.values())), 0, False
    progress(0, total)
    for split, names in images.items():
        inputs = [key, list(names)]
        if cache.find("interrogate", split, inputs) is None:
            made = True
            start = time.perf_counter()
            guesses = _guesses(benchmark, studio, cache.folder, key, names, done, total, progress)
            files = _write(studio, cache.folder, split, names, guesses)
            seconds = time.perf_counter() - start
            cache.keep("interrogate", split, inputs, files, seconds)
            shutil.rmtree(cache.folder / "work" / "pseudo", ignore_errors=True)
        done += len(names)
        progress(done, total)
    return made


def _guesses(
    benchmark: Benchmark,
    studio: Studio,
    folder: Path,
    key: object,
    names: Sequence[str],
    done: int,
    total: int,
    progress: Progress,
) -> Guesses:
    """In chunks that are kept until the whole split is written: a captioner takes its time."""
    if benchmark.interrogator == "none":
        return [None] * len(names)
    ask = studio.guess(benchmark.defaults)
    guesses: Guesses = []
    for start in range(0, len(names), _AT_ONCE):
        chunk = names[start : start + _AT_ONCE]
        name = canonical_digest([key, list(chunk)])[:32]
        place = folder / "work" / "pseudo" / f"{name}.json"
        found = _kept(place, len(chunk))
        if found is None:
            found = [ask(open_picture(folder / image)) for image in chunk]
            put(place, document_bytes(found))
        guesses += found
        progress(done + len(guesses), total)
    return guesses


def _kept(place: Path, count: int) -> Guesses | None:
    try:
        found: Guesses = json.loads(place.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) and len(found) == count else None


def _write(
    studio: Studio, folder: Path, split: str, names: Sequence[str], guesses: Guesses
) -> list[tuple[str, str]]:
    texts = sorted({guess for guess in guesses if guess is not None})
    # One more text, so that the width is known where nothing was guessed.
    rows = studio.encoder().encode_texts([*texts, "0"])
    known = dict(zip(texts, rows, strict=False))
    nothing = np.zeros_like(rows[0])
    embeddings = np.stack([nothing if guess is None else known[guess] for guess in guesses])
    arrays = {"images": np.array(names), "prompt_embeddings": embeddings}
    said = dict(zip(names, guesses, strict=True))
    files = {
        f"pseudo/{split}.json": document_bytes(said),
        f"pseudo/{split}.npz": array_bytes(arrays),
    }
    return [(name, put(folder / name, data)) for name, data in files.items()]
