"""What ``gmi search --json`` prints. ``python -m gmi_registry.cli.document`` prints the schema.

Fields are added in later versions, never renamed or removed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from gmi_registry.search.request import SearchRequest
    from gmi_registry.search.result import SearchResult

__all__ = ["SearchDocument", "search_document"]


class _Part(BaseModel):
    # Forbidding what is not declared makes a test fail, rather than the schema go stale.
    model_config = ConfigDict(extra="forbid", frozen=True)


class QueryPart(_Part):
    """What was asked.

    ``pseudo_prompts`` stand in the order of ``images``, null where an image has none;
    ``interrogator`` is how they were found. ``text`` is the prompt of a search by words alone,
    ``like`` the model of a search by a model, at the revision that its specification names; both
    are null where there are images. ``not_like`` are the images of what was not wanted, and
    ``not_like_prompts`` their pseudo-prompts. ``style`` are words for how images should look, null
    where there were none. ``tags`` to ``kind`` are the filters.
    """

    images: list[str]
    pseudo_prompts: list[str | None]
    interrogator: str
    text: str | None
    like: str | None
    not_like: list[str]
    not_like_prompts: list[str | None]
    style: str | None
    hub: str
    tags: list[str]
    not_tags: list[str]
    base_model: str | None
    kind: str | None


class PromptPart(_Part):
    """A prompt whose images are near the query.

    ``index`` counts the prompts of the default set from 0. ``contribution`` is what the prompt adds
    to the cross term of Eq. 9 for images, and to the mean cosine for a text alone; for a model it
    is the mean kernel between the two models' images of the prompt. Larger is nearer.
    """

    index: int
    prompt: str
    contribution: float


class VersionPart(_Part):
    """Another version of a model that stands in the results with its nearest one."""

    model: str
    title: str
    distance: float
    confidence: float | None


class RepeatPart(_Part):
    """Another model whose specification repeats that of a result: by it nobody could tell them
    apart. ``distance`` is its own, and ``stale`` and ``trust`` are as in a result."""

    model: str
    title: str
    distance: float
    stale: bool | None
    trust: str | None


class UniversalPart(_Part):
    """What is said of a model that is near everything: the share of other models' images that it is
    ``first`` for where their own do not compete, the ``share`` that would fall to it by chance, and
    that of background ``pictures``, null where nobody asked with them."""

    first: float
    share: float
    pictures: float | None


class LoraPartialPart(_Part):
    """How many of a LoRA's tensors made the images, where not all of them did."""

    applied: int
    tensors: int


class ResultPart(_Part):
    """One model. ``margin`` is the next model's distance minus this one's, null for the last.

    ``confidence`` is the chance, from 0 to 1, that this model made the query's images if one of
    those compared did; null for scores other than the default one.

    ``digest`` is the SHA-256 of its ``spec.json``; ``stale`` says whether its weights are others
    than those that were described, null where nobody knows. ``trust`` says who stands behind the
    specification: ``owner``, ``verified`` or ``self-published``, null in a folder. ``versions`` are
    the model's other versions where those are described apart, nearest first. ``described_as`` is
    the name that the specification has for the model, null where it is the present one.
    ``repeats`` are other models whose specifications repeat this one, the best trusted first, and
    of those the nearest; none with ``--repeats``. The first of them all is a result, the others are
    where there is room left. Which was first no file tells. ``confidence`` is as without them.
    ``universal`` is there for a model that is known to be near everything, and null for all others.
    ``lora_partial`` is there for a LoRA of which only some tensors made the images.
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
    stale: bool | None
    confidence: float | None
    trust: str | None
    versions: list[VersionPart]
    described_as: str | None = None
    repeats: list[RepeatPart]
    universal: UniversalPart | None
    lora_partial: LoraPartialPart | None = None


class GroupPart(_Part):
    """What may be compared: one encoder, default prompt set, kernel and number of images.

    ``members`` counts the models that were compared, of which the nearest are printed.
    """

    group: str
    prompt_set: str
    members: int


class OtherGroupPart(GroupPart):
    """A ranking by itself, whose distances cannot be compared with any other's."""

    encoder: str
    results: list[ResultPart]


class SkippedPart(_Part):
    """A model that took no part, and why."""

    model: str
    reason: str


class TimingsPart(_Part):
    """Seconds of wall time in each stage."""

    list: float
    index: float
    encoder: float
    query: float
    rank: float


class SearchDocument(_Part):
    """The whole document.

    ``score`` is the name of the distance: one of ``--score``, ``text`` for words alone, or ``like``
    for a model. ``results`` is the ranking of the largest group of comparable models, which is the
    first of ``groups``; ``other_groups`` are the rest, the largest first. ``looked_at`` counts the
    models with a specification that the hub named for the filters, and where it named none, all it
    has; ``matched`` those that passed, ``stale_left_out`` those that did not for being stale.
    ``encoder`` is as in a manifest, null where nothing matched. Of the specifications ``read``
    came from the hub and ``from_cache`` were known; ``index`` is the index that took the place of
    reading any, null where there was none. ``requests`` counts HTTP requests by method,
    null for a hub without a network. With ``offline`` no request was made, and ``catalogue_age``
    is the age in seconds of the listing that was used, null where there was none, or a fresh one.
    """

    query: QueryPart
    score: str
    results: list[ResultPart]
    other_groups: list[OtherGroupPart]
    skipped: list[SkippedPart]
    encoder: dict[str, Any] | None
    looked_at: int
    matched: int
    stale_left_out: int
    read: int
    from_cache: int
    index: str | None
    offline: bool
    catalogue_age: float | None
    requests: dict[str, int] | None
    groups: list[GroupPart]
    timings: TimingsPart


def search_document(result: SearchResult, request: SearchRequest, hub: str) -> SearchDocument:
    """The document of one search of the hub called ``hub``."""
    document = result.to_json()
    document["query"] |= {
        "images": _texts(result.images),
        "not_like": _texts(result.not_like),
        "hub": hub,
        "tags": request.tags,
        "not_tags": request.not_tags,
        "base_model": request.base_model,
        "kind": request.kind,
    }
    return SearchDocument.model_validate(document)


def _texts(names: Sequence[str]) -> list[str]:
    # A file name may hold bytes that are no text, for which JSON has no place.
    return [name.encode("utf-8", "backslashreplace").decode() for name in names]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(SearchDocument.model_json_schema(), indent=2) + "\n")
