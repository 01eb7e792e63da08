"""One specification, ready to be compared: its entry, and the arrays of its default prompt set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.entry import IndexEntry
from gmi_registry.scoring import gram
from gmi_registry.spec import Spec

__all__ = ["IndexedSpec"]


@dataclass(frozen=True, eq=False)
class IndexedSpec:
    """``image_embeddings`` [N, D] float16, ``prompt_embeddings`` [P, E] float16 and ``gram`` [N, N]
    float32, k(Z, Z) with the γ of the manifest.

    Rows are sorted by prompt, so that all members of one group have one layout: row i answers
    prompt i // images_per_prompt. The Gram matrix is computed here and never taken from a
    published file, where it could be forged.
    """

    entry: IndexEntry
    image_embeddings: NDArray[np.float16]
    prompt_embeddings: NDArray[np.float16]
    gram: NDArray[np.float32]

    @property
    def image_prompt(self) -> NDArray[np.int32]:
        """The prompt that made row i, in 0..P-1: [N]."""
        each = self.entry.key.images_per_prompt
        return np.repeat(np.arange(len(self.prompt_embeddings), dtype=np.int32), each)

    @classmethod
    def of(cls, spec: Spec) -> IndexedSpec:
        """The default block of a specification, which is the first, and so numbered from 0."""
        entry = IndexEntry.of(spec)
        order = np.argsort(spec.image_prompt[spec.default_rows], kind="stable")
        images = np.ascontiguousarray(spec.image_embeddings[spec.default_rows][order])
        return cls(
            entry=entry,
            image_embeddings=images,
            prompt_embeddings=np.ascontiguousarray(spec.prompt_embeddings[: len(entry.prompts)]),
            gram=gram(images, entry.key.gamma).astype(np.float32, copy=False),
        )
