"""The models that one query is compared with, as arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmi_registry.scoring.invariants import Invariants
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.within import WithinScatter

__all__ = ["PAPER_GAMMA", "Candidates"]

PAPER_GAMMA = 0.02


@dataclass(frozen=True, eq=False)
class Candidates:
    """M models that answered one prompt set in one layout and were seen by one encoder.

    ``image_embeddings`` [M, N, D]: Z_m, raw; any float dtype, widened where it is used.
    ``prompt_embeddings`` [P, E]: Q, shared by all.
    ``image_prompt`` [N]: the prompt that made row i, in 0..P-1.
    ``gamma``: γ of the kernel that the specs name.
    ``grams`` [M, N, N]: G_m = k(Z_m, Z_m) with that γ, where they have been computed before.
    ``invariants``: gives what Eq. 9 needs of these models and no query changes, where somebody
    keeps it. A function, because it takes a pass over all images.
    ``scatter``: gives the within-model statistics of a larger set that these models belong to, so
    that a filter that leaves three models does not change what the whole hub taught. A function,
    because they take a while and only some scores want them.
    ``downloads`` [M]: download counts, NaN where unknown.

    Raises ValueError where shapes disagree.
    """

    image_embeddings: Floats
    prompt_embeddings: Floats
    image_prompt: NDArray[np.integer]
    gamma: float = PAPER_GAMMA
    grams: Floats | None = None
    scatter: Callable[[], WithinScatter] | None = None
    downloads: Floats | None = None
    invariants: Callable[[], Invariants] | None = None

    def __post_init__(self) -> None:
        if self.image_embeddings.ndim != 3 or self.prompt_embeddings.ndim != 2:
            raise ValueError("image_embeddings must be [M, N, D] and prompt_embeddings [P, E]")
        models, rows, _ = self.image_embeddings.shape
        if rows == 0:
            raise ValueError("a model needs at least one image")
        expected = {
            "image_prompt": (self.image_prompt, (rows,)),
            "grams": (self.grams, (models, rows, rows)),
            "downloads": (self.downloads, (models,)),
        }
        for name, (array, shape) in expected.items():
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        prompts = len(self.prompt_embeddings)
        if self.image_prompt.min() < 0 or self.image_prompt.max() >= prompts:
            raise ValueError(f"image_prompt must lie in 0..{prompts - 1}")

    def __len__(self) -> int:
        """M, the number of models."""
        return len(self.image_embeddings)
