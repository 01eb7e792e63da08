"""Civitai as a hub: what it lists now, and specifications that lie in a registry.

It keeps no files of ours.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from gmi_registry.atomic import user_cache
from gmi_registry.bases import family_named
from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.filters import Filters, Traits, plain_tags
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.documents import AIR_TYPES, Page, WireModel, digests_of, is_mature
from gmi_registry.hubs.civitai.download import Downloads, OnProgress
from gmi_registry.hubs.civitai.errors import BusyError
from gmi_registry.hubs.civitai.models import Models, find_civitai, named_model, newest_version
from gmi_registry.hubs.files import FileDigests, read_upload
from gmi_registry.hubs.protocol import (
    Destination,
    Hub,
    Listing,
    ModelOutline,
    SpecStore,
    TakesProposals,
    is_stale,
    require_on_hub,
)
from gmi_registry.hubs.requests import ListingCache, OnWait, RequestCounter
from gmi_registry.model import ModelFiles
from gmi_registry.spec import ModelRef
from gmi_registry.spec.reference import unprintable

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


_SHA256 = re.compile(r"[0-9a-f]{64}")

_SHOWN = 5
_ON = frozenset({"1", "ON", "YES", "TRUE"})


def description_snippet(
    ref: ModelRef, spec_digest: str, where: str, *, air: str | None = None
) -> str:
    """A few lines of plain text, since Civitai keeps no files beside a model.

    ``spec_digest`` is the SHA-256 (hex) of ``spec.json``, ``where`` its address in the registry,
    ``air`` the version's own name (None: ``civitai:MODEL@VERSION``). Raises InputError for a
    version without a number, and for a digest, a name or an address that is none.
    """
    if ref.hub != "civitai" or ref.revision is None:
        raise InputError(
            f"{ref} is not a version on Civitai", hint="name one: civitai:MODEL@VERSION"
        )
    if not _SHA256.fullmatch(spec_digest):
        raise InputError(f"{spec_digest[:80]!r} is not a SHA-256", hint="gmi spec show prints it")
    if not where.strip() or unprintable(where) or "<" in where:
        raise InputError(f"{where[:80]!r} is not the place of a specification")
    if air is not None and ModelRef.parse(air) != ref:
        raise InputError(f"{air[:80]!r} is not the AIR of {ref}")
    return "\n".join(
        (
            "This model can be found by a picture (GMI specification).",
            f"Model: {air or ref}",
            f"Specification: {where}",
            f"SHA-256 of its spec.json: {spec_digest}",
            "",
        )
    )


class CivitaiHub:
    """Civitai's models, called ``civitai:MODEL@VERSION``, with their specifications in ``store``.

    ``endpoint`` (None: CIVITAI_ENDPOINT, else civitai.com), ``others`` (addresses that are asked
    for what that does not have, see :class:`.CivitaiClient`) and ``token`` (None: CIVITAI_TOKEN)
    are Civitai's. Downloads and listings lie in ``civitai`` in ``cache_dir`` (None: this user's
    cache). ``offline`` (None: HF_HUB_OFFLINE, which switches the network off for all of this
    package) makes no request. ``bases`` (None: Hugging Face) has the models that LoRAs and single
    files stand on.

    Versions are listed, not models. ``traffic`` counts requests, those of ``store`` included where
    it counts them; ``on_progress`` may be set to watch downloads. Raises InputError for an
    endpoint or a token that is none.
    """

    name = "civitai"

    def __init__(
        self,
        store: SpecStore,
        *,
        endpoint: str | None = None,
        others: Sequence[str] | None = None,
        token: str | None = None,
        cache_dir: Path | None = None,
        offline: bool | None = None,
        bases: Hub | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        if offline is None:
            offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in _ON
        bases_cache = cache_dir
        cache_dir = user_cache(cache_dir)
        self.offline = offline
        # Those of a store across a network are counted together with Civitai's own.
        shared = getattr(store, "traffic", None)
        self.traffic = shared if isinstance(shared, RequestCounter) else RequestCounter()
        if on_wait is not None:
            self.traffic.on_wait = on_wait
        self.client = CivitaiClient(
            endpoint=endpoint, others=others, token=token, offline=offline, traffic=self.traffic
        )
        self._store = store
        self._folder = Path(cache_dir) / "civitai"
        self._digests = FileDigests(self._folder / "digests")
        self._downloads = Downloads(self.client, self._folder, self._digests)
        self._models = Models(self.client, self._downloads, bases, bases_cache)
        self._listing = ListingCache(self._folder / "catalogue.json", LISTING_VERSION)
        self._lock = threading.Lock()
        self._newest: dict[str, ModelRef] = {}
        self._weights: dict[ModelRef, Mapping[str, str | None]] = {}

    @property
    def endpoint(self) -> str:
        """Civitai's address."""
        return self.client.endpoint

    def close(self) -> None:
        """Close the connections, and the store where it has any; both can still be used."""
        self.client.close()
        self._models.close()
        close = getattr(self._store, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def on_progress(self) -> OnProgress | None:
        """Told (bytes here, bytes in all) while weights arrive; None draws a bar."""
        return self._downloads.on_progress

    @on_progress.setter
    def on_progress(self, told: OnProgress | None) -> None:
        self._downloads.on_progress = told

    @property
    def registry(self) -> SpecStore:
        """Where the specifications are, which may have an index of them."""
        return self._store

    @property
    def catalogue_age(self) -> float | None:
        """Seconds since Civitai's last listing; None: never."""
        return self._listing.age

    def find(self, text: str) -> ModelRef:
        """The version that ``text`` names, as :func:`.find_civitai` says.

        A version that is named with its model costs no request, and is not looked up. Offline a
        model means its newest version with a specification.
        """
        address = named_model(text, self.client)
        named = None if address is None else address.model
        if named is not None and named.revision is not None:
            return named
        if named is not None and self.offline:
            return self._described(named)
        return find_civitai(text, self.client, digests=self._digests)

    def list_specs(self, wanted: Filters) -> Iterator[Listing]:
        """The versions with a specification that pass the filter, in the order of the store.

        Civitai is asked which tags and which rating each has now, one request for every hundred
        models; offline the listing before says it. They go before what the manifest says, which
        tells the rest, and alone counts for a version that Civitai does not list. Where Civitai
        cannot be asked, or not about some models, that is so of these, and a warning in the log
        names them. Raises RateLimitError, AuthError, and what the store raises.
        """
        listings = list(self._store.listings("civitai"))
        listed = self._listed(listings)
        found = []
        for listing in listings:
            item = listed.get(listing.ref)
            if item is not None:
                listing = replace(
                    listing,
                    tags=item.tags,
                    nsfw=item.mature,
                    traits=Traits.listed("civitai", item.tags, item.mature),
                )
                if item.weights:
                    with self._lock:
                        self._weights[item.ref] = item.weights
            if wanted.admits(listing.traits):
                found.append(self._addressed(listing))
        return iter(found)

    def fetch_spec(self, ref: ModelRef) -> Path:
        """The folder ``gmi`` that the store has; without a version, of the newest described one."""
        return self._store.fetch_spec(self._described(ref))

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """The contact sheet that the store has, or None."""
        return self._store.fetch_preview(self._described(ref))

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """The signature that the store has, or None; nothing in it is checked."""
        return self._store.fetch_signature(self._described(ref))

    def fetch_encoder(self, name: str, pretrained: str) -> Path | None:
        """None: Civitai carries no encoders."""
        return None

    def fetch_model(self, ref: ModelRef, base: ModelRef | None = None) -> ModelFiles:
        """The version's safetensors weights, and the base model that they stand on.

        A ``Checkpoint`` is a single file, whose base gives the configuration; a ``LORA``, ``LoCon``
        or ``DoRA`` is a LoRA. The base is ``base``, a model on Hugging Face, where one is given,
        and else found by Civitai's name for it in a table; where the file says that it was made for
        v-prediction, it is the sister of that base that was, too. Two requests,
        and those of the download and the base. ``ref`` of the result names the version, and the
        path of its weights is the number of the file, which stays when the file is renamed.

        Raises HubError for another type of model, a base that is not known or not the one that the
        file was made for, only pickles, what its
        author lets nobody download, and for other bytes than Civitai says there are;
        SpecNotFoundError for a version that is not there or another model's; AuthError for early
        access and for what needs a token.
        """
        ref = self._pinned(ref)
        model, weights = self._models.fetch(ref, base)
        with self._lock:
            self._weights[ref] = weights
        return model

    def weight_digests(self, ref: ModelRef) -> Mapping[str, str | None] | None:
        """Path to SHA-256 of the safetensors weights that the version has now.

        None offline, and for an archived model, whose files Civitai hides. One request a version,
        and none where this program listed, fetched or asked it before; empty for a version that is
        gone.
        """
        require_on_hub(ref, self.name)
        if self.offline or ref.revision is None:
            return None
        with self._lock:
            known = self._weights.get(ref)
        if known is None:
            known = self._models.weights(ref)
            if known is not None:
                with self._lock:
                    self._weights[ref] = known
        return known

    def outline(self, ref: ModelRef, base: ModelRef | None = None) -> ModelOutline:
        """The version and its base model as they would be fetched, before a weight is read.

        Two requests, those for the beginning of the file, and those of the base. Raises all that
        :meth:`fetch_model` raises but for want of room, and other bytes.
        """
        return self._models.outline(self._pinned(ref), base)

    def check_writable(self, ref: ModelRef, *, create_pr: bool = True) -> Destination | None:
        """Raises AuthError or HubError where the store would not take a specification of it."""
        return self._store.check_writable(self._pinned(ref), create_pr=create_pr)

    def open_proposals(self, ref: ModelRef) -> Iterator[tuple[str, Path]]:
        """Those of the store, where it takes any."""
        if not isinstance(self._store, TakesProposals):
            return iter(())
        return self._store.open_proposals(self._pinned(ref))

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = True) -> str:
        """Put the files of ``folder`` into the store, or propose them to it; returns where.

        Raises SpecError for files that are no specification of the version, HubError where it has
        other weights by now, and what the store raises; in each case everything is as before.
        """
        ref = self._pinned(ref)
        manifest, _ = read_upload(folder, ref)
        if is_stale(manifest.model.weights, self._models.weights(ref)):
            raise HubError(
                f"the specification describes other weights than {ref} has now",
                hint=f"the model changed meanwhile: gmi-publish {ref}",
            )
        return self._store.push_spec(ref, folder, create_pr=create_pr)

    def snippet(self, ref: ModelRef, spec_digest: str, where: str) -> str:
        """:func:`.description_snippet` under the AIR of the version. At most two requests."""
        ref = self._pinned(ref)
        model, version = self._models.documents(ref)
        air = version.air
        if air is None or not air.endswith(f":civitai:{ref.id}@{ref.revision}"):
            family = family_named(version.base_model)
            ecosystem = "other" if family is None else family.ecosystem
            air = ref.air(ecosystem, AIR_TYPES.get(model.type.casefold(), "other"))
        return description_snippet(ref, spec_digest, where, air=air)

    def _listed(self, listings: list[Listing]) -> dict[ModelRef, ListedVersion]:
        if self.offline:
            return {item.ref: item for item in kept_versions(self._listing)}
        described = {listing.ref for listing in listings if listing.ref.revision is not None}
        among = sorted({ref.id for ref in described}, key=int)
        try:
            found = list_among(self.client, among)
        except (AuthError, RateLimitError):
            raise
        except HubError as error:
            _log.warning(
                "tags and ratings are those of the time when the models were described: %s",
                error.message,
            )
            return {}
        if found.failed:
            _log.warning("%s", _unlisted(found.failed))
        mine = [item for item in found.versions if item.ref in described]
        keep_versions(self._listing, mine)
        return {item.ref: item for item in mine}

    def _addressed(self, listing: Listing) -> Listing:
        return replace(listing, url=self.client.page_of(listing.ref))

    def _described(self, ref: ModelRef) -> ModelRef:
        """The version that reading means: published by this program, else the newest described."""
        require_on_hub(ref, self.name)
        if ref.revision is not None:
            return ref
        with self._lock:
            if ref.id in self._newest:
                return self._newest[ref.id]
        refs = [item.ref for item in self._store.listings("civitai") if item.ref.id == ref.id]
        return max(refs, key=lambda item: int(item.revision or 0), default=ref)

    def _pinned(self, ref: ModelRef) -> ModelRef:
        """The version that writing means: the newest one, and the same for all of this program."""
        require_on_hub(ref, self.name)
        if ref.revision is not None:
            return ref
        with self._lock:
            known = self._newest.get(ref.id)
        if known is None:
            newest = newest_version(self.client.model(ref.id), self.client)
            known = ModelRef("civitai", ref.id, str(newest.id))
            with self._lock:
                self._newest[ref.id] = known
        return known


def _unlisted(failed: Mapping[str, str]) -> str:
    """The warning about models of which Civitai said nothing."""
    names = [f"civitai:{number}" for number in sorted(failed, key=int)]
    shown = ", ".join(names[:_SHOWN]) + (
        f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
    )
    return (
        f"Civitai does not say which tags {shown} carry now, so those of their specifications "
        f"count: {next(iter(failed.values()))}"
    )
