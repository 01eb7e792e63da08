"""References of models as texts, of which an index has very many: whose they are."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from gmi_registry.index.selection import as_rows

__all__ = ["identity_of", "rows_of", "without"]


def identity_of(name: str) -> str:
    """The name of a model's identity, from a reference as text that is known to be one."""
    # Parsing would do, and take a hundred times longer; there are thousands of them.
    return name if name.startswith("civitai:") else name.partition("@")[0]


def without(
    rows: Sequence[int], names: Sequence[str], identities: Collection[str]
) -> Sequence[int]:
    """``rows``, which ascend, less those of these identities; ``names`` of all are in order."""
    gone = rows_of(names, identities)
    members = as_rows(rows)
    left = ~np.isin(members, gone)
    # Numbers that nobody has to take apart one by one.
    return rows if left.all() else array("q", members[left].astype(np.int64).tobytes())


def rows_of(names: Sequence[str], identities: Collection[str]) -> list[int]:
    """The rows of these identities; ``names`` of all are in order."""
    return [row for identity in identities for row in _rows_of(names, identity)]


def _rows_of(names: Sequence[str], identity: str) -> Iterator[int]:
    # With a revision and without, which other names may stand between.
    for start in (identity, f"{identity}@"):
        for row in range(bisect_left(names, start), len(names)):
            if not names[row].startswith(start) or identity_of(names[row]) != identity:
                break
            yield row
