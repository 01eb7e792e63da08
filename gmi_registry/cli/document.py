"""What ``gmi search --json`` prints. ``python -m gmi_registry.cli.document`` prints the schema.

Fields are added in later versions, never renamed or removed.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from gmi_registry.index.result import GroupRanking, SearchHit, SearchResult

__all__ = ["QueryPart", "SearchDocument", "search_document"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryPart(_Part):
    """What was asked.

    ``pseudo_prompts`` stand in the order of ``images``, null where an image has none;
    ``interrogator`` is how they were found. ``tags`` to ``kind`` are the filters.
    """

    images: list[str]
    pseudo_prompts: list[str | None]
    interrogator: str
    hub: str
    tags: list[str]
    not_tags: list[str]
    base_model: str | None
    kind: str | None


class PromptPart(_Part):
    """A prompt whose images are near the query, and what it adds to the cross term of Eq. 9."""

    prompt: str
    contribution: float


class ResultPart(_Part):
    """One model. ``margin`` is the next model's distance minus this one's, null for the last.

    ``digest`` is the SHA-256 of its ``spec.json``.
    """

    rank: int
    model: str
    title: str
    distance: float
    margin: float | None
    kind: str
    tags: list[str]
    base_model: str | None
    licence: str | None
    nsfw: bool
    downloads: int | None
    url: str | None
    best_prompts: list[PromptPart]
    digest: str


class GroupPart(_Part):
    """Another ranking, whose distances cannot be compared with any other's.

    ``members`` counts the models that were compared, of which ``results`` are the nearest.
    """

    prompt_set: str
    encoder: str
    members: int
    results: list[ResultPart]


class SkippedPart(_Part):
    """A model that took no part, and why."""

    model: str
    reason: str


class SearchDocument(_Part):
    """What ``gmi search --json`` prints.

    ``results`` is the ranking of the largest group of comparable models, whose default prompts are
    ``prompt_set``; ``other_groups`` are the rest, the largest first. ``looked_at`` counts the
    models with a specification, ``matched`` those of them that passed the filters.
    """

    query: QueryPart
    score: str
    encoder: str | None
    prompt_set: str | None
    members: int
    results: list[ResultPart]
    other_groups: list[GroupPart]
    skipped: list[SkippedPart]
    looked_at: int
    matched: int


def search_document(result: SearchResult, query: QueryPart, score: str) -> SearchDocument:
    """The document of one search."""
    groups = [_group(group) for group in result.groups]
    main = groups[0] if groups else None
    return SearchDocument(
        query=query,
        score=score,
        encoder=main.encoder if main else None,
        prompt_set=main.prompt_set if main else None,
        members=main.members if main else 0,
        results=main.results if main else [],
        other_groups=groups[1:],
        skipped=[SkippedPart(model=str(it.model), reason=it.reason) for it in result.skipped],
        looked_at=result.looked_at,
        matched=result.matched,
    )


def _group(group: GroupRanking) -> GroupPart:
    return GroupPart(
        prompt_set=group.prompt_set,
        encoder=group.encoder,
        members=group.members,
        results=[_result(hit) for hit in group.hits],
    )


def _result(hit: SearchHit) -> ResultPart:
    return ResultPart(
        rank=hit.rank,
        model=str(hit.ref),
        title=hit.title,
        distance=hit.distance,
        margin=hit.margin,
        kind=hit.kind,
        tags=list(hit.tags),
        base_model=hit.base_model,
        licence=hit.licence,
        nsfw=hit.nsfw,
        downloads=hit.downloads,
        url=hit.url,
        best_prompts=[
            PromptPart(prompt=match.prompt, contribution=match.contribution)
            for match in hit.best_prompts
        ],
        digest=hit.digest,
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(SearchDocument.model_json_schema(), indent=2) + "\n")
