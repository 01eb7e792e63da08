"""What Eq. 9 needs of the models and no query changes: computed once, kept with the models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gmi_registry.scoring.kernels import Floats, widened, working_dtype
from gmi_registry.scoring.sweep import row_norms, swept

__all__ = ["Invariants", "gram_sums"]


@dataclass(frozen=True, eq=False)
class Invariants:
    """``norms`` [M, N]: ‖z‖² of every image; ``sums`` [M]: 1ᵀG_m 1, which is all that is left of a
    Gram matrix when every image counts alike."""

    norms: Floats
    sums: Floats

    @classmethod
    def of(cls, image_embeddings: Floats, grams: Floats) -> Invariants:
        """Of ``image_embeddings`` [M, N, D] and ``grams`` [M, N, N]."""
        models, rows, width = image_embeddings.shape
        dtype = working_dtype(image_embeddings)
        norms = np.empty((models, rows), dtype)

        def work(part: slice) -> None:
            block = widened(image_embeddings[part], dtype)
            norms[part] = row_norms(block.reshape(-1, width)).reshape(-1, rows)

        swept(work, models, rows * width, streamed=False, spread=True)
        return cls(norms, gram_sums(grams))


def gram_sums(grams: Floats) -> Floats:
    """1ᵀG 1 of every Gram matrix: [M, N, N] gives [M]."""
    models, rows, _ = grams.shape
    return np.asarray(grams.reshape(models, rows * rows).sum(axis=1))
