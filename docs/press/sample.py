"""What the pictures show: the zoo's sixteen LoRAs, and what the package's own scores say of them.

Their specifications lie in ``specs``, as ``gmi-publish`` wrote them. Everything is computed in
float64, so that machines agree on more digits than a picture has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.scoring import PAPER_GAMMA, paper_distances
from gmi_registry.scoring.default import whitened_distances
from gmi_registry.scoring.query import cosine_weights
from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, TENSORS_NAME, Spec, read_spec

__all__ = ["Numbers", "Sample", "take"]

Numbers = NDArray[np.float64]
_SPECS = Path(__file__).parent / "specs"


def _paper(images: Numbers, weights: Numbers, queries: Numbers) -> Numbers:
    return np.asarray(paper_distances(images, weights, queries, PAPER_GAMMA), np.float64)


def _default(images: Numbers, weights: Numbers, queries: Numbers) -> Numbers:
    return np.asarray(whitened_distances(images, weights, queries), np.float64)


_SCORES: dict[str, Callable[[Numbers, Numbers, Numbers], Numbers]] = {
    "paper": _paper,
    "default": _default,
}


@dataclass(frozen=True, eq=False)
class Sample:
    """M models of one prompt set: ``images`` [M, N, D], ``prompts`` [P, E], one image a prompt."""

    names: tuple[str, ...]
    specs: tuple[Spec, ...]
    texts: tuple[str, ...]
    images: Numbers
    prompts: Numbers

    @classmethod
    def load(cls) -> Sample:
        """Read and check the specifications. Raises a SpecError for one that is broken."""
        folders = sorted(_SPECS.iterdir())
        specs = tuple(read_spec(folder) for folder in folders)
        first = specs[0]
        for spec in specs:
            if not np.array_equal(spec.image_prompt, np.arange(len(first.prompt_embeddings))):
                raise InputError("the pictures want one image a prompt, in the prompts' order")
        return cls(
            names=tuple(spec.manifest.model.id.removeprefix("icon-") for spec in specs),
            specs=specs,
            texts=first.manifest.prompt_sets[0].prompts,
            images=np.stack([spec.image_embeddings for spec in specs]).astype(np.float64),
            prompts=first.prompt_embeddings.astype(np.float64),
        )

    def weights(self, prompt: int) -> tuple[NDArray[np.intp], Numbers]:
        """The other prompts, and their weights where the query shows what ``prompt`` names."""
        others = np.delete(np.arange(len(self.texts)), prompt)
        rows = np.arange(len(others))
        found = cosine_weights(self.prompts[others], rows, self.prompts[prompt])
        return others, np.asarray(found, np.float64)

    @cached_property
    def distances(self) -> dict[str, Numbers]:
        """Distances [M, N, M] of every image, as a query, to every model, by score.

        A query's own prompt is taken out of all models first: no model is compared with its answer
        to the question. The prompt itself is the pseudo-prompt.
        """
        models, rows, _ = self.images.shape
        found = {name: np.empty((models, rows, models)) for name in _SCORES}
        for prompt in range(rows):
            others, weights = self.weights(prompt)
            each, queries = np.tile(weights, (models, 1)), self.images[:, prompt]
            for name, score in _SCORES.items():
                found[name][:, prompt] = score(self.images[:, others], each, queries)
        return found


def take(hub: Path) -> list[str]:
    """Replace the specifications by those of the LoRAs in the local hub at ``hub``; their names.

    Raises a SpecError for one that cannot be used, InputError where the hub holds none.
    """
    found = []
    for folder in sorted((hub / "models").iterdir()):
        is_published = (folder / SPEC_DIR / MANIFEST_NAME).is_file()
        if is_published and read_spec(folder).manifest.model.kind == "lora":
            found.append(folder)
    if not found:
        raise InputError(f"{hub} holds no published LoRA", hint="nox -s demo")
    shutil.rmtree(_SPECS, ignore_errors=True)
    for folder in found:
        target = _SPECS / folder.name / SPEC_DIR
        target.mkdir(parents=True)
        for name in (MANIFEST_NAME, TENSORS_NAME):
            shutil.copyfile(folder / SPEC_DIR / name, target / name)
    return [folder.name for folder in found]
