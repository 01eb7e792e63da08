"""The ranking of one group."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from gmi_registry.errors import IncomparableSpecsError
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.group import Group, Stack
from gmi_registry.index.result import GroupRanking, PromptMatch, SearchHit, SkippedSpec
from gmi_registry.scoring import Query, Score, ascending, margins
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.ranking import best_prompts as nearest_prompts
from gmi_registry.spec import ModelRef

__all__ = ["ranked"]


def ranked(
    group: Group,
    models: Set[ModelRef],
    query: Query,
    score: Score,
    *,
    top: int | None,
    best_prompts: int,
    stale: Mapping[ModelRef, bool],
) -> tuple[GroupRanking | None, list[SkippedSpec]]:
    """Rank those members of ``group`` that are in ``models``; ``stale`` knows them unrevised.

    Also returns the members that had to stay out; the ranking is None where none is left.
    Raises IncomparableSpecsError where the query's embeddings are of another length.
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
    _check_lengths(stack, query)
    distances = score(stack.candidates(rows), query)
    order = ascending(distances, [_tie_key(stack.entries[row].model, stale) for row in rows])
    ordered = distances[order]
    gaps = margins(ordered)
    weights = query.weights(stack.prompt_embeddings, stack.image_prompt)
    hits = []
    for place, position in enumerate(order[:top]):
        row = rows[position]
        hits.append(
            _hit(
                stack.entries[row],
                rank=place + 1,
                distance=float(ordered[place]),
                margin=None if np.isnan(gaps[place]) else float(gaps[place]),
                best_prompts=_matches(stack, row, query, weights, best_prompts),
                stale=stale.get(stack.entries[row].model.without_revision),
            )
        )
    first = stack.entries[0]
    ranking = GroupRanking(group.key, first.prompt_set, first.encoder, len(rows), tuple(hits))
    return ranking, skipped


def _tie_key(model: ModelRef, stale: Mapping[ModelRef, bool]) -> str:
    """Of two descriptions that are equally near the one of today's weights says more."""
    return f"{int(stale.get(model.without_revision, False))} {model}"


def _check_lengths(stack: Stack, query: Query) -> None:
    pairs = [("image", stack.image_embeddings, query.image_embeddings)]
    if query.prompt_embeddings is not None:
        pairs.append(("prompt", stack.prompt_embeddings, query.prompt_embeddings))
    for what, ours, theirs in pairs:
        if ours.shape[-1] != theirs.shape[-1]:
            raise IncomparableSpecsError(
                f"the query's {what} embeddings have {theirs.shape[-1]} values, those of the "
                f"specifications {ours.shape[-1]}, though both name encoder {query.encoder_id[:8]}",
                hint="encode the query again with the encoder that the specifications name",
            )


def _matches(
    stack: Stack, row: int, query: Query, weights: Floats, count: int
) -> tuple[PromptMatch, ...]:
    entry = stack.entries[row]
    best = nearest_prompts(
        stack.image_embeddings[row],
        weights,
        query.image_embeddings,
        stack.image_prompt,
        len(entry.prompts),
        entry.key.gamma,
        count=count,
    )
    return tuple(PromptMatch(index, entry.prompts[index], value) for index, value in best)


def _hit(
    entry: IndexEntry,
    *,
    rank: int,
    distance: float,
    margin: float | None,
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
    )
