"""The identification stage: from images, words or a model to the models of a hub that are near.

:func:`search` is the whole stage in one place. Images never leave this machine, and nothing is read
of a model but its two small files, or the rows of an index that were made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from gmi_registry.answer import SearchResult, asked
from gmi_registry.clock import Clock, Progress, Stage, Timings
from gmi_registry.device import require_device
from gmi_registry.encoders.protocol import Encoder
from gmi_registry.equipment import Equipment
from gmi_registry.errors import InputError
from gmi_registry.filters import Filters
from gmi_registry.gathering import Gathering
from gmi_registry.hub_index import AUTO
from gmi_registry.hubs.protocol import Hub
from gmi_registry.interrogators import require_interrogator
from gmi_registry.request import ImageSource, Request
from gmi_registry.scoring import score_named
from gmi_registry.seeking import Seeking, is_served

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
    wanted: Filters | None = None,
    fresh_only: bool = False,
    score: str = "default",
    interrogator: str = "none",
    prompt: str | None = None,
    top: int | None = 10,
    repeats: bool = False,
    index: str | Path = AUTO,
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
    Models whose specifications repeat each other name each other, and only the best trusted of
    them, and of those the nearest, takes room from others; with ``repeats`` each of them does.
    A model whose weights are no longer those that were described is marked as stale, and follows
    the fresh ones that are equally near; ``fresh_only`` leaves it out.

    Specifications that were read once are kept in ``cache_dir`` under their digests, and are read
    again only when they change; weights of encoders that the hub does not hold lie in ``hub`` in
    it. None is this user's cache, and huggingface_hub's. ``encoder`` is by default the one that
    most of the specifications were made with, on ``device``; ``like`` needs none. ``workers``
    specifications are read at a time, which changes nothing in the answer. ``offline`` keeps
    encoders and interrogators from the network; the hub has a setting of its own, which implies it.

    ``index`` takes the place of the hub's listing and of what it holds: the folder of an index;
    ``auto``, the registry's where it has one that knows the hub; ``none``; or the URL of a
    collection on a Qdrant server, which answers to images alone, by the default score. With an
    index nobody is asked whether models have changed since, unless ``fresh_only`` wants to know.

    A specification that cannot be used is in ``skipped`` with the reason; where none is left, or
    none passes the filter, the result is empty. Raises InputError for an image, score or prompt
    that cannot be used, and for parts that do not go together; SpecNotFoundError or another error
    of its hub for ``like``; IncomparableSpecsError where the encoder is not the one that made the
    specifications, OfflineError where its weights are not at hand, and whatever error the hub has
    for the listing as a whole, or opening the index that was named.
    """
    wanted = wanted or Filters(nsfw=False)
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
    # All that can be told without the hub, before it is asked for anything.
    device = require_device(device)
    if device != "cpu" and encoder is None and request.like is None:
        from gmi_registry.encoders.onnx import require_processor

        require_processor(device)
    hub_cache = None if cache_dir is None else cache_dir / "hub"
    offline = offline or (remote is not None and remote.offline)
    if request.pictures and prompt is None:
        require_interrogator(interrogator, cache_dir=hub_cache, offline=offline)
    if top is not None and top < 1:
        raise InputError(f"the first {top} models are none", hint="give a top of at least 1")
    if workers < 1:
        raise InputError(f"{workers} workers read nothing", hint="give at least 1")
    before = {} if remote is None else remote.traffic.methods
    equipment = Equipment(hub_cache, offline, device)
    place = cache_dir or _users_cache()
    seeking = Seeking(
        request,
        hub,
        wanted,
        equipment,
        clock,
        encoder,
        score,
        interrogator,
        top,
        repeats,
        place,
        progress,
    )
    clock.begin("list")
    if is_served(index):
        done = seeking.by_server(str(index), fresh_only=fresh_only)
    else:
        gathering = Gathering(hub, index, place, workers)
        done = seeking.by_rows(gathering, fresh_only=fresh_only)
    clock.end()
    return SearchResult(
        groups=done.ranking.groups,
        skipped=done.ranking.skipped,
        looked_at=done.looked_at,
        matched=done.ranking.matched,
        stale_left_out=done.left_out,
        **asked(request, done.question, interrogator, score),
        encoder=done.encoder,
        read=done.read,
        from_cache=done.listed - done.read,
        index=done.index,
        requests=None if remote is None else _since(before, remote.traffic.methods),
        offline=equipment.offline,
        catalogue_age=remote.catalogue_age if remote is not None and remote.offline else None,
        timings=clock.timings,
    )


def _since(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    counts = {method: count - before.get(method, 0) for method, count in sorted(now.items())}
    return {method: count for method, count in counts.items() if count}


def _users_cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("gmi-registry", appauthor=False)
