"""The ranking of one group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.group import Group
from gmi_registry.index.question import Question
from gmi_registry.index.result import (
    FoldedVersion,
    GroupRanking,
    PromptMatch,
    SearchHit,
    SkippedSpec,
)
from gmi_registry.index.standing import UNKNOWN, Standing
from gmi_registry.scoring import ascending, margins
from gmi_registry.scoring.kernels import Floats
from gmi_registry.spec import ModelRef

__all__ = ["ranked"]


def ranked(
    group: Group,
    models: Set[ModelRef],
    question: Question,
    *,
    top: int | None,
    best_prompts: int,
    standing: Mapping[ModelRef, Standing],
) -> tuple[GroupRanking | None, list[SkippedSpec]]:
    """Rank those members of ``group`` that are in ``models``; ``standing`` knows identities.

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
    order = ascending(distances, [_tie_key(stack.entries[row].model, standing) for row in rows])
    entries = [stack.entries[rows[place]] for place in order]
    ordered = distances[order]
    chances = question.confidences(stack, ordered)
    # One more than is shown: the last one's margin is to whoever follows.
    folded = _folded(entries, None if top is None else top + 1)
    shown = folded[:top]
    gaps = margins(ordered[[places[0] for places in folded]])
    matches = question.best_prompts(stack, [rows[order[it[0]]] for it in shown], best_prompts)
    hits = []
    for rank, (places, best) in enumerate(zip(shown, matches, strict=True), start=1):
        entry = entries[places[0]]
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
                standing=standing.get(entry.model.identity, UNKNOWN),
                versions=tuple(
                    FoldedVersion(
                        entries[place].model,
                        entries[place].title,
                        float(ordered[place]),
                        _chance(chances, place),
                    )
                    for place in places[1:]
                ),
            )
        )
    first = stack.entries[0]
    ranking = GroupRanking(group.key, first.prompt_set, first.encoder, len(rows), tuple(hits))
    return ranking, skipped


def _folded(entries: Sequence[IndexEntry], most: int | None) -> list[list[int]]:
    """The places of each model's versions, by the first of them; at most ``most`` models."""
    found: dict[ModelRef, list[int]] = {}
    for place, entry in enumerate(entries):
        model = entry.model.without_revision
        if model in found:
            found[model].append(place)
        elif most is None or len(found) < most:
            found[model] = [place]
    return list(found.values())


def _chance(chances: Floats | None, place: int) -> float | None:
    return None if chances is None else float(chances[place])


def _tie_key(model: ModelRef, standing: Mapping[ModelRef, Standing]) -> str:
    """Of two descriptions that are equally near the one of today's weights says more."""
    known = standing.get(model.identity, UNKNOWN)
    return f"{int(bool(known.stale))} {model}"


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
    )
