"""The arrays of a results folder, as the methods want them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper.definition import HALVES, gallery_of
from benchmarks.paper.folder import SpecFile, Task, TaskFile, load_arrays, read_specs
from benchmarks.paper.methods import Array, Gallery, Queries
from gmi_registry.errors import InputError
from gmi_registry.scoring.kernels import grams
from gmi_registry.scoring.scatter import WithinScatter
from gmi_registry.scoring.scores import Candidates


class RunArrays:
    """Galleries and queries of one results folder, float64, each read once."""

    def __init__(self, folder: Path, gamma: float) -> None:
        self.folder = folder
        self.gamma = gamma
        self.specs: SpecFile = read_specs(folder)
        self._galleries: dict[str, Gallery] = {}

    def gallery(self, protocol: str) -> Gallery:
        """The specifications that a protocol's tasks choose from."""
        key = gallery_of(protocol)
        if key not in self._galleries:
            self._galleries[key] = self._gallery(key)
        return self._galleries[key]

    def _gallery(self, key: str) -> Gallery:
        if key == "own-prompts":
            return self._separate(lambda number: True)
        if key == "own-prompts-mixed":
            return self._separate(lambda number: number % 2 == 0)
        if key in HALVES:
            return self._half(HALVES.index(key))
        return self._shared

    def queries(self, split: str, tasks: TaskFile) -> tuple[Queries, NDArray[np.intp]]:
        """The I different images of some tasks, and which k of them each of Q tasks has, [Q, k].

        Raises InputError for a task that the stages before have not seen.
        """
        arrays = load_arrays(self.folder / "embeddings" / f"{split}.npz")
        pseudo = load_arrays(self.folder / "pseudo" / f"{split}.npz")
        place = {str(name): row for row, name in enumerate(arrays["images"])}
        guessed = {str(name): row for row, name in enumerate(pseudo["images"])}
        texts = {str(text): row for row, text in enumerate(arrays["prompts"])}
        # Pairs: two prompts may have been answered by the same picture.
        asked = sorted({pair for task in tasks.tasks for pair in _pairs(task)})
        try:
            rows = [place[image] for image, _ in asked]
            guesses = [guessed[image] for image, _ in asked]
            prompts = [texts[prompt] for _, prompt in asked]
        except KeyError as error:
            raise InputError(
                f"{self.folder}: nothing is known of {error.args[0]!r}",
                hint="run the same python -m benchmarks.paper run again, without --stage",
            ) from None
        queries = Queries(
            arrays["image_embeddings"][rows].astype(float),
            arrays["prompt_embeddings"][prompts].astype(float),
            pseudo["prompt_embeddings"][guesses].astype(float),
            tuple(self.folder / image for image, _ in asked),
        )
        order = {pair: row for row, pair in enumerate(asked)}
        members = [[order[pair] for pair in _pairs(task)] for task in tasks.tasks]
        return queries, np.array(members, dtype=np.intp)

    @cached_property
    def _shared(self) -> Gallery:
        """All models on the default prompts."""
        arrays = load_arrays(self.folder / "embeddings" / "specs.npz")
        images = arrays["image_embeddings"].astype(float)
        member = Candidates(
            image_embeddings=images,
            prompt_embeddings=arrays["prompt_embeddings"].astype(float),
            image_prompt=arrays["image_prompt"],
            gamma=self.gamma,
            grams=grams(images, self.gamma),
            scatter=self._scatter,
            downloads=self._downloads,
        )
        return Gallery((member,), self._pictures(lambda number: False))

    def _half(self, number: int) -> Gallery:
        """All models on every other default prompt, from prompt ``number``."""
        whole = self._shared.members[0]
        rows = np.flatnonzero(whole.image_prompt % len(HALVES) == number)
        if not len(rows):
            raise InputError("one default prompt has no halves", hint="leave out split-2, split-3")
        images = whole.image_embeddings[:, rows]
        pooled = WithinScatter.of(images)
        member = replace(
            whole,
            image_embeddings=images,
            image_prompt=whole.image_prompt[rows],
            grams=None if whole.grams is None else whole.grams[:, rows][:, :, rows],
            scatter=lambda: pooled,
        )
        pictures = self._shared.pictures
        return Gallery((member,), tuple(tuple(each[row] for row in rows) for each in pictures))

    def _separate(self, has_own: Callable[[int], bool]) -> Gallery:
        """Each model on its own prompts, beside the default ones or without any.

        What is pooled over models is pooled over the default block, which all of them have.
        """
        shared = self._shared.members[0]
        own = load_arrays(self.folder / "embeddings" / "own.npz")
        prompts = len(shared.prompt_embeddings)
        members = []
        for number in range(len(shared)):
            images = shared.image_embeddings[number]
            texts, rows = shared.prompt_embeddings, shared.image_prompt
            if has_own(number):
                images = np.concatenate([images, own["image_embeddings"][number].astype(float)])
                texts = np.concatenate([texts, own["prompt_embeddings"][number].astype(float)])
                rows = np.concatenate([rows, own["image_prompt"] + prompts])
            member = Candidates(
                image_embeddings=images[None],
                prompt_embeddings=texts,
                image_prompt=rows,
                gamma=self.gamma,
                grams=grams(images[None], self.gamma),
                scatter=self._scatter,
                downloads=self._downloads[number : number + 1],
            )
            members.append(member)
        return Gallery(tuple(members), self._pictures(has_own))

    @cached_property
    def _pooled(self) -> WithinScatter:
        arrays = load_arrays(self.folder / "embeddings" / "specs.npz")
        return WithinScatter.of(arrays["image_embeddings"].astype(float))

    def _scatter(self) -> WithinScatter:
        return self._pooled

    @property
    def _downloads(self) -> Array:
        counts = [model.downloads for model in self.specs.models]
        return np.array([np.nan if count is None else count for count in counts], float)

    def _pictures(self, has_own: Callable[[int], bool]) -> tuple[tuple[Path, ...], ...]:
        return tuple(
            tuple(
                self.folder / name
                for name in (*model.images, *(model.own_images if has_own(number) else ()))
            )
            for number, model in enumerate(self.specs.models)
        )


def _pairs(task: Task) -> list[tuple[str, str]]:
    """Image and prompt, once for each image of the task."""
    return list(zip(task.images, task.prompts, strict=True))
