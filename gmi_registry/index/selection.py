"""The part of an index that a search looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gmi_registry.filters import Filters
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.result import SkippedSpec
from gmi_registry.index.stack import Stack
from gmi_registry.index.standing import Standing
from gmi_registry.spec import ModelRef

__all__ = ["Index", "Selection", "as_rows"]


def as_rows(rows: Sequence[int]) -> NDArray[np.intp]:
    """``rows`` as an array; of a range without counting through it."""
    if isinstance(rows, range):
        return np.arange(rows.start, rows.stop, rows.step)
    return np.asarray(rows, np.intp)


@dataclass(frozen=True, eq=False)
class Selection:
    """Members of one group that passed a filter: ``rows`` of ``stack``."""

    stack: Stack
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def first(self) -> IndexEntry:
        """One of them, that says what all share. Raises IndexError where there is none."""
        return self.stack.entries[self.rows[0]]


class Index(Protocol):
    """Specifications, in groups within which distances mean the same."""

    @property
    def skipped(self) -> Sequence[SkippedSpec]:
        """What could not be taken in."""
        ...

    def __len__(self) -> int: ...

    def base_models(self) -> set[str]:
        """What base models are called, in any letter case; perhaps those of other indexes too."""
        ...

    def select(self, filters: Filters, leave_out: ModelRef | None = None) -> list[Selection]:
        """What passes, group by group, without empty ones; ``leave_out`` is an identity."""
        ...

    def standing(self, name: str) -> Standing:
        """What is known of the specification of the model whose identity has that name."""
        ...

    def mark(self, model: ModelRef, *, stale: bool) -> None:
        """Say whether the weights of a model are others than those that were described."""
        ...
