"""The versions that Civitai lists for a filter, checked again here."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gmi_registry.errors import HubError
from gmi_registry.hubs.civitai.bases import spelling
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.weights import TYPES, digests_of, kind_of
from gmi_registry.hubs.civitai.wire import WireModel, WireVersion, is_mature
from gmi_registry.hubs.protocol import ListingFilter
from gmi_registry.model import Kind
from gmi_registry.spec import ModelRef

__all__ = ["PAGE_SIZE", "ListedVersion", "admits", "list_versions"]

PAGE_SIZE = 100
"""Models a page: the most that the API gives."""

_MOST_PAGES = 2_000
_MOST_EMPTY = 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListedVersion:
    """One version. ``weights`` is path to SHA-256; ``mature`` says that it is not for everybody."""

    ref: ModelRef
    tags: tuple[str, ...]
    base_model: str
    kind: Kind
    mature: bool
    weights: Mapping[str, str | None]


def list_versions(
    client: CivitaiClient, wanted: ListingFilter, *, among: Sequence[str] | None = None
) -> list[ListedVersion]:
    """The published versions that pass the filter, sorted by model and version.

    ``among`` are the numbers of the models that matter, the others being left out. Civitai filters
    by one tag, so the first is asked for and the rest is compared here, and so is everything else:
    what comes back is not taken at its word. Versions that are rated above PG are asked for and
    passed on only where ``wanted.nsfw``.

    Costs one request a page of the tag, or one for every hundred of ``among``: the pages of the tag
    are tried first and given up when they grow more than those. Raises HubError where the pages
    never end or lead back, and every other error of the hub.
    """
    query = _query(wanted)
    models: dict[int, WireModel] = {}
    if among is None:
        models.update(_numbered(_pages(client, query, _MOST_PAGES)))
    elif among:
        chunks = [among[start : start + PAGE_SIZE] for start in range(0, len(among), PAGE_SIZE)]
        try:
            # A single chunk is as cheap as the shortest listing of a tag.
            models.update(_numbered(_pages(client, query, len(chunks) if len(chunks) > 1 else 0)))
        except _TooManyPagesError:
            models.clear()
            for chunk in chunks:
                asked = query | {"ids": ",".join(chunk)}
                # The same page twice would be odd already.
                models.update(_numbered(_pages(client, asked, 3)))
    chosen = None if among is None else set(among)
    found = [
        listed
        for model in models.values()
        if chosen is None or str(model.id) in chosen
        for listed in _versions(model)
        if admits(wanted, listed)
    ]
    return sorted(found, key=lambda item: (int(item.ref.id), int(item.ref.revision or 0)))


def admits(wanted: ListingFilter, listed: ListedVersion) -> bool:
    """Whether a version passes. A checkpoint is a single file here, and either word finds it."""
    return (wanted.nsfw or not listed.mature) and wanted.admits(
        listed.tags, listed.base_model, listed.kind
    )


class _TooManyPagesError(HubError):
    """A listing goes on for longer than it was allowed to."""


def _query(wanted: ListingFilter) -> dict[str, str | list[str]]:
    kind: Kind | None = "single-file" if wanted.kind == "checkpoint" else wanted.kind
    kinds = TYPES if kind is None else {kind: TYPES[kind]}
    query: dict[str, str | list[str]] = {
        "limit": str(PAGE_SIZE),
        "types": [name for names in kinds.values() for name in names],
    }
    if wanted.tags:
        query["tag"] = wanted.tags[0].lower()  # as all tags are spelt there
    # A name that it does not know it refuses, or takes for a typing error.
    base = None if wanted.base_model is None else spelling(wanted.base_model)
    if base is not None:
        query["baseModels"] = base
    # Left out, it means PG only.
    return query | ({"nsfw": "true"} if wanted.nsfw else {})


def _pages(
    client: CivitaiClient, query: Mapping[str, str | list[str]], most: int
) -> Iterator[WireModel]:
    cursor: str | None = None
    seen: set[str] = set()
    empty = 0
    for _ in range(most):
        page = client.page(query if cursor is None else {**query, "cursor": cursor})
        yield from page.items
        empty = 0 if page.items else empty + 1
        cursor = page.cursor
        if cursor is None:
            return
        if cursor in seen or empty >= _MOST_EMPTY:
            raise HubError(
                f"{client.endpoint} lists the same pages without end",
                hint="check CIVITAI_ENDPOINT, or run the same command again later",
            )
        seen.add(cursor)
    raise _TooManyPagesError(
        f"{client.endpoint} lists more than {most * PAGE_SIZE:,} models",
        hint="name a tag that fewer models have",
    )


def _numbered(models: Iterator[WireModel]) -> dict[int, WireModel]:
    return {model.id: model for model in models}


def _versions(model: WireModel) -> Iterator[ListedVersion]:
    kind = kind_of(model.type)
    if kind is None:
        return
    for version in model.model_versions:
        if version.status in (None, "Published"):
            yield _listed(model, version, kind)


def _listed(model: WireModel, version: WireVersion, kind: Kind) -> ListedVersion:
    levels = [level for level in (version.nsfw_level, model.nsfw_level) if level is not None]
    return ListedVersion(
        ref=ModelRef("civitai", str(model.id), str(version.id)),
        tags=model.tags,
        base_model=version.base_model,
        kind=kind,
        mature=is_mature(nsfw=model.nsfw, level=levels[0] if levels else None),
        weights=digests_of(version),
    )
