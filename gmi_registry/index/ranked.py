"""The ranking of one group."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.leading import Leading
from gmi_registry.index.question import Question
from gmi_registry.index.result import FoldedVersion, GroupRanking, PromptMatch, SearchHit
from gmi_registry.index.selection import Selection
from gmi_registry.index.standing import Standing
from gmi_registry.scoring import margins
from gmi_registry.scoring.kernels import Floats

__all__ = ["ranked"]


def ranked(
    selection: Selection,
    question: Question,
    *,
    top: int | None,
    best_prompts: int,
    standing: Callable[[str], Standing],
) -> GroupRanking:
    """Rank the rows of ``selection``, of which there is one at least.

    ``standing`` knows models by the names of their identities. Raises IncomparableSpecsError where
    the question's embeddings are of another length.
    """
    stack, rows = selection.stack, selection.rows
    # One more than is shown: the last one's margin is to whoever follows.
    leading = Leading(stack, rows, question, None if top is None else top + 1, standing)
    order, folded, ordered = leading.order, leading.folded, leading.distances
    chances = question.confidences(stack, np.concatenate([ordered, leading.rest]))
    shown = folded[:top]
    gaps = margins(ordered[[places[0] for places in folded]])
    nearest = [rows[order[it[0]]] for it in shown]
    # Prompts are told along the way; nobody waits for the images of half a hub because of them.
    told = best_prompts and stack.at_hand(nearest)
    matches = question.best_prompts(stack, nearest, best_prompts) if told else [()] * len(nearest)
    hits = []
    for rank, (places, best) in enumerate(zip(shown, matches, strict=True), start=1):
        entry, *others = (stack.entries[rows[order[place]]] for place in places)
        hits.append(
            _hit(
                entry,
                rank=rank,
                distance=float(ordered[places[0]]),
                margin=float(gaps[rank - 1]) if rank < len(folded) else None,
                confidence=_chance(chances, places[0]),
                best_prompts=tuple(
                    PromptMatch(index, entry.prompts[index], value) for index, value in best
                ),
                standing=standing(str(entry.model.identity)),
                versions=tuple(
                    FoldedVersion(
                        other.model, other.title, float(ordered[place]), _chance(chances, place)
                    )
                    for place, other in zip(places[1:], others, strict=True)
                ),
            )
        )
    first = selection.first
    return GroupRanking(stack.key, first.prompt_set, first.encoder, len(rows), tuple(hits))


def _chance(chances: Floats | None, place: int) -> float | None:
    return None if chances is None else float(chances[place])


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
    )
