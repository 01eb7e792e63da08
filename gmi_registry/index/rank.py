"""The ranking of models by a query: the nearest of each group, in order, with all that is shown.

:func:`rank_groups` ranks each group by :func:`rank_group`. That puts the nearest models in order
(:class:`NearestModels`), finds those whose specifications repeat each other, and says of each model
that is shown its margin, its chance, its prompts, and what is folded into it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import IncomparableSpecsError
from gmi_registry.index.entry import (
    FoldedVersion,
    GroupRanking,
    IndexEntry,
    PromptMatch,
    Ranking,
    Repeat,
    SearchHit,
    SkippedSpec,
    SpecStatus,
    Universal,
)
from gmi_registry.index.groups import Index, ModelGroup, Selection, as_rows, identity_of
from gmi_registry.scoring import ascending, margins
from gmi_registry.scoring.repeats import repeat_groups
from gmi_registry.scoring.scores import least
from gmi_registry.spec import ModelRef

if TYPE_CHECKING:
    from gmi_registry.index.queries import IndexQuery
    from gmi_registry.model import Trust
    from gmi_registry.scoring.kernels import Floats

StatusOf = Callable[[str], SpecStatus]
"""What is known of the specification of the model whose identity has that name."""

# Fewer are put in order as a whole. More than a server ever hands over, whose names are in none.
_MANY = 5000
# Of each model several versions may be among the nearest, which are shown as one, and several
# models may repeat each other.
_ROOM = 2


def rank_groups(
    index: Index,
    selections: Sequence[Selection],
    query: IndexQuery,
    *,
    top: int | None = 10,
    best_prompts: int = 3,
    repeats: bool = False,
    universal: Callable[[ModelGroup], Mapping[str, Universal]] | None = None,
) -> Ranking:
    """Compare the query with every model that was selected in ``index``, nearest first.

    ``top`` is the most hits that each group shows, None for all; ``best_prompts`` the most prompts
    that each hit names. With ``repeats`` models whose specifications repeat each other take room
    from others. ``universal`` knows the members of a group that are near everything, by name.
    Specifications of another encoder are skipped with a reason, and so is a hit whose arrays cannot
    be what they are said to be; the next takes its place. No selection gives a result without hits.

    Raises IncomparableSpecsError where models were selected and none of them can be compared with
    the query.
    """
    rankings: list[tuple[GroupRanking, int]] = []
    refused: list[SkippedSpec] = []
    for selection in selections:
        group = selection.group
        if group.key.encoder_id != query.encoder_id:
            refused += _of_another_encoder(selection, query)
            continue
        while len(selection):
            ranking = rank_group(
                selection,
                query,
                top=top,
                best_prompts=best_prompts,
                status=index.status,
                repeats=repeats,
            )
            unfit = _unfit(group, query, ranking)
            if not unfit:
                known = {} if universal is None else universal(group)
                if known:
                    hits = (replace(hit, universal=known.get(str(hit.ref))) for hit in ranking.hits)
                    ranking = replace(ranking, hits=tuple(hits))
                rankings.append((ranking, len(group.names)))
                break
            refused += unfit.values()
            rows = as_rows(selection.rows)
            selection = Selection(group, rows[~np.isin(rows, list(unfit))].tolist())
    matched = sum(map(len, selections))
    if refused and not rankings:
        raise IncomparableSpecsError(
            f"none of the {matched} models that match can be compared with the query; "
            f"the first is {refused[0].model}: {refused[0].reason}",
            hint="search with the encoder that the specifications name, or publish them "
            "again with yours",
        )
    rankings.sort(key=lambda it: (-it[0].members, -it[1], it[0].key))
    groups = tuple(ranking for ranking, _ in rankings)
    return Ranking(groups, (*index.skipped, *refused), len(index), matched)


def _of_another_encoder(selection: Selection, query: IndexQuery) -> list[SkippedSpec]:
    entry = selection.first
    reason = (
        f"made with the encoder {entry.encoder} ({entry.key.encoder_id[:8]}), "
        f"the query with {query.encoder_id[:8]}"
    )
    # Names, not entries: those of half a hub would have to be read one by one.
    names = (selection.group.names[row] for row in selection.rows)
    return [SkippedSpec(ModelRef.parse(name), reason) for name in names]


def _unfit(group: ModelGroup, query: IndexQuery, ranking: GroupRanking) -> dict[int, SkippedSpec]:
    """Of the hits, by their rows, those whose arrays cannot be what they are said to be."""
    rows = [bisect_left(group.names, str(hit.ref)) for hit in ranking.hits]
    # Nobody waits for the images of half a hub because of them.
    if not group.at_hand(rows):
        return {}
    reasons = zip(rows, ranking.hits, query.faults(group, rows), strict=True)
    return {row: SkippedSpec(hit.ref, reason) for row, hit, reason in reasons if reason}


def rank_group(
    selection: Selection,
    query: IndexQuery,
    *,
    top: int | None,
    best_prompts: int,
    status: StatusOf,
    repeats: bool = False,
) -> GroupRanking:
    """Rank the rows of ``selection``, of which there is one at least.

    Of models whose specifications repeat each other one is shown, the others where there is room
    left; with ``repeats`` all compete for room alike. Raises IncomparableSpecsError where the
    query's embeddings are of another length.
    """
    group = selection.group
    nearest, alike = _nearest_models(selection, query, top, status, repeats)
    shown, following = _shown(alike, top)
    alike_with = {model: models for models in alike for model in models}
    chances = _Chances(group, query, nearest, alike)
    firsts = [nearest.versions[model][0] for model in shown]
    ends = firsts if following is None else [*firsts, nearest.versions[following][0]]
    gaps = margins(nearest.distances[ends])
    rows = [nearest.row(place) for place in firsts]
    # Prompts are told along the way; nobody waits for the images of half a hub because of them.
    if best_prompts and group.at_hand(rows):
        matches = query.best_prompts(group, rows, best_prompts)
    else:
        matches = [()] * len(rows)

    def folded(place: int) -> FoldedVersion:
        entry = nearest.entry(place)
        return FoldedVersion(
            entry.ref, entry.title, float(nearest.distances[place]), chances.of(place, place)
        )

    def repeat(model: int) -> Repeat:
        place = nearest.versions[model][0]
        entry = nearest.entry(place)
        known = status(str(entry.ref.identity))
        distance = float(nearest.distances[place])
        return Repeat(entry.ref, entry.title, distance, known.stale, known.trust)

    hits = []
    for rank, (model, best) in enumerate(zip(shown, matches, strict=True), start=1):
        first, *others = nearest.versions[model]
        entry = nearest.entry(first)
        known = status(str(entry.ref.identity))
        hit = SearchHit(
            **entry.metadata,
            rank=rank,
            distance=float(nearest.distances[first]),
            margin=float(gaps[rank - 1]) if rank < len(ends) else None,
            confidence=chances.of(first, nearest.versions[alike_with[model][0]][0]),
            best_prompts=tuple(PromptMatch(it, entry.prompts[it], value) for it, value in best),
            group=entry.key,
            stale=known.stale,
            trust=known.trust,
            versions=tuple(folded(place) for place in others),
            repeats=tuple(repeat(other) for other in alike_with[model] if other != model),
        )
        hits.append(hit)
    first_entry = selection.first
    return GroupRanking(
        group.key, first_entry.prompt_set, first_entry.encoder, len(selection), tuple(hits)
    )


def _nearest_models(
    selection: Selection, query: IndexQuery, top: int | None, status: StatusOf, apart: bool
) -> tuple[NearestModels, list[list[int]]]:
    """The nearest models, and which of them repeat each other: numbers of models, the best trusted
    first, in the order of those. There are more than ``top`` such groups, or all.

    Only the nearest are compared: those that are shown, and as many below them.
    """
    # One more than is shown: the last one's margin is to whoever follows.
    fewest = None if top is None else top + 1
    while True:
        nearest = NearestModels(selection, query, fewest, status)
        if apart:
            return nearest, [[model] for model in range(len(nearest.versions))]
        alike = _alike(selection.group, nearest, status)
        if fewest is None or top is None or len(alike) > top or nearest.complete:
            return nearest, alike
        fewest *= 2


def _alike(group: ModelGroup, nearest: NearestModels, status: StatusOf) -> list[list[int]]:
    """Which models repeat each other."""
    rows = [nearest.row(places[0]) for places in nearest.versions]
    if len(rows) < 2:
        return [[model] for model in range(len(rows))]

    def worth(model: int) -> tuple[int, bool, int]:
        known = status(str(group.entries[rows[model]].ref.identity))
        return _TRUST_ORDER[known.trust], bool(known.stale), model

    # Each is where the one that is shown is, whose distance is shown too.
    return sorted(
        sorted(models, key=worth) if len(models) > 1 else models
        for models in repeat_groups(*group.whitened(rows))
    )


def _shown(alike: list[list[int]], top: int | None) -> tuple[list[int], int | None]:
    """The models that are shown, in order, and the one that follows, if any: the first of those
    that are ``alike``, and others only where there is room left."""
    firsts = [models[0] for models in alike]
    if top is not None and len(alike) > top:
        return firsts[:top], firsts[top]
    others = sorted(model for models in alike for model in models[1:])
    room = len(others) if top is None else top - len(alike)
    shown = sorted(firsts + others[:room])
    later = [model for model in others[room:] if model > shown[-1]]
    return shown, later[0] if later else None


# What sorts specifications by how much stands behind them, the best first. Those whose images were
# generated again come first: that is evidence, while everybody is the owner of some repository.
# None, of a folder of the user's own, counts as an owner's.
_TRUST_ORDER: dict[Trust | None, int] = {"verified": 0, "owner": 1, None: 1, "self-published": 2}


class NearestModels:
    """The nearest of a selection [R] by ``query``, without an order of all where there are many.

    ``order`` [n] are places in the selection's rows, nearest first, ``distances`` [n] theirs, and
    ``versions`` the places in ``order`` of each model's versions, the nearest first: of ``fewest``
    models and up to twice as many where they are known as well, of all for None. ``complete`` says
    that there are no others. Every version of these models is in ``order``. ``rest`` stands for all
    others where chances are given out: distances, estimates, or those of groups, in which versions
    that were added to the nearest may count again. Where there are very many rows, the group's
    names have to be in order.
    """

    def __init__(
        self, selection: Selection, query: IndexQuery, fewest: int | None, status: StatusOf
    ) -> None:
        self._group, self._rows = selection.group, selection.rows
        self._names = self._group.names
        self._most = None if fewest is None else _ROOM * fewest
        self._status = status
        rows = self._rows
        count = len(rows) if fewest is None or len(rows) < _MANY else _ROOM * fewest
        while True:
            shortlist = query.shortlist(self._group, rows, min(count, len(rows)))
            chosen = _places_of_least(shortlist.distances, count)
            self._sort(shortlist.places[chosen], shortlist.distances[chosen])
            partly = count < len(rows)
            if not partly or (fewest is not None and len(self.versions) >= fewest):
                break
            count *= _ROOM * _ROOM
        further = self._further_versions() if partly else []
        if further:
            few = [rows[place] for place in further]
            found = query.shortlist(self._group, few, len(few)).distances
            self._sort(
                np.concatenate([self.order, further]), np.concatenate([self.distances, found])
            )
        self.complete = not partly and sum(map(len, self.versions)) == len(self.order)
        others = np.ones(len(rows), bool)
        others[self.order] = False
        self.rest: Floats = np.concatenate(
            [shortlist.distances[others[shortlist.places]], shortlist.beyond]
        )

    def row(self, place: int) -> int:
        """The row of the group at a place in ``order``."""
        return self._rows[int(self.order[place])]

    def entry(self, place: int) -> IndexEntry:
        """What the index knows of the model at a place in ``order``."""
        return self._group.entries[self.row(place)]

    def _sort(self, places: NDArray[np.intp], distances: Floats) -> None:
        """Put ``places`` in the order of their ``distances``, equal ones by their names."""
        names = [self._names[self._rows[place]] for place in places.tolist()]
        order = ascending(distances, lambda it: _tie_key(names[it], self._status))
        self.order: NDArray[np.intp] = places[order]
        self.distances: Floats = distances[order]
        versions: dict[str, list[int]] = {}
        for place, number in enumerate(order.tolist()):
            model = _model(names[number])
            if model in versions:
                versions[model].append(place)
            elif self._most is None or len(versions) < self._most:
                versions[model] = [place]
        self.versions: list[list[int]] = list(versions.values())

    def _further_versions(self) -> list[int]:
        """Places of versions of these models that are not in ``order``."""
        models = [_model(self._names[self.row(places[0])]) for places in self.versions]
        found = {place for model in models for place in self._places_of(model)}
        return sorted(found - set(self.order.tolist()))

    def _places_of(self, model: str) -> Iterator[int]:
        # Names are in order, so that those of a model stand together.
        for row in range(bisect_left(self._names, f"{model}@"), len(self._names)):
            if _model(self._names[row]) != model:
                return
            place = bisect_left(self._rows, row)
            if place < len(self._rows) and self._rows[place] == row:
                yield place


class _Chances:
    """The chances of models, of which those that repeat each other have the chance of one: copies
    would take it from the others, and share it among themselves."""

    def __init__(
        self,
        group: ModelGroup,
        query: IndexQuery,
        nearest: NearestModels,
        alike: list[list[int]],
    ) -> None:
        self._group, self._query, self._nearest = group, query, nearest
        self._counted = np.ones(len(nearest.distances), bool)
        repeats = [model for models in alike for model in models[1:]]
        self._counted[[nearest.versions[model][0] for model in repeats]] = False
        self._known = self._shared(self._counted)

    def of(self, place: int, instead: int) -> float | None:
        """Of the model at ``place``, who competes in the place of the one at ``instead``."""
        known = self._known
        if place != instead:
            counted = self._counted.copy()
            counted[instead], counted[place] = False, True
            known = self._shared(counted)
        return None if known is None else float(known[place])

    def _shared(self, counted: NDArray[np.bool_]) -> Floats | None:
        competing = np.concatenate([self._nearest.distances[counted], self._nearest.rest])
        found = self._query.confidences(self._group, competing)
        if found is None:
            return None
        chances = np.zeros(len(counted), found.dtype)
        chances[counted] = found[: np.count_nonzero(counted)]
        return chances


def _places_of_least(distances: Floats, count: int) -> NDArray[np.intp]:
    """Where the ``count`` least of ``distances`` are, with all that equal the last; ascending."""
    if count >= len(distances):
        return np.arange(len(distances))
    limit = distances[least(distances, count)].max()
    # Where that is NaN, none is less or more; ordering them will say so.
    return np.flatnonzero(~(distances > limit))


def _model(name: str) -> str:
    return name.partition("@")[0]


def _tie_key(name: str, status: StatusOf) -> str:
    """Of two descriptions that are equally near the one of today's weights says more."""
    return f"{int(bool(status(identity_of(name)).stale))} {name}"
