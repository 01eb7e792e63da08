"""From the answer to a search to the page that shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from gmi_registry import __version__
from gmi_registry.errors import GmiError
from gmi_registry.index.result import GroupRanking, Ranking, SearchHit
from gmi_registry.report.page import Card, Group, Page, Picture, QueryImage, SkippedModel
from gmi_registry.report.picture import embed, embed_preview
from gmi_registry.spec import ModelRef

__all__ = ["answer_page"]

Previews = Callable[[ModelRef], Path | None]
"""Where a model's contact sheet is on this disk: ``Hub.fetch_preview``."""


def answer_page(
    result: Ranking,
    images: Sequence[tuple[str, Image.Image]],
    *,
    pseudo_prompts: Sequence[str | None],
    settings: Sequence[tuple[str, str]],
    previews: Previews,
) -> Page:
    """The page of one search.

    ``images`` are the query's, each with the name to show, ``pseudo_prompts`` theirs, in order. A
    contact sheet that cannot be had or shown is replaced by the reason; nothing is raised for it.
    """
    names = [name for name, _ in images]
    about = names[0] if len(names) == 1 else f"these {len(names)}"
    return Page(
        title=f"Models that make images like {about}",
        query=tuple(
            QueryImage(name, embed(image), prompt)
            for (name, image), prompt in zip(images, pseudo_prompts, strict=True)
        ),
        settings=tuple(settings),
        groups=tuple(
            _group(group, first=position == 0, previews=previews)
            for position, group in enumerate(result.groups)
        ),
        skipped=tuple(SkippedModel(str(it.model), it.reason) for it in result.skipped),
        looked_at=result.looked_at,
        version=__version__,
    )


def _group(group: GroupRanking, *, first: bool, previews: Previews) -> Group:
    count = f"the nearest {len(group.hits)} of {group.members} models"
    if first:
        heading, note = "Ranking", f"{count}, default prompts {group.prompt_set}"
    else:
        heading = f"Models with the default prompts {group.prompt_set}"
        note = f"{count}; these distances cannot be compared with those above"
    return Group(heading, note, tuple(_card(hit, previews) for hit in group.hits))


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
        prompts=tuple(match.prompt for match in hit.best_prompts),
        preview=preview,
        no_preview=reason,
    )


def _preview(ref: ModelRef, previews: Previews) -> tuple[Picture | None, str]:
    try:
        path = previews(ref)
        if path is None:
            return None, "this model has no contact sheet"
        return embed_preview(path), ""
    except GmiError as error:
        return None, f"the contact sheet cannot be shown: {error.message}"
