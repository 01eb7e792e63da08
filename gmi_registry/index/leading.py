"""The nearest of a selection in order, without an order of all where there are very many."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.question import Question
from gmi_registry.index.stack import Stack
from gmi_registry.index.standing import Standing
from gmi_registry.scoring import ascending
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.ranking import least

__all__ = ["Leading"]

# Fewer are put in order as a whole. More than a server ever hands over, whose names are in none.
_MANY = 5000
# Of each model several versions may be among the nearest, which are shown as one, and several
# models may repeat each other.
_ROOM = 2


class Leading:
    """The nearest of ``rows`` [R] by ``question``.

    ``order`` [n] are places in ``rows``, nearest first, ``distances`` [n] theirs, and ``folded``
    the places in ``order`` of each model's versions by the first of them: of ``least`` models and
    up to twice as many where they are known as well, of all for None. ``complete`` says that there
    are no others. Every version of these models is in ``order``. ``rest`` stands for all others
    where chances are given out: distances, estimates, or those of groups, in which versions that
    were added to the nearest may count again. Where there are very many rows, the stack's names
    have to be in order.
    """

    def __init__(
        self,
        stack: Stack,
        rows: Sequence[int],
        question: Question,
        least: int | None,
        standing: Callable[[str], Standing],
    ) -> None:
        self._names = stack.names
        self._rows = rows
        self._most = None if least is None else _ROOM * least
        self._standing = standing
        asked = len(rows) if least is None or len(rows) < _MANY else _ROOM * least
        while True:
            partly = asked < len(rows)
            near = question.near(stack, rows, min(asked, len(rows)))
            chosen = _nearest(near.distances, asked)
            order = near.places[chosen]
            sorting = self._sorting(order, near.distances[chosen])
            order, distances = order[sorting], near.distances[chosen][sorting]
            folded = self._folded(order)
            if not partly or (least is not None and len(folded) >= least):
                break
            asked *= _ROOM * _ROOM
        if partly:
            further = self._further(order, folded)
            if len(further):
                few = [rows[place] for place in further.tolist()]
                found = question.near(stack, few, len(few)).distances
                order = np.concatenate([order, further])
                distances = np.concatenate([distances, found])
                sorting = self._sorting(order, distances)
                order, distances = order[sorting], distances[sorting]
                folded = self._folded(order)
        self.order: NDArray[np.intp] = order
        self.distances: Floats = distances
        self.folded: list[list[int]] = folded
        self.complete = not partly and sum(map(len, folded)) == len(order)
        others = np.ones(len(rows), bool)
        others[order] = False
        self.rest: Floats = np.concatenate([near.distances[others[near.places]], near.beyond])

    def _name(self, place: int) -> str:
        return self._names[self._rows[place]]

    def _sorting(self, places: NDArray[np.intp], distances: Floats) -> NDArray[np.intp]:
        """What puts ``places`` in the order of their ``distances``, equal ones by their names."""
        names = [self._name(place) for place in places.tolist()]
        return ascending(distances, lambda it: _tie_key(names[it], self._standing))

    def _folded(self, order: NDArray[np.intp]) -> list[list[int]]:
        found: dict[str, list[int]] = {}
        for place, name in enumerate(map(self._name, order.tolist())):
            model = _model(name)
            if model in found:
                found[model].append(place)
            elif self._most is None or len(found) < self._most:
                found[model] = [place]
        return list(found.values())

    def _further(self, order: NDArray[np.intp], folded: list[list[int]]) -> NDArray[np.intp]:
        """Where versions of the models in ``folded`` are that are not in ``order``."""
        known = set(order.tolist())
        models = [_model(self._name(int(order[versions[0]]))) for versions in folded]
        found = {place for model in models for place in self._versions(model)}
        return np.array(sorted(found - known), np.intp)

    def _versions(self, model: str) -> Iterator[int]:
        # Names are in order, so that those of a model stand together.
        for row in range(bisect_left(self._names, f"{model}@"), len(self._names)):
            if _model(self._names[row]) != model:
                return
            place = bisect_left(self._rows, row)
            if place < len(self._rows) and self._rows[place] == row:
                yield place


def _nearest(distances: Floats, count: int) -> NDArray[np.intp]:
    """Where the ``count`` least of ``distances`` are, with all that equal the last; ascending."""
    if count >= len(distances):
        return np.arange(len(distances))
    limit = distances[least(distances, count)].max()
    # Where that is NaN, none is less or more; ordering them will say so.
    return np.flatnonzero(~(distances > limit))


def _model(name: str) -> str:
    return name.partition("@")[0]


def _tie_key(name: str, standing: Callable[[str], Standing]) -> str:
    """Of two descriptions that are equally near the one of today's weights says more."""
    identity = name if name.startswith("civitai:") else _model(name)
    return f"{int(bool(standing(identity).stale))} {name}"
