"""What Civitai lists of versions that are described: their tags, ratings and weights now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gmi_registry.errors import HubError
from gmi_registry.filters import plain_tags
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.weights import digests_of
from gmi_registry.hubs.civitai.wire import WireModel, is_mature
from gmi_registry.spec import ModelRef

__all__ = ["PAGE_SIZE", "ListedVersion", "list_versions"]

PAGE_SIZE = 100
"""Models a page: the most that the API gives."""

_MOST_PAGES = PAGE_SIZE
_MOST_EMPTY = 3


@dataclass(frozen=True)
class ListedVersion:
    """One version. ``weights`` is path to SHA-256; ``mature`` says that it is not for everybody."""

    ref: ModelRef
    tags: tuple[str, ...]
    mature: bool
    weights: Mapping[str, str | None]


def list_versions(client: CivitaiClient, among: Sequence[str]) -> list[ListedVersion]:
    """The published versions of the models with the numbers ``among``, sorted by model and version.

    They are asked for by number, whatever they are tagged and rated, and filtered here: of tags
    Civitai takes one, in its own spelling, and what it leaves out for it nobody learns. Costs one
    request for every hundred models. Raises HubError where the pages never end or lead back, and
    every other error of the hub.
    """
    models: dict[int, WireModel] = {}
    for start in range(0, len(among), PAGE_SIZE):
        chunk = among[start : start + PAGE_SIZE]
        # Left out, nsfw means PG only.
        asked = {"limit": str(PAGE_SIZE), "nsfw": "true", "ids": ",".join(chunk)}
        models.update(_numbered(_pages(client, asked)))
    chosen = set(among)
    found = [
        listed
        for model in models.values()
        if str(model.id) in chosen
        for listed in _versions(model)
    ]
    return sorted(found, key=lambda item: (int(item.ref.id), int(item.ref.revision or 0)))


def _pages(client: CivitaiClient, query: Mapping[str, str | list[str]]) -> Iterator[WireModel]:
    cursor: str | None = None
    seen: set[str] = set()
    empty = 0
    for _ in range(_MOST_PAGES):
        page = client.page(query if cursor is None else {**query, "cursor": cursor})
        yield from page.items
        empty = 0 if page.items else empty + 1
        cursor = page.cursor
        if cursor is None:
            return
        if cursor in seen or empty >= _MOST_EMPTY:
            break
        seen.add(cursor)
    raise HubError(
        f"{client.endpoint} lists the same pages without end",
        hint="check CIVITAI_ENDPOINT, or run the same command again later",
    )


def _numbered(models: Iterator[WireModel]) -> dict[int, WireModel]:
    return {model.id: model for model in models}


def _versions(model: WireModel) -> Iterator[ListedVersion]:
    for version in model.model_versions:
        if version.status in (None, "Published"):
            levels = [it for it in (version.nsfw_level, model.nsfw_level) if it is not None]
            yield ListedVersion(
                ref=ModelRef("civitai", str(model.id), str(version.id)),
                tags=plain_tags(model.tags),
                mature=is_mature(nsfw=model.nsfw, level=levels[0] if levels else None),
                weights=digests_of(version),
            )
