"""The ranking of one group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

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
from gmi_registry.scoring import margins
from gmi_registry.scoring.repeats import repeats as repeated
from gmi_registry.trust import trust_order

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

    Models whose specifications repeat each other make one hit, unless ``repeats`` gives each a
    place of its own. ``standing`` knows models by the names of their identities. Raises
    IncomparableSpecsError where the question's embeddings are of another length.
    """
    stack, rows = selection.stack, selection.rows
    leading, groups = _leading(stack, rows, question, top, standing, repeats)
    order, folded, ordered = leading.order, leading.folded, leading.distances
    hidden = [folded[number][0] for group in groups for number in group[1:]]
    # What repeats a hit has no chance of its own: copies would take it from the others.
    counted = np.ones(len(ordered), bool)
    counted[hidden] = False
    chances = np.zeros(len(ordered))
    found = question.confidences(stack, np.concatenate([ordered[counted], leading.rest]))
    if found is not None:
        chances[counted] = found[: np.count_nonzero(counted)]
    shown = groups[:top]
    firsts = [folded[group[0]][0] for group in groups]
    gaps = margins(ordered[firsts])
    nearest = [rows[order[place]] for place in firsts[: len(shown)]]
    # Prompts are told along the way; nobody waits for the images of half a hub because of them.
    told = best_prompts and stack.at_hand(nearest)
    matches = question.best_prompts(stack, nearest, best_prompts) if told else [()] * len(nearest)

    def entry_at(place: int) -> IndexEntry:
        entry: IndexEntry = stack.entries[rows[int(order[place])]]
        return entry

    def chance(place: int) -> float | None:
        return None if found is None else float(chances[place])

    hits = []
    for rank, (group, best) in enumerate(zip(shown, matches, strict=True), start=1):
        first, *versions = folded[group[0]]
        entry = entry_at(first)
        hits.append(
            _hit(
                entry,
                rank=rank,
                distance=float(ordered[first]),
                margin=float(gaps[rank - 1]) if rank < len(groups) else None,
                confidence=chance(first),
                best_prompts=tuple(
                    PromptMatch(index, entry.prompts[index], value) for index, value in best
                ),
                standing=standing(str(entry.model.identity)),
                versions=tuple(
                    FoldedVersion(other.model, other.title, float(ordered[place]), chance(place))
                    for place in versions
                    for other in (entry_at(place),)
                ),
                repeats=tuple(
                    _repeat(entry_at(place), float(ordered[place]), standing)
                    for place in (folded[number][0] for number in group[1:])
                ),
            )
        )
    first_entry = selection.first
    return GroupRanking(
        stack.key, first_entry.prompt_set, first_entry.encoder, len(rows), tuple(hits)
    )


def _leading(
    stack: Stack,
    rows: Sequence[int],
    question: Question,
    top: int | None,
    standing: Callable[[str], Standing],
    apart: bool,
) -> tuple[Leading, list[list[int]]]:
    """The nearest models, and which of them make one hit: places in ``folded``, the one that is
    shown first, in the order of those. They are more than ``top``, or all.

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
        repeats=repeats,
    )
