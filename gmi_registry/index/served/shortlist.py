"""The nearest models that a server found, as far as a ranking asks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import UnsupportedOperationError
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.image_question import ImageQuestion
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.question import Near, PromptValues
from gmi_registry.index.served.facts import Facts
from gmi_registry.index.stack import Held, Stack
from gmi_registry.scoring import Candidates, WithinScatter
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.sweep import norm_range
from gmi_registry.spec import ModelRef

__all__ = ["Measured", "Shortlist", "unserved"]

Images = Callable[[Sequence[ModelRef]], NDArray[np.float16]]
Styles = Callable[[Sequence[ModelRef]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Shortlist:
    """A :class:`~gmi_registry.index.stack.Stack` of R models whose distances are known already.

    ``fetch`` gives images [R, N, D] by reference, ``styles`` what :meth:`.Facts.styles` says of
    their means [R, D]. Means, statistics and what other scores want
    stay on the server: asking for them raises UnsupportedOperationError.
    """

    facts: Facts
    entries: Sequence[IndexEntry]
    fetch: Images
    styles: Styles

    @property
    def key(self) -> ComparabilityKey:
        return self.facts.key

    @cached_property
    def names(self) -> list[str]:
        return [str(entry.model) for entry in self.entries]

    @property
    def digest(self) -> str:
        raise unserved("what all members are")

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.facts.prompts

    def prompts_held(self, rows: Sequence[int]) -> Sequence[Held]:
        return [(self.facts.prompt_embeddings, np.arange(len(rows)))]

    @property
    def text_dim(self) -> int:
        return int(self.facts.prompt_embeddings.shape[-1])

    @property
    def image_prompt(self) -> NDArray[np.int32]:
        return self.facts.image_prompt

    @property
    def temperature(self) -> float:
        return self.facts.temperature

    @property
    def image_dim(self) -> int:
        return self.facts.image_dim

    @property
    def means(self) -> Floats:
        raise unserved("means")

    @property
    def scatter(self) -> WithinScatter:
        raise unserved("statistics")

    def whitened(self, rows: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        facts = self.facts
        apart = self.styles([self.entries[row].model for row in rows])
        return apart + facts.centre.astype(np.float64) @ facts.whitening, facts.excess

    @property
    def estimator(self) -> None:
        # The server has measured them.
        return None

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        chosen = range(len(self.entries)) if rows is None else rows
        return self.fetch([self.entries[row].model for row in chosen])

    def portions(self, rows: Sequence[int]) -> Sequence[NDArray[np.intp]]:
        return [np.arange(len(rows))]

    def row_norms(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return norm_range(self.images(rows))

    def files(self, rows: Sequence[int]) -> NDArray[np.intp]:
        return np.zeros(len(rows), np.intp)

    def at_hand(self, rows: Sequence[int]) -> bool:
        return True

    def candidates(
        self, rows: Sequence[int], prompt_embeddings: Floats, *, grams: bool = True
    ) -> Candidates:
        raise unserved("all embeddings")


@dataclass(frozen=True, eq=False)
class Measured:
    """``question``, where the server has measured the ``known`` distances [R] of a shortlist,
    nearest first, and those of models ``beyond`` it, which compete for chances."""

    question: ImageQuestion
    known: Floats
    beyond: Floats = field(default_factory=lambda: np.empty(0))

    def most_beyond(self, models: int, temperature: float) -> float:
        """The largest share of all chance that so many ``models`` can have that are no nearer than
        the last of the shortlist: in 0..1."""
        images = len(self.question.query.image_embeddings)
        weights = np.exp((self.known[0] - self.known) * (images / (2 * temperature)))
        most = models * float(weights[-1])
        return most / (most + float(weights.sum()))

    @property
    def encoder_id(self) -> str:
        return self.question.encoder_id

    @property
    def about(self) -> ModelRef | None:
        return None

    def distances(self, stack: Stack, rows: Sequence[int]) -> Floats:
        return np.asarray(self.known[np.asarray(rows, np.intp)])

    def near(self, stack: Stack, rows: Sequence[int], count: int) -> Near:
        return Near.everything(self.distances(stack, rows))

    def confidences(self, stack: Stack, distances: Floats) -> Floats | None:
        competing = np.concatenate([distances, self.beyond])
        chances = self.question.confidences(stack, competing)
        return None if chances is None else chances[: len(distances)]

    def best_prompts(self, stack: Stack, rows: Sequence[int], count: int) -> Sequence[PromptValues]:
        if count < 1 or not len(rows):
            return [()] * len(rows)
        return self.question.best_prompts(stack, rows, count)

    def faults(self, stack: Stack, rows: Sequence[int]) -> Sequence[str | None]:
        return self.question.faults(stack, rows)


def unserved(what: str) -> UnsupportedOperationError:
    """The error for a search that wants more than a server of nearest neighbours can give."""
    return UnsupportedOperationError(
        f"an index on a Qdrant server answers by the default score without a prompt, not by {what}",
        hint="leave out what asks for it, or search the index files: gmi-search ... --index DIR",
    )
