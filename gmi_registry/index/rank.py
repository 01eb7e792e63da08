"""The ranking of models by a query: the nearest of each group, in order, with all that is shown."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import IncomparableSpecsError
from gmi_registry.index.groups import Index, ModelGroup, Selection, as_rows
from gmi_registry.index.result import (
    FoldedVersion,
    GroupRanking,
    PromptMatch,
    Ranking,
    Repeat,
    SearchHit,
    SkippedSpec,
    Universal,
)
from gmi_registry.scoring import ascending, margins
from gmi_registry.scoring.ranking import least
from gmi_registry.scoring.repeats import repeat_groups as repeated
from gmi_registry.spec import ModelRef

if TYPE_CHECKING:
    from gmi_registry.index.entry import IndexEntry, SpecStatus
    from gmi_registry.index.queries import IndexQuery
    from gmi_registry.model import Trust
    from gmi_registry.scoring.kernels import Floats

# Fewer are put in order as a whole. More than a server ever hands over, whose names are in none.
_MANY = 5000
# Of each model several versions may be among the nearest, which are shown as one, and several
# models may repeat each other.
_ROOM = 2

# What sorts specifications by how much stands behind them, the best first. Those whose images were
# generated again come first: that is evidence, while everybody is the owner of some repository.
# None, of a folder of the user's own, counts as an owner's.
_TRUST_ORDER: dict[Trust | None, int] = {"verified": 0, "owner": 1, None: 1, "self-published": 2}


class NearestModels:
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
        stack: ModelGroup,
        rows: Sequence[int],
        question: IndexQuery,
        least: int | None,
        standing: Callable[[str], SpecStatus],
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


def _tie_key(name: str, standing: Callable[[str], SpecStatus]) -> str:
    """Of two descriptions that are equally near the one of today's weights says more."""
    identity = name if name.startswith("civitai:") else _model(name)
    return f"{int(bool(standing(identity).stale))} {name}"


def rank_group(
    selection: Selection,
    question: IndexQuery,
    *,
    top: int | None,
    best_prompts: int,
    standing: Callable[[str], SpecStatus],
    repeats: bool = False,
) -> GroupRanking:
    """Rank the rows of ``selection``, of which there is one at least.

    Of models whose specifications repeat each other one is shown, the others where there is room
    left; with ``repeats`` all compete for room alike. ``standing`` knows models by the names of
    their identities. Raises IncomparableSpecsError where the question's embeddings are of another
    length.
    """
    stack, rows = selection.stack, selection.rows
    leading, groups = _nearest_groups(stack, rows, question, top, standing, repeats)
    order, folded, ordered = leading.order, leading.folded, leading.distances
    shown, following = _shown(groups, top)
    group_of = {number: group for group in groups for number in group}
    chance = _Chances(stack, question, leading, groups)
    firsts = [folded[number][0] for number in shown]
    ends = firsts if following is None else [*firsts, folded[following][0]]
    gaps = margins(ordered[ends])
    nearest = [rows[order[place]] for place in firsts]
    # Prompts are told along the way; nobody waits for the images of half a hub because of them.
    told = best_prompts and stack.at_hand(nearest)
    matches = question.best_prompts(stack, nearest, best_prompts) if told else [()] * len(nearest)

    def entry_at(place: int) -> IndexEntry:
        entry: IndexEntry = stack.entries[rows[int(order[place])]]
        return entry

    hits = []
    for rank, (number, best) in enumerate(zip(shown, matches, strict=True), start=1):
        first, *versions = folded[number]
        entry = entry_at(first)
        hits.append(
            _hit(
                entry,
                rank=rank,
                distance=float(ordered[first]),
                margin=float(gaps[rank - 1]) if rank < len(ends) else None,
                confidence=chance.of(first, folded[group_of[number][0]][0]),
                best_prompts=tuple(
                    PromptMatch(index, entry.prompts[index], value) for index, value in best
                ),
                standing=standing(str(entry.model.identity)),
                versions=tuple(
                    FoldedVersion(
                        other.model, other.title, float(ordered[place]), chance.of(place, place)
                    )
                    for place in versions
                    for other in (entry_at(place),)
                ),
                repeats=tuple(
                    _repeat(entry_at(place), float(ordered[place]), standing)
                    for place in (folded[it][0] for it in group_of[number] if it != number)
                ),
            )
        )
    first_entry = selection.first
    return GroupRanking(
        stack.key, first_entry.prompt_set, first_entry.encoder, len(rows), tuple(hits)
    )


def _shown(groups: list[list[int]], top: int | None) -> tuple[list[int], int | None]:
    """The models that are shown, in order, and the one that follows, if any: the first of each
    group, and others only where there is room for more than there are groups."""
    firsts = [group[0] for group in groups]
    if top is not None and len(groups) > top:
        return firsts[:top], firsts[top]
    others = sorted(number for group in groups for number in group[1:])
    room = None if top is None else top - len(groups)
    shown = sorted(firsts + others[:room])
    later = [] if room is None else [it for it in others[room:] if it > shown[-1]]
    return shown, later[0] if later else None


class _Chances:
    """The chances of models, of which those that repeat each other have the chance of one: copies
    would take it from the others, and share it among themselves."""

    def __init__(
        self,
        stack: ModelGroup,
        question: IndexQuery,
        leading: NearestModels,
        groups: list[list[int]],
    ) -> None:
        self._stack, self._question, self._leading = stack, question, leading
        self._counted = np.ones(len(leading.distances), bool)
        self._counted[[leading.folded[it][0] for group in groups for it in group[1:]]] = False
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
        leading = self._leading
        competing = np.concatenate([leading.distances[counted], leading.rest])
        found = self._question.confidences(self._stack, competing)
        if found is None:
            return None
        chances = np.zeros(len(counted), found.dtype)
        chances[counted] = found[: np.count_nonzero(counted)]
        return chances


def _nearest_groups(
    stack: ModelGroup,
    rows: Sequence[int],
    question: IndexQuery,
    top: int | None,
    standing: Callable[[str], SpecStatus],
    apart: bool,
) -> tuple[NearestModels, list[list[int]]]:
    """The nearest models, and which of them repeat each other: places in ``folded``, the best
    trusted first, in the order of those. They are more than ``top``, or all.

    Only the nearest are compared: those that are shown, and as many below them.
    """
    # One more than is shown: the last one's margin is to whoever follows.
    least = None if top is None else top + 1
    while True:
        leading = NearestModels(stack, rows, question, least, standing)
        if apart:
            return leading, [[number] for number in range(len(leading.folded))]
        groups = _repeat_groups(stack, rows, leading, standing)
        if least is None or top is None or len(groups) > top or leading.complete:
            return leading, groups
        least *= 2


def _repeat_groups(
    stack: ModelGroup,
    rows: Sequence[int],
    leading: NearestModels,
    standing: Callable[[str], SpecStatus],
) -> list[list[int]]:
    firsts = [rows[leading.order[places[0]]] for places in leading.folded]
    if len(firsts) < 2:
        return [[number] for number in range(len(firsts))]

    def worth(number: int) -> tuple[int, bool, int]:
        known = standing(str(stack.entries[firsts[number]].model.identity))
        return _TRUST_ORDER[known.trust], bool(known.stale), number

    groups = [
        sorted(group, key=worth) if len(group) > 1 else group
        for group in repeated(*stack.whitened(firsts))
    ]
    # Each is where the one that is shown is, whose distance is shown too.
    return sorted(groups)


def _repeat(entry: IndexEntry, distance: float, standing: Callable[[str], SpecStatus]) -> Repeat:
    known = standing(str(entry.model.identity))
    return Repeat(entry.model, entry.title, distance, known.stale, known.trust)


def _hit(
    entry: IndexEntry,
    *,
    rank: int,
    distance: float,
    margin: float | None,
    confidence: float | None,
    best_prompts: tuple[PromptMatch, ...],
    standing: SpecStatus,
    versions: tuple[FoldedVersion, ...],
    repeats: tuple[Repeat, ...],
) -> SearchHit:
    return SearchHit(
        rank=rank,
        ref=entry.model,
        distance=distance,
        margin=margin,
        title=entry.title,
        tags=entry.tags,
        base_model=entry.base_model,
        kind=entry.kind,
        url=entry.url,
        licence=entry.licence,
        nsfw=entry.nsfw,
        downloads=entry.downloads,
        best_prompts=best_prompts,
        digest=entry.digest,
        group=entry.key,
        stale=standing.stale,
        confidence=confidence,
        trust=standing.trust,
        versions=versions,
        described_as=entry.described_as,
        lora_partial=entry.lora_partial,
        repeats=repeats,
    )


def rank_groups(
    index: Index,
    selections: Sequence[Selection],
    question: IndexQuery,
    *,
    top: int | None = 10,
    best_prompts: int = 3,
    repeats: bool = False,
    universal: Callable[[ModelGroup], Mapping[str, Universal]] | None = None,
) -> Ranking:
    """Compare the question with every model that was selected in ``index``, nearest first.

    ``top`` is the most hits that each group shows, None for all; ``best_prompts`` the most prompts
    that each hit names. With ``repeats`` models whose specifications repeat each other take room
    from others. ``universal`` knows the members of a group that are near everything, by name.
    Specifications of another encoder are skipped with a reason, and so is a hit whose arrays cannot
    be what they are said to be; the next takes its place. No selection gives a result without hits.

    Raises IncomparableSpecsError where models were selected and none of them can be compared with
    the question.
    """
    groups, refused = [], []
    for selection in selections:
        stack = selection.stack
        if stack.key.encoder_id != question.encoder_id:
            reason = _other_encoder(selection.first, question)
            # Names, not entries: those of half a hub would have to be read one by one.
            refs = [ModelRef.parse(stack.names[row]) for row in selection.rows]
            refused += [SkippedSpec(ref, reason) for ref in refs]
            continue
        while len(selection.rows):
            ranking = rank_group(
                selection,
                question,
                top=top,
                best_prompts=best_prompts,
                standing=index.standing,
                repeats=repeats,
            )
            unfit = _unfit(selection, question, ranking)
            if not unfit:
                if universal is not None:
                    known = universal(stack)
                    hits = (replace(hit, universal=known.get(str(hit.ref))) for hit in ranking.hits)
                    ranking = replace(ranking, hits=tuple(hits)) if known else ranking
                groups.append((-len(selection.rows), -len(stack.names), stack.key, ranking))
                break
            refused += unfit.values()
            rows = as_rows(selection.rows)
            left = rows[~np.isin(rows, list(unfit))]
            selection = replace(selection, rows=left.tolist())
    matched = sum(map(len, selections))
    if refused and not groups:
        raise IncomparableSpecsError(
            f"none of the {matched} models that match can be compared with the query; "
            f"the first is {refused[0].model}: {refused[0].reason}",
            hint="search with the encoder that the specifications name, or publish them "
            "again with yours",
        )
    groups.sort(key=lambda group: group[:3])
    skipped = (*index.skipped, *refused)
    return Ranking(tuple(group[3] for group in groups), skipped, len(index), matched)


def _unfit(
    selection: Selection, question: IndexQuery, ranking: GroupRanking
) -> dict[int, SkippedSpec]:
    """Of the hits, by their rows, those whose arrays cannot be what they are said to be."""
    stack = selection.stack
    rows = [bisect_left(stack.names, str(hit.ref)) for hit in ranking.hits]
    # Nobody waits for the images of half a hub because of them.
    if not stack.at_hand(rows):
        return {}
    reasons = zip(rows, ranking.hits, question.faults(stack, rows), strict=True)
    return {row: SkippedSpec(hit.ref, reason) for row, hit, reason in reasons if reason}


def _other_encoder(entry: IndexEntry, question: IndexQuery) -> str:
    return (
        f"made with the encoder {entry.encoder} ({entry.key.encoder_id[:8]}), "
        f"the query with {question.encoder_id[:8]}"
    )
