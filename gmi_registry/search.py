"""The identification stage: from images to the models of a hub that would make their like.

:func:`search` is the whole stage in one place. Images never leave this machine, and nothing is read
of a model but its two small files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL.Image import Image

from gmi_registry.answer import SearchResult
from gmi_registry.clock import Clock, Progress, Stage, Timings
from gmi_registry.encoders.protocol import Encoder
from gmi_registry.errors import GmiError, IncomparableSpecsError, InputError
from gmi_registry.freshness import Freshness
from gmi_registry.hubs.protocol import Hub, Listing, ListingFilter
from gmi_registry.index import Filters, IndexEntry, Ranking, SpecCache, SpecIndex, SpecSource
from gmi_registry.interrogators import Interrogator, load_interrogator
from gmi_registry.place import makes_links
from gmi_registry.scoring import score_named
from gmi_registry.spec import EncoderRef, ModelRef, Spec, read_manifest, read_spec

__all__ = ["WORKERS", "Progress", "Remote", "SearchResult", "Stage", "Timings", "search"]

WORKERS = 8
"""Specifications read at a time, which a hub across a network answers faster than one by one."""

ImageSource = str | Path | bytes | Image


class Traffic(Protocol):
    """HTTP requests so far, by method; ``on_wait`` is told the seconds of every wait."""

    on_wait: Callable[[float], None] | None

    @property
    def methods(self) -> dict[str, int]: ...


@runtime_checkable
class Remote(Protocol):
    """A hub across a network; ``catalogue_age`` is that of its last listing in seconds."""

    @property
    def offline(self) -> bool: ...

    @property
    def traffic(self) -> Traffic: ...

    @property
    def catalogue_age(self) -> float | None: ...


@dataclass(frozen=True)
class _Loading:
    """How encoders and interrogators are loaded."""

    cache_dir: Path | None
    offline: bool
    device: str


def search(
    images: Sequence[ImageSource],
    hub: Hub,
    *,
    wanted: ListingFilter | None = None,
    fresh_only: bool = False,
    score: str = "default",
    interrogator: str = "none",
    prompt: str | None = None,
    top: int | None = 10,
    cache_dir: Path | None = None,
    encoder: Encoder | None = None,
    device: str = "cpu",
    offline: bool = False,
    workers: int = WORKERS,
    progress: Progress = lambda stage, done, total: None,
) -> SearchResult:
    """Rank the models of ``hub`` by how near their images are to ``images``, which are one query.

    Only models that pass ``wanted`` are compared, and ``top`` are shown of each group (None: all).
    A model whose weights are no longer those that were described is marked as stale, and follows
    the fresh ones that are equally near; ``fresh_only`` leaves it out. ``prompt`` says what the
    images show; without it ``interrogator`` may guess.

    Specifications that were read once are kept in ``cache_dir`` under their digests, and are read
    again only when they change; weights of encoders that the hub does not hold lie in ``hub`` in
    it. None is this user's cache, and huggingface_hub's. ``encoder`` is by default the one that
    most of the specifications were made with, on ``device``. ``workers`` specifications are read
    at a time, which changes nothing in the answer. ``offline`` keeps encoders and interrogators
    from the network; the hub has a setting of its own, which implies it.

    A specification that cannot be used is in ``skipped`` with the reason; where none is left, or
    none passes the filter, the result is empty. Raises InputError for an image, score or prompt
    that cannot be used, IncomparableSpecsError where the encoder is not the one that made the
    specifications, OfflineError where its weights are not at hand, and whatever error the hub has
    for the listing as a whole.
    """
    from gmi_registry.query import PROMPT_MODE, build_query

    wanted = wanted or ListingFilter()
    clock = Clock(progress)
    score_named(score)
    pictures, names = _opened(images)
    remote = hub if isinstance(hub, Remote) else None
    before = {} if remote is None else remote.traffic.methods
    loading = _Loading(
        None if cache_dir is None else cache_dir / "hub",
        offline or (remote is not None and remote.offline),
        device,
    )

    clock.begin("list")
    listings, looked_at = _listed(hub, wanted)
    clock.begin("index")
    index, read = _indexed(hub, listings, cache_dir, workers, progress)

    filters = Filters(wanted.tags, wanted.not_tags, wanted.base_model, wanted.kind)
    matched = [entry for entry in index.entries if filters.match(entry)]
    ranking = Ranking((), index.skipped, looked_at, 0)
    pseudo_prompts: tuple[str | None, ...] = (prompt,) * len(pictures)
    mode = interrogator if prompt is None else PROMPT_MODE
    left_out = 0
    if matched:
        clock.begin("encoder")
        encoder = _encoder_of(matched, hub, loading) if encoder is None else encoder
        clock.begin("query")
        prompts = tuple(dict.fromkeys(text for entry in matched for text in entry.prompts))
        guess = interrogator if prompt is not None else _guesser(interrogator, prompts, loading)
        query = build_query(pictures, encoder, interrogator=guess, prompt=prompt)
        pseudo_prompts, mode = query.pseudo_prompts, query.interrogator
        clock.begin("rank")
        freshness = Freshness(hub, workers)
        chosen = replace(filters, fresh_only=fresh_only)
        ranking = index.rank(query, score, chosen, top=top)
        # What takes the place of a stale model may be stale as well.
        while freshness.learn(index, ranking):
            ranking = index.rank(query, score, chosen, top=top)
        if fresh_only:
            left_out = sum(filters.match(entry) for entry in index.stale)
    clock.end()
    return SearchResult(
        groups=ranking.groups,
        skipped=ranking.skipped,
        looked_at=looked_at,
        matched=ranking.matched,
        stale_left_out=left_out,
        score=score,
        images=names,
        pseudo_prompts=pseudo_prompts,
        interrogator=mode,
        encoder=encoder.ref if encoder is not None else None,
        read=read,
        from_cache=len(listings) - read,
        requests=None if remote is None else _since(before, remote.traffic.methods),
        offline=loading.offline,
        catalogue_age=remote.catalogue_age if remote is not None and remote.offline else None,
        timings=clock.timings,
    )


def _since(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    counts = {method: count - before.get(method, 0) for method, count in sorted(now.items())}
    return {method: count for method, count in counts.items() if count}


def _opened(images: Sequence[ImageSource]) -> tuple[list[Image], tuple[str, ...]]:
    """Before anything that takes long: a mistyped name should not cost minutes."""
    from gmi_registry.images import load_image, to_rgb

    if isinstance(images, str | bytes) or not images:
        raise InputError("a query is a list of at least one image", hint="search([image], hub)")
    pictures, names = [], []
    for number, image in enumerate(images, start=1):
        is_named = isinstance(image, str | Path)
        names.append(str(image) if is_named else f"image {number}")
        pictures.append(to_rgb(image) if isinstance(image, Image) else load_image(image))
    return pictures, tuple(names)


def _listed(hub: Hub, wanted: ListingFilter) -> tuple[list[Listing], int]:
    """What passes the hub's filter, and its number; where nothing does, how many there are."""
    listings = list(hub.list_specs(wanted))
    if listings or wanted == ListingFilter():
        return listings, len(listings)
    return [], sum(1 for _ in hub.list_specs(ListingFilter()))


def _indexed(
    hub: Hub,
    listings: Sequence[Listing],
    cache_dir: Path | None,
    workers: int,
    progress: Progress,
) -> tuple[SpecIndex, int]:
    """The specifications in memory, and how many of them came from the hub."""
    if cache_dir is None:
        from platformdirs import user_cache_path

        cache_dir = user_cache_path("gmi-registry", appauthor=False)
    fetched: list[ModelRef] = []

    def source(listing: Listing) -> SpecSource:
        def load() -> Spec:
            fetched.append(listing.ref)
            folder = hub.fetch_spec(listing.ref).parent
            return read_spec(folder, expected=listing.ref, follow_links=makes_links(hub))

        return SpecSource(listing.ref, load, digest=listing.spec_digest, stale=listing.stale)

    cache = SpecCache(cache_dir)
    index = SpecIndex.from_sources(
        map(source, listings),
        cache=cache,
        workers=workers,
        progress=lambda done, total: progress("index", done, total),
    )
    if fetched:
        cache.keep_within_limit()
    return index, len(fetched)


def _guesser(mode: str, phrases: Sequence[str], loading: _Loading) -> Interrogator:
    return load_interrogator(
        mode,
        phrases=phrases,
        cache_dir=loading.cache_dir,
        offline=loading.offline,
        device=loading.device,
    )


def _encoder_of(matched: Sequence[IndexEntry], hub: Hub, loading: _Loading) -> Encoder:
    """The encoder of the largest group of comparable models, the hub's own copy where it has one.

    Raises IncomparableSpecsError where what that name loads is not what made the specifications.
    """
    from gmi_registry.encoders import EncoderName, load_encoder

    groups = Counter(entry.key for entry in matched)
    largest = max(groups, key=lambda key: (groups[key], str(key)))
    first = next(entry for entry in matched if entry.key == largest)
    try:
        name = EncoderName.parse(first.encoder)
    except InputError as error:
        raise IncomparableSpecsError(
            f"{first.model} and {groups[largest] - 1} others name an encoder that cannot be "
            f"loaded: {error.message}",
            hint="give the encoder that made them: search(..., encoder=...)",
        ) from None
    encoder = load_encoder(
        *name,
        hub.fetch_encoder(*name),
        cache_dir=loading.cache_dir,
        offline=loading.offline,
        device=loading.device,
    )
    if encoder.ref.id != largest.encoder_id:
        raise IncomparableSpecsError(
            f"the encoder {name} that was loaded is not the one that made the specifications: "
            f"{_difference(encoder.ref, first, hub)}",
            hint="put the encoder that they name into the hub, or publish the models again",
        )
    return encoder


def _difference(found: EncoderRef, entry: IndexEntry, hub: Hub) -> str:
    """In what the encoder differs from the one that the specification of ``entry`` names."""
    try:
        folder = hub.fetch_spec(entry.model).parent
        stated = read_manifest(folder, follow_links=makes_links(hub)).encoder
    except GmiError:  # it was there a moment ago, and is wanted for this message alone
        return f"id {found.id}, not {entry.key.encoder_id}"
    if found.weights_sha256 != stated.weights_sha256:
        return f"weights {found.weights_sha256[:12]}, not {stated.weights_sha256[:12]}"
    ours, theirs = found.known(), stated.known()
    return "the same weights with another " + ", ".join(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
