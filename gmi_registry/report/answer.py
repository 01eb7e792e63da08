"""From the answer to a search to the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gmi_registry import __version__
from gmi_registry.errors import GmiError
from gmi_registry.index.result import GroupRanking, Ranking, SearchHit
from gmi_registry.model import Trust
from gmi_registry.report.number import near_everything
from gmi_registry.report.page import Card, Group, Page, Picture, QueryImage, SkippedModel
from gmi_registry.report.picture import embed_preview
from gmi_registry.spec import ModelRef

__all__ = ["answer_page"]

_DESCRIBED_BY: dict[Trust, str] = {
    "owner": "its owner",
    "verified": "an entry of the registry, which its maintainers checked",
    "self-published": "an entry of the registry, which nobody checked",
}

Previews = Callable[[ModelRef], Path | None]
"""Where a model's contact sheet is on this disk: ``Hub.fetch_preview``."""


def answer_page(
    result: Ranking,
    images: Sequence[QueryImage],
    *,
    unwanted: Sequence[QueryImage] = (),
    text: str | None = None,
    exemplar: QueryImage | None = None,
    settings: Sequence[tuple[str, str]],
    previews: Previews,
) -> Page:
    """The page of one search.

    ``images`` are the query's, ``unwanted`` show what is not wanted; where there are none, ``text``
    is what was asked in words, or ``exemplar`` the model that others were to be near. A contact
    sheet that cannot be had or shown is replaced by the reason; nothing is raised for it.
    """
    return Page(
        title=_title(images, unwanted, text, exemplar),
        query=tuple(images) if exemplar is None else (exemplar,),
        unwanted=tuple(unwanted),
        text=text,
        settings=tuple(settings),
        groups=tuple(
            _group(group, first=position == 0, previews=previews)
            for position, group in enumerate(result.groups)
        ),
        skipped=tuple(SkippedModel(str(it.model), it.reason) for it in result.skipped),
        looked_at=result.looked_at,
        version=__version__,
        reading=_reading(unwanted, text, exemplar),
    )


def _title(
    images: Sequence[QueryImage],
    unwanted: Sequence[QueryImage],
    text: str | None,
    exemplar: QueryImage | None,
) -> str:
    if exemplar is not None:
        return f"Models near {exemplar.name}"
    if text is not None:
        return f"Models for “{text}”"
    title = f"Models that make images like {_those(images)}"
    return f"{title}, and unlike {_those(unwanted)}" if unwanted else title


def _those(images: Sequence[QueryImage]) -> str:
    return images[0].name if len(images) == 1 else f"these {len(images)}"


def _reading(unwanted: Sequence[QueryImage], text: str | None, exemplar: QueryImage | None) -> str:
    """What the distances are between."""
    made = "the images that each model made when it was published"
    if exemplar is not None:
        return f"Distances are between what the model in question made of its prompts and {made}."
    if text is not None:
        return f"Distances are between the words and {made}, which say less than a picture does."
    if unwanted:
        return (
            f"Distances are between the query and {made}, and longer for models that may have made "
            "the pictures of what is not wanted."
        )
    return f"Distances are between the query and {made}."


def _group(group: GroupRanking, *, first: bool, previews: Previews) -> Group:
    count = f"the nearest {len(group.hits)} of {group.members} models"
    if first:
        heading, note = "Ranking", f"{count}, default prompts {group.prompt_set}"
    else:
        heading = f"Models with the default prompts {group.prompt_set}"
        note = f"{count}; these distances cannot be compared with those above"
    return Group(heading, note, tuple(_card(hit, previews) for hit in group.hits))


def _partial(hit: SearchHit) -> str:
    share = hit.lora_partial
    if share is None:
        return ""
    return f"a part of the LoRA made the images: {share.applied} of its {share.tensors} tensors"


def _card(hit: SearchHit, previews: Previews) -> Card:
    preview, reason = _preview(hit.ref, previews)
    return Card(
        rank=hit.rank,
        model=str(hit.ref),
        title=hit.title,
        distance=hit.distance,
        margin=hit.margin,
        kind=hit.kind,
        tags=hit.tags,
        licence=hit.licence,
        base_model=hit.base_model,
        url=hit.url,
        nsfw=hit.nsfw,
        stale=bool(hit.stale),
        confidence=hit.confidence,
        described_by=_described_by(hit),
        versions=tuple(version.title for version in hit.versions),
        universal="" if hit.universal is None else near_everything(hit.universal),
        partial=_partial(hit),
        repeats=tuple(f"{other.title} ({other.ref.identity})" for other in hit.repeats),
        prompts=tuple(match.prompt for match in hit.best_prompts),
        preview=preview,
        no_preview=reason,
    )


def _described_by(hit: SearchHit) -> str:
    who = "" if hit.trust is None else _DESCRIBED_BY[hit.trust]
    if hit.described_as is None:
        return who
    return f"{who + ', ' if who else ''}as {hit.described_as}, its name at the time"


def _preview(ref: ModelRef, previews: Previews) -> tuple[Picture | None, str]:
    try:
        path = previews(ref)
        if path is None:
            return None, "this model has no contact sheet"
        return embed_preview(path), ""
    except GmiError as error:
        return None, f"the contact sheet cannot be shown: {error.message}"
