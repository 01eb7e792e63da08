"""The identification stage: from images, words or a model to the models of a hub that are near.

:func:`search` is the whole stage in one place. Images never leave this machine, and nothing is read
of a model but its two small files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL.Image import Image

from gmi_registry.answer import SearchResult, asked
from gmi_registry.clock import Clock, Progress, Stage, Timings
from gmi_registry.encoders.protocol import Encoder
from gmi_registry.equipment import Equipment
from gmi_registry.freshness import Freshness
from gmi_registry.hubs.protocol import Hub, Listing, ListingFilter
from gmi_registry.index import (
    Filters,
    ImageQuestion,
    IndexedSpec,
    ModelQuestion,
    Question,
    Ranking,
    Selection,
    SpecCache,
    SpecIndex,
    SpecSource,
    Standing,
    TextQuestion,
    Wording,
    answer,
)
from gmi_registry.interrogators import Interrogator
from gmi_registry.place import find_spec, makes_links
from gmi_registry.request import ImageSource, Request
from gmi_registry.scoring import Query, score_named
from gmi_registry.spec import ModelRef, Spec, read_spec

__all__ = [
    "WORKERS",
    "ImageSource",
    "Progress",
    "Remote",
    "SearchResult",
    "Stage",
    "Timings",
    "search",
]

WORKERS = 8
"""Specifications read at a time, which a hub across a network answers faster than one by one."""


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


def search(
    images: Sequence[ImageSource],
    hub: Hub,
    *,
    like: str | Path | None = None,
    not_like: Sequence[ImageSource] = (),
    style: str | None = None,
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

    Without images, to the words of ``prompt``, or to the images of the model ``like``, a name on
    ``hub`` or a folder with a specification, which is left out of the answer. With images
    ``prompt`` says what they show, without it ``interrogator`` may guess; ``style`` says how they
    should look, and is compared with the models' images; models that may have made a picture of
    ``not_like``, which is not wanted, move back.

    Only models that pass ``wanted`` are compared, and ``top`` are shown of each group (None: all).
    A model whose weights are no longer those that were described is marked as stale, and follows
    the fresh ones that are equally near; ``fresh_only`` leaves it out.

    Specifications that were read once are kept in ``cache_dir`` under their digests, and are read
    again only when they change; weights of encoders that the hub does not hold lie in ``hub`` in
    it. None is this user's cache, and huggingface_hub's. ``encoder`` is by default the one that
    most of the specifications were made with, on ``device``; ``like`` needs none. ``workers``
    specifications are read at a time, which changes nothing in the answer. ``offline`` keeps
    encoders and interrogators from the network; the hub has a setting of its own, which implies it.

    A specification that cannot be used is in ``skipped`` with the reason; where none is left, or
    none passes the filter, the result is empty. Raises InputError for an image, score or prompt
    that cannot be used, and for parts that do not go together; SpecNotFoundError or another error
    of its hub for ``like``; IncomparableSpecsError where the encoder is not the one that made the
    specifications, OfflineError where its weights are not at hand, and whatever error the hub has
    for the listing as a whole.
    """
    wanted = wanted or ListingFilter()
    clock = Clock(progress)
    score_named(score)
    request = Request.of(
        images,
        not_like,
        prompt=prompt,
        like=like,
        style=style,
        interrogator=interrogator,
        score=score,
    )
    remote = hub if isinstance(hub, Remote) else None
    before = {} if remote is None else remote.traffic.methods
    equipment = Equipment(
        None if cache_dir is None else cache_dir / "hub",
        offline or (remote is not None and remote.offline),
        device,
    )
    question: Question | None = None
    compared_by = None if encoder is None else encoder.ref
    if request.like is not None:
        clock.begin("query")
        exemplar = _specification(request.like, hub)
        question, compared_by = ModelQuestion(IndexedSpec.of(exemplar)), exemplar.manifest.encoder

    clock.begin("list")
    listings, looked_at = _listed(hub, wanted)
    clock.begin("index")
    index, read = _indexed(hub, listings, cache_dir, workers, progress)

    filters = Filters(
        wanted.tags, wanted.not_tags, wanted.base_model, wanted.kind, nsfw=wanted.nsfw
    )
    leave_out = None if question is None else question.about
    matched = index.select(filters, leave_out)
    ranking = Ranking((), index.skipped, looked_at, 0)
    left_out = 0
    if matched:
        if question is None:
            clock.begin("encoder")
            encoder = equipment.encoder_of(matched, hub) if encoder is None else encoder
            compared_by = encoder.ref
            clock.begin("query")
            question = _question(request, encoder, matched, equipment, interrogator, score)
        clock.begin("rank")
        freshness = Freshness(hub, workers)
        chosen = replace(filters, fresh_only=fresh_only)
        ranking = answer(index, index.select(chosen, leave_out), question, top=top)
        # What takes the place of a stale model may be stale as well.
        while freshness.learn(index, ranking):
            ranking = answer(index, index.select(chosen, leave_out), question, top=top)
        left_out = sum(map(len, matched)) - ranking.matched
    clock.end()
    return SearchResult(
        groups=ranking.groups,
        skipped=ranking.skipped,
        looked_at=looked_at,
        matched=ranking.matched,
        stale_left_out=left_out,
        **asked(request, question, interrogator, score),
        encoder=compared_by,
        read=read,
        from_cache=len(listings) - read,
        requests=None if remote is None else _since(before, remote.traffic.methods),
        offline=equipment.offline,
        catalogue_age=remote.catalogue_age if remote is not None and remote.offline else None,
        timings=clock.timings,
    )


def _question(
    request: Request,
    encoder: Encoder,
    matched: Sequence[Selection],
    equipment: Equipment,
    interrogator: str,
    score: str,
) -> Question:
    from gmi_registry.query import build_query, embed_text, logit_scale

    if request.text is not None:
        return TextQuestion(embed_text(request.text, encoder), encoder.ref.id)
    style = None
    if request.style is not None:
        style = Wording(embed_text(request.style, encoder), logit_scale(encoder))
    guess: str | Interrogator = interrogator
    if request.prompt is None:
        prompts = tuple(dict.fromkeys(text for part in matched for text in part.first.prompts))
        guess = equipment.interrogator(interrogator, prompts)

    def query(pictures: Sequence[Image]) -> Query:
        return build_query(pictures, encoder, interrogator=guess, prompt=request.prompt)

    unwanted = query(request.unwanted) if request.unwanted else None
    return ImageQuestion(query(request.pictures), score_named(score), unwanted, style)


def _since(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    counts = {method: count - before.get(method, 0) for method, count in sorted(now.items())}
    return {method: count for method, count in counts.items() if count}


def _specification(like: str, hub: Hub) -> Spec:
    place = find_spec(like, hub)
    return read_spec(place.folder, expected=place.expected, follow_links=place.follow_links)


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

        return SpecSource(
            listing.ref,
            load,
            digest=listing.spec_digest,
            stamp=listing.stamp,
            standing=Standing(listing.stale, listing.trust, listing.stamp, listing.tags),
        )

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
