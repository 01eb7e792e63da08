"""The versions that Civitai lists for a filter, checked again here."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gmi_registry.errors import (
    AuthError,
    HubError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.hubs.civitai.bases import spelling
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.refusal import BusyError
from gmi_registry.hubs.civitai.weights import TYPES, digests_of, kind_of
from gmi_registry.hubs.civitai.wire import Page, WireModel, WireVersion, is_mature
from gmi_registry.hubs.protocol import ListingFilter
from gmi_registry.model import Kind
from gmi_registry.spec import ModelRef

__all__ = [
    "PAGE_SIZE",
    "ListedModels",
    "ListedVersion",
    "admits",
    "list_among",
    "list_versions",
]

PAGE_SIZE = 100
"""Models a page: the most that the API gives."""

_MOST_PAGES = 2_000
_MOST_EMPTY = 20
_MOST_PARTS = 3
"""Pages of a hundred models that were asked for by number: more than one is odd already."""
_MOST_FAILURES = 24
"""Requests that may fail: three models among thousands are found by halves."""
_PASSED_ON = (AuthError, RateLimitError, OfflineError)
"""What no other request would do better."""

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


@dataclass(frozen=True)
class ListedModels:
    """The versions that pass, and why nothing is known of some models, by their numbers."""

    versions: list[ListedVersion]
    failed: Mapping[str, str]


def list_versions(client: CivitaiClient, wanted: ListingFilter) -> list[ListedVersion]:
    """The published versions that pass the filter, sorted by model and version.

    Civitai filters by one tag, so the first is asked for and the rest is compared here, and so is
    everything else: what comes back is not taken at its word. Versions that are rated above PG are
    asked for and passed on only where ``wanted.nsfw``.

    Costs one request a page of the tag. Raises HubError where the pages never end or lead back, and
    every other error of the hub.
    """
    pages = _pages(client, _query(wanted), _MOST_PAGES)
    models = {model.id: model for page in pages for model in page.items}
    return _passing(models, wanted)


def list_among(
    client: CivitaiClient,
    wanted: ListingFilter,
    among: Sequence[str],
    *,
    remembered: Iterable[str] = (),
) -> ListedModels:
    """Likewise, of the models with the numbers ``among``.

    Costs one request a page of the tag, or one for every hundred of ``among``: the pages of the tag
    are tried first and given up when they grow more than those. They are not trusted to be all:
    where one fails, leads back, or is shorter than it should be, what is missing is asked for by
    number, and so are the ``remembered``, which carried the tags before. What is rated above PG may
    be at one of the client's other addresses alone.

    Of a request that fails the halves are asked for, so that one model that Civitai stumbles over
    costs the others nothing; by itself it is asked for at its own address. Raises every other error
    of the hub, and that one too where nothing was answered at all.
    """
    models: dict[int, WireModel] = {}
    query = _query(wanted)
    chunks = -(-len(among) // PAGE_SIZE)
    # A single chunk is as cheap as the shortest listing of a tag.
    whole = chunks > 1 and _by_tag(client, query, chunks, models)

    def missing(numbers: Iterable[str]) -> list[str]:
        return [number for number in numbers if int(number) not in models]

    chosen = set(among)
    rest = missing(number for number in remembered if number in chosen) if whole else missing(among)
    failed = _by_number(client, query, sorted(rest, key=int), models)
    if wanted.nsfw:
        for home in client.others:
            try:
                failed |= _by_number(client, query, missing(among), models, home)
            except _PASSED_ON:
                raise
            except HubError as error:
                _log.warning("models that are at %s alone are left out: %s", home, error.message)
    mine = {number: model for number, model in models.items() if str(number) in chosen}
    return ListedModels(
        _passing(mine, wanted), {number: why for number, why in failed.items() if missing([number])}
    )


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
    client: CivitaiClient,
    query: Mapping[str, str | list[str]],
    most: int,
    *,
    home: str | None = None,
    patient: bool = True,
) -> Iterator[Page]:
    cursor: str | None = None
    seen: set[str] = set()
    empty = 0
    for _ in range(most):
        asked = query if cursor is None else {**query, "cursor": cursor}
        page = client.page(asked, home=home, patient=patient)
        yield page
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


def _by_tag(
    client: CivitaiClient,
    query: Mapping[str, str | list[str]],
    most: int,
    models: dict[int, WireModel],
) -> bool:
    """Add the models of a tag; whether its pages give no reason to doubt that these are all."""
    whole = True
    try:
        for page in _pages(client, query, most):
            models.update((model.id, model) for model in page.items)
            whole = whole and (page.cursor is None or len(page.items) >= PAGE_SIZE)
    except _PASSED_ON:
        raise
    except HubError as error:
        _log.info("%s; models are asked for by their numbers", error.message)
        return False
    return whole


def _by_number(
    client: CivitaiClient,
    query: Mapping[str, str | list[str]],
    numbers: Sequence[str],
    models: dict[int, WireModel],
    home: str | None = None,
) -> dict[str, str]:
    """Add the models with these numbers; returns those of which nothing could be learnt, and why.

    Raises the first error where nothing was answered, and where nobody is there.
    """
    waiting = deque(numbers[at : at + PAGE_SIZE] for at in range(0, len(numbers), PAGE_SIZE))
    failed: dict[str, str] = {}
    errors: list[HubError] = []
    answered = False
    while waiting:
        part = waiting.popleft()
        if len(errors) >= _MOST_FAILURES:
            failed.update(dict.fromkeys(part, errors[-1].message))
            continue
        try:
            asked = {**query, "ids": ",".join(part)}
            # What failed once was waited for; the halves tell whether it was one of them.
            for page in _pages(client, asked, _MOST_PARTS, home=home, patient=not errors):
                models.update((model.id, model) for model in page.items)
            answered = True
        except _PASSED_ON:
            raise
        except HubError as error:
            errors.append(error)
            if isinstance(error, BusyError) and not error.reached:
                raise
            if len(part) > 1:
                half = len(part) // 2
                waiting.extendleft((part[half:], part[:half]))
                continue
            why = _alone(client, part[0], models)
            answered = answered or why is None
            failed.update({part[0]: why} if why is not None else {})
    if errors and not answered:
        raise errors[0]
    return failed


def _alone(client: CivitaiClient, number: str, models: dict[int, WireModel]) -> str | None:
    """Add a model that no listing shows, by its own address; the reason where that fails too."""
    try:
        found = client.model(number)
    except _PASSED_ON:
        raise
    except SpecNotFoundError:
        return None
    except HubError as error:
        return error.message
    models[found.id] = found
    return None


def _passing(models: Mapping[int, WireModel], wanted: ListingFilter) -> list[ListedVersion]:
    found = [
        listed for model in models.values() for listed in _versions(model) if admits(wanted, listed)
    ]
    return sorted(found, key=lambda item: (int(item.ref.id), int(item.ref.revision or 0)))


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
