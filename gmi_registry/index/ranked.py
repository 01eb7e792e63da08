"""The ranking of one group."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.group import Group
from gmi_registry.index.question import Question
from gmi_registry.index.result import GroupRanking, PromptMatch, SearchHit, SkippedSpec
from gmi_registry.scoring import ascending, margins
from gmi_registry.spec import ModelRef

__all__ = ["ranked"]


def ranked(
    group: Group,
    models: Set[ModelRef],
    question: Question,
    *,
    top: int | None,
    best_prompts: int,
    stale: Mapping[ModelRef, bool],
) -> tuple[GroupRanking | None, list[SkippedSpec]]:
    """Rank those members of ``group`` that are in ``models``; ``stale`` knows them unrevised.

    Also returns the members that had to stay out; the ranking is None where none is left.
    Raises IncomparableSpecsError where the question's embeddings are of another length.
    """
    stack = group.stack
    skipped = [
        SkippedSpec(entry.model, "its prompt embeddings are not those of its group")
        for entry in stack.outliers
        if entry.model in models
    ]
    rows = [row for row, entry in enumerate(stack.entries) if entry.model in models]
    if not rows:
        return None, skipped
    distances = question.distances(stack, rows)
    order = ascending(distances, [_tie_key(stack.entries[row].model, stale) for row in rows])
    ordered = distances[order]
    gaps = margins(ordered)
    chances = question.confidences(stack, ordered)
    shown = [rows[position] for position in order[:top]]
    matches = question.best_prompts(stack, shown, best_prompts)
    hits = [
        _hit(
            stack.entries[row],
            rank=place + 1,
            distance=float(ordered[place]),
            margin=None if np.isnan(gaps[place]) else float(gaps[place]),
            confidence=None if chances is None else float(chances[place]),
            best_prompts=tuple(
                PromptMatch(index, stack.entries[row].prompts[index], value)
                for index, value in best
            ),
            stale=stale.get(stack.entries[row].model.without_revision),
        )
        for place, (row, best) in enumerate(zip(shown, matches, strict=True))
    ]
    first = stack.entries[0]
    ranking = GroupRanking(group.key, first.prompt_set, first.encoder, len(rows), tuple(hits))
    return ranking, skipped


def _tie_key(model: ModelRef, stale: Mapping[ModelRef, bool]) -> str:
    """Of two descriptions that are equally near the one of today's weights says more."""
    return f"{int(stale.get(model.without_revision, False))} {model}"


def _hit(
    entry: IndexEntry,
    *,
    rank: int,
    distance: float,
    margin: float | None,
    confidence: float | None,
    best_prompts: tuple[PromptMatch, ...],
    stale: bool | None,
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
        stale=stale,
        confidence=confidence,
    )
