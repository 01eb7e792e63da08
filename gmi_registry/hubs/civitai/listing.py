"""What Civitai lists of versions with a specification: their tags, ratings and weights now."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.filters import plain_tags
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.documents import Page, WireModel, digests_of, is_mature
from gmi_registry.hubs.civitai.errors import BusyError
from gmi_registry.hubs.listing_cache import ListingCache
from gmi_registry.spec import ModelRef

PAGE_SIZE = 100
"""Models a page: the most that the API gives."""

_MOST_PAGES = PAGE_SIZE
_MOST_EMPTY = 3
_MOST_FAILURES = 24
"""Requests that may fail: three models among thousands are found by halves."""
_PASSED_ON = (AuthError, RateLimitError, OfflineError)
"""What no other request would do better."""

_log = logging.getLogger(__name__)

LISTING_VERSION = 3
"""Of what :func:`keep_versions` keeps."""


@dataclass(frozen=True)
class ListedVersion:
    """One version. ``weights`` is path to SHA-256; ``mature`` says that it is not for everybody."""

    ref: ModelRef
    tags: tuple[str, ...]
    mature: bool
    weights: Mapping[str, str | None]


@dataclass(frozen=True)
class ListedModels:
    """The versions that are listed, and why nothing is known of some models, by their numbers."""

    versions: list[ListedVersion]
    failed: Mapping[str, str]


def list_among(client: CivitaiClient, among: Sequence[str]) -> ListedModels:
    """The published versions of the models with the numbers ``among``, sorted by model and version.

    They are asked for by number, whatever they are tagged and rated: of tags Civitai takes one, in
    its own spelling, and what it leaves out for it nobody learns. Costs one request for every
    hundred models, and as many of those that it does not list at each of the client's other
    addresses, where some models live alone.

    Of a request that fails the halves are asked for, so that one model that Civitai stumbles over
    costs the others nothing; by itself it is asked for at its own address. Raises every other error
    of the hub, and that one too where nothing was answered at all.
    """
    models: dict[int, WireModel] = {}

    def missing(numbers: Sequence[str]) -> list[str]:
        return [number for number in numbers if int(number) not in models]

    # Left out, nsfw means PG only.
    query = {"limit": str(PAGE_SIZE), "nsfw": "true"}
    failed = _by_number(client, query, sorted(among, key=int), models)
    for home in client.others:
        try:
            failed |= _by_number(client, query, missing(among), models, home)
        except _PASSED_ON:
            raise
        except HubError as error:
            _log.warning("what only %s has is not known: %s", home, error.message)
    chosen = set(among)
    found = [
        version
        for model in models.values()
        if str(model.id) in chosen
        for version in _versions(model)
    ]
    return ListedModels(
        sorted(found, key=lambda item: (int(item.ref.id), int(item.ref.revision or 0))),
        {number: why for number, why in failed.items() if missing([number])},
    )


def _pages(
    client: CivitaiClient,
    query: Mapping[str, str | list[str]],
    *,
    home: str | None = None,
    patient: bool = True,
) -> Iterator[Page]:
    cursor: str | None = None
    seen: set[str] = set()
    empty = 0
    for _ in range(_MOST_PAGES):
        asked = query if cursor is None else {**query, "cursor": cursor}
        page = client.page(asked, home=home, patient=patient)
        yield page
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
            for page in _pages(client, asked, home=home, patient=not errors):
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


def kept_versions(cache: ListingCache) -> list[ListedVersion]:
    """Those of the last listing, in the order of their references."""
    rows = cache.read().get("versions")
    found = map(_kept_version, rows if isinstance(rows, list) else ())
    return [version for version in found if version is not None]


def keep_versions(cache: ListingCache, listed: Iterable[ListedVersion]) -> None:
    """Keep a complete listing in place of the one before."""
    versions = {item.ref: item for item in listed}
    cache.keep(
        versions=[
            asdict(versions[ref]) | {"ref": str(ref), "weights": dict(versions[ref].weights)}
            for ref in sorted(versions)
        ]
    )


def _kept_version(row: Any) -> ListedVersion | None:
    try:
        ref, weights = ModelRef.parse(row["ref"]), row["weights"]
        texts = all(isinstance(it, str | None) for pair in weights.items() for it in pair)
        if texts and isinstance(row["mature"], bool):
            return ListedVersion(ref, plain_tags(row["tags"]), row["mature"], weights)
    except (InputError, KeyError, TypeError, AttributeError):
        pass
    return None
