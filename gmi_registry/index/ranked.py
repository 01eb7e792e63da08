"""The ranking of one group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.leading import Leading
from gmi_registry.index.question import Question
from gmi_registry.index.result import (
    FoldedVersion,
    GroupRanking,
    PromptMatch,
    Repeat,
    SearchHit,
)
from gmi_registry.index.selection import Selection
from gmi_registry.index.stack import Stack
from gmi_registry.index.standing import Standing
from gmi_registry.model import trust_order
from gmi_registry.scoring import margins
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.repeats import repeat_groups as repeated

__all__ = ["ranked"]


def ranked(
    selection: Selection,
    question: Question,
    *,
    top: int | None,
    best_prompts: int,
    standing: Callable[[str], Standing],
    repeats: bool = False,
) -> GroupRanking:
    """Rank the rows of ``selection``, of which there is one at least.

    Of models whose specifications repeat each other one is shown, the others where there is room
    left; with ``repeats`` all compete for room alike. ``standing`` knows models by the names of
    their identities. Raises IncomparableSpecsError where the question's embeddings are of another
    length.
    """
    stack, rows = selection.stack, selection.rows
    leading, groups = _leading(stack, rows, question, top, standing, repeats)
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
        self, stack: Stack, question: Question, leading: Leading, groups: list[list[int]]
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


def _leading(
    stack: Stack,
    rows: Sequence[int],
    question: Question,
    top: int | None,
    standing: Callable[[str], Standing],
    apart: bool,
) -> tuple[Leading, list[list[int]]]:
    """The nearest models, and which of them repeat each other: places in ``folded``, the best
    trusted first, in the order of those. They are more than ``top``, or all.

    Only the nearest are compared: those that are shown, and as many below them.
    """
    # One more than is shown: the last one's margin is to whoever follows.
    least = None if top is None else top + 1
    while True:
        leading = Leading(stack, rows, question, least, standing)
        if apart:
            return leading, [[number] for number in range(len(leading.folded))]
        groups = _grouped(stack, rows, leading, standing)
        if least is None or top is None or len(groups) > top or leading.complete:
            return leading, groups
        least *= 2


def _grouped(
    stack: Stack, rows: Sequence[int], leading: Leading, standing: Callable[[str], Standing]
) -> list[list[int]]:
    firsts = [rows[leading.order[places[0]]] for places in leading.folded]
    if len(firsts) < 2:
        return [[number] for number in range(len(firsts))]

    def worth(number: int) -> tuple[int, bool, int]:
        known = standing(str(stack.entries[firsts[number]].model.identity))
        return trust_order(known.trust), bool(known.stale), number

    groups = [
        sorted(group, key=worth) if len(group) > 1 else group
        for group in repeated(*stack.whitened(firsts))
    ]
    # Each is where the one that is shown is, whose distance is shown too.
    return sorted(groups)


def _repeat(entry: IndexEntry, distance: float, standing: Callable[[str], Standing]) -> Repeat:
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
    standing: Standing,
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
