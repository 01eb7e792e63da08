"""What a question asks of the specifications that it may compare with each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.scoring import Candidates, WithinScatter
from gmi_registry.scoring.confidence import TailMass
from gmi_registry.scoring.kernels import Floats

__all__ = ["Estimator", "Held", "Stack"]

Held = tuple[NDArray[np.float16], NDArray[np.intp]]
"""Prompt embeddings [P, E], and the places of the members that hold them."""


class Estimator(Protocol):
    """Distances of the default score without a prompt, at two prices, and what means say.

    ``query_images`` are [B, D], distances the means over them, and ``concentration`` is that of
    :func:`~gmi_registry.scoring.default.mean_distances`.
    """

    def near(
        self, rows: Sequence[int], query_images: Floats, concentration: float, count: int
    ) -> tuple[NDArray[np.intp], Floats, TailMass]:
        """Of the members at ``rows`` [R], which ascend, the places of those that may be among the
        ``count`` nearest, in no order, and their distances, nearly: [n] and [n]; and what is known
        of all others."""
        ...

    def distances(self, rows: Sequence[int], query_images: Floats, concentration: float) -> Floats:
        """Of the members at ``rows`` [R], few of them: [R]."""
        ...

    def of_means(self, rows: Sequence[int], each: Callable[[Floats], Floats]) -> Floats:
        """``each`` of the raw means of the members at ``rows`` [R]: [R]. It is given some at a
        time, [n, D], and gives [n]."""
        ...


class Stack(Protocol):
    """M members that share one key, by their rows 0..M-1, in the order of their references.

    What is large is read where it is asked for: a question that is content with means should ask
    for nothing else.
    """

    @property
    def key(self) -> ComparabilityKey: ...

    @property
    def entries(self) -> Sequence[IndexEntry]:
        """One for each row."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """The references of the members as texts, M of them."""
        ...

    @property
    def digest(self) -> str:
        """Another one whenever a member joins, leaves or has another specification."""
        ...

    @property
    def prompts(self) -> tuple[str, ...]:
        """The texts that all members answered, P of them."""
        ...

    def prompts_held(self, rows: Sequence[int]) -> Sequence[Held]:
        """The embeddings of these texts that come with the members at ``rows`` [R].

        Strangers made them, and no majority makes them right: who has the encoder weighs by its
        own (:data:`~gmi_registry.index.question.PromptReader`), and who has not weighs each member
        by what that member holds, which changes no other's distance.
        """
        ...

    @property
    def text_dim(self) -> int:
        """E."""
        ...

    def row_norms(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The least and the greatest L2 norm of the images of the members at ``rows``: [R, 2]."""
        ...

    @property
    def image_prompt(self) -> NDArray[np.int32]:
        """[N]: the prompt of each image."""
        ...

    @property
    def image_dim(self) -> int:
        """D."""
        ...

    @property
    def means(self) -> Floats:
        """[M, D]: the mean of each member's images."""
        ...

    @property
    def scatter(self) -> WithinScatter:
        """Within-model statistics of all members, whatever a filter leaves of them."""
        ...

    @property
    def temperature(self) -> float:
        """How far distances among all members can be trusted, whatever a filter leaves of them."""
        ...

    def whitened(self, rows: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        """Fᵀμ of the members at ``rows`` [R], few of them: [R, D]; and tr((S + λI)⁻¹ S) / N, with
        F Fᵀ = (S + λI)⁻¹ of the default score. Raises as :meth:`images` does."""
        ...

    @property
    def estimator(self) -> Estimator | None:
        """For so many members that their means should not all be read; None for fewer."""
        ...

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        """The images of the members at ``rows`` [R], None for all: [R, N, D]."""
        ...

    def portions(self, rows: Sequence[int]) -> Sequence[NDArray[np.intp]]:
        """Places in ``rows`` [R], all of them in portions that should be read at once: one unless
        they would take more memory than there may be."""
        ...

    def files(self, rows: Sequence[int]) -> NDArray[np.intp]:
        """Numbers of what the images of the members at ``rows`` [R] are read from: [R]. To read
        from few of these is to fetch and check few."""
        ...

    def at_hand(self, rows: Sequence[int]) -> bool:
        """Whether the images of these members are on this machine, so that they may be shown for
        the asking. A ranking that needs them asks for them all the same."""
        ...

    def candidates(
        self, rows: Sequence[int], prompt_embeddings: Floats, *, grams: bool = True
    ) -> Candidates:
        """The members at ``rows``, weighed by ``prompt_embeddings`` [P, E], with everything that a
        score may want; without Gram matrices, which are slow to read, for one that does not."""
        ...
