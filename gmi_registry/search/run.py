"""The search stage: from images, words or a model to the models of a hub that are near.

:func:`search` is the whole stage in one place. Images never leave this machine, and nothing is read
of a model but its two small files, or the rows of an index that were made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from PIL.Image import Image

from gmi_registry.background import known_universal
from gmi_registry.device import require_device
from gmi_registry.encoders.protocol import Encoder
from gmi_registry.errors import InputError, OfflineError, UnsupportedOperationError
from gmi_registry.filters import Filters
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.protocol import Hub, knows_names, with_base_names
from gmi_registry.hubs.resolve import find_model, find_spec, hub_named_in, is_folder, registry_of
from gmi_registry.index import (
    ImageQuestion,
    IndexedSpec,
    ModelQuestion,
    Question,
    Ranking,
    SpecCache,
    TextQuestion,
    Wording,
    answer,
)
from gmi_registry.interrogators import Interrogator, require_interrogator
from gmi_registry.scoring import Query, score_named
from gmi_registry.search.loading import ModelLoader
from gmi_registry.search.request import ImageSource, Request
from gmi_registry.search.result import (
    Progress,
    SearchResult,
    StageTimer,
    query_fields,
)
from gmi_registry.search.source import (
    REGISTRY_INDEX,
    Freshness,
    HubIndex,
    LoadedSpecs,
    SearchSource,
    with_present_names,
)
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.reference import HubName

_SCHEME = "qdrant://"


def is_served(index: str | Path) -> bool:
    """Whether an index is named that lies on a server."""
    return isinstance(index, str) and index.startswith(_SCHEME)


@dataclass(frozen=True)
class SearchOutcome:
    """The ranking, with the question and the encoder that led to it where it came to that.

    The numbers are those of :class:`.SearchResult`; ``listed`` is ``read`` and ``from_cache``
    together."""

    ranking: Ranking
    question: Question | None
    encoder: EncoderRef | None
    looked_at: int
    listed: int
    read: int = 0
    left_out: int = 0
    index: str | None = None


@dataclass(frozen=True)
class SearchRun:
    """One search: what it asks, of whom, and with what."""

    request: Request
    hub: Hub
    wanted: Filters
    equipment: ModelLoader
    clock: StageTimer
    encoder: Encoder | None
    score: str
    interrogator: str
    top: int | None
    repeats: bool
    cache_dir: Path
    progress: Progress

    def by_rows(self, gathering: SearchSource, *, fresh_only: bool) -> SearchOutcome:
        """With the specifications at hand, or the rows of an index."""
        question: Question | None = None
        compared_by = None if self.encoder is None else self.encoder.ref
        with gathering.opened(self.progress) as known:
            if self.request.like is not None:
                exemplar, compared_by = self._exemplar(self.request.like, known)
                question = ModelQuestion(exemplar)
            found = self._gathered(gathering, known)
            leave_out = None if question is None else question.about
            filters = with_base_names(self.wanted, self.hub, found.index.base_models)
            matched = found.index.select(filters, leave_out)
            if not matched:
                none = Ranking((), tuple(found.index.skipped), found.looked_at, 0)
                return self._sought(none, question, compared_by, found)
            if question is None:
                self.clock.begin("encoder")
                encoder = self.encoder or self.equipment.encoder_of(
                    matched, self.hub, text_alone=self.request.text is not None
                )
                compared_by = encoder.ref
                prompts = dict.fromkeys(text for part in matched for text in part.first.prompts)
                question = self._question(encoder, tuple(prompts))
            self.clock.begin("rank")
            asking, cache = question, SpecCache(gathering.cache_dir)

            def ranked() -> Ranking:
                chosen = replace(filters, fresh_only=fresh_only)
                selections = found.index.select(chosen, leave_out)
                return answer(
                    found.index,
                    selections,
                    asking,
                    top=self.top,
                    repeats=self.repeats,
                    universal=lambda stack: known_universal(stack, cache),
                )

            ranking = ranked()
            freshness = Freshness(self.hub, gathering.workers, may_be_old=known is not None)
            # With an index that would cost what it saves. Else: what takes the place of a stale
            # model may be stale as well.
            while (fresh_only or known is None) and freshness.learn(found.index, ranking):
                ranking = ranked()
            left_out = sum(map(len, matched)) - ranking.matched
            ranking = with_present_names(ranking, self.hub)
            return self._sought(ranking, question, compared_by, found, left_out)

    def by_server(self, url: str, *, fresh_only: bool) -> SearchOutcome:
        """With the collection at ``url``.

        Raises UnsupportedOperationError for what a server cannot answer or tell, and what
        :meth:`.ServedIndex.open` and :meth:`.ServedIndex.answer` raise.
        """
        from gmi_registry.index.served import Place, ServedIndex

        if self.request.like is not None or self.request.text is not None:
            raise UnsupportedOperationError(
                f"{url} answers to images alone",
                hint="search with an image, or with the files of the index: --index DIR",
            )
        if fresh_only:
            raise UnsupportedOperationError(
                f"{url} does not know which models have changed since",
                hint="search without --fresh-only, or with the files of the index: --index DIR",
            )
        place = Place.parse(url)
        if self.equipment.offline and not place.is_here:
            raise OfflineError(
                f"{url} is across the network, which is switched off",
                hint="search without --offline, or with the files of the index: --index DIR",
            )
        with ServedIndex.open(place) as served:
            self.clock.begin("encoder")
            encoder = self.encoder or self.equipment.encoder_like(served.encoder, url, self.hub)
            question = self._question(encoder, ())
            self.clock.begin("rank")
            hub = cast("HubName", self.hub.name)
            named = with_base_names(self.wanted, self.hub, tuple)
            group = served.answer(question, named, hub=hub, top=self.top, repeats=self.repeats)
            groups = (group,) if group.hits else ()
            ranking = Ranking(groups, (), len(served), group.members)
            found = len(served)
        return SearchOutcome(ranking, question, encoder.ref, found, group.members, index=url)

    def _gathered(self, gathering: SearchSource, known: HubIndex | None) -> LoadedSpecs:
        if known is not None:
            return LoadedSpecs(known, len(known), len(known), 0, known.name)
        listings, looked_at = gathering.one_by_one(self.wanted)
        self.clock.begin("index")
        return gathering.read(
            listings, looked_at, lambda done, total: self.progress("index", done, total)
        )

    def _exemplar(self, like: str, index: HubIndex | None) -> tuple[IndexedSpec, EncoderRef]:
        """The model that others are to be near, out of the index where it has it."""
        here = hub_named_in(like) in (None, self.hub.name)
        if index is not None and here and not is_folder(like):
            ref = find_model(like, self.hub)
            hub = knows_names(self.hub)
            for name in dict.fromkeys([ref] if hub is None else [ref, hub.name_now(ref)]):
                known = index.exemplar(name)
                if known is not None:
                    return known
        cache = self.equipment.cache_dir
        # A model of another hub is as good a question as one of this hub.
        access = HubAccess(
            cache_dir=None if cache is None else cache.parent,
            offline=self.equipment.offline or None,
            registry=None if here else registry_of(self.hub),
        )
        place = find_spec(like, self.hub, access)
        spec = place.read()
        exemplar = IndexedSpec.of(spec)
        if place.model is not None:
            # Under the name that the hub lists it by, so that it is not its own neighbour.
            entry = exemplar.entry.found_at(
                replace(place.model, revision=exemplar.entry.model.revision), None
            )
            exemplar = replace(exemplar, entry=entry)
        return exemplar, spec.manifest.encoder

    def _question(self, encoder: Encoder, phrases: Sequence[str]) -> Question:
        from gmi_registry.search.query import OwnPrompts, build_query, embed_text, logit_scale

        self.clock.begin("query")
        request = self.request
        prompts = OwnPrompts(encoder, SpecCache(self.cache_dir))
        if request.text is not None:
            return TextQuestion(embed_text(request.text, encoder), encoder.ref.id, prompts)
        style = None
        if request.style is not None:
            style = Wording(embed_text(request.style, encoder), logit_scale(encoder))
        guess: str | Interrogator = self.interrogator
        if request.prompt is None:
            guess = self.equipment.interrogator(self.interrogator, phrases)

        def query(pictures: Sequence[Image]) -> Query:
            return build_query(pictures, encoder, interrogator=guess, prompt=request.prompt)

        unwanted = query(request.unwanted) if request.unwanted else None
        return ImageQuestion(
            query(request.pictures), score_named(self.score), unwanted, style, prompts
        )

    def _sought(
        self,
        ranking: Ranking,
        question: Question | None,
        encoder: EncoderRef | None,
        found: LoadedSpecs,
        left_out: int = 0,
    ) -> SearchOutcome:
        return SearchOutcome(
            ranking,
            question,
            encoder,
            found.looked_at,
            found.listed,
            found.read,
            left_out,
            found.name,
        )


WORKERS = 8
"""Specifications read at a time, which a hub across a network answers faster than one by one."""


class RequestCounter(Protocol):
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
    def traffic(self) -> RequestCounter: ...

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
    index: str | Path = REGISTRY_INDEX,
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
    clock = StageTimer(progress)
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
    equipment = ModelLoader(hub_cache, offline, device)
    place = cache_dir or _users_cache()
    seeking = SearchRun(
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
        gathering = SearchSource(hub, index, place, workers)
        done = seeking.by_rows(gathering, fresh_only=fresh_only)
    clock.end()
    return SearchResult(
        groups=done.ranking.groups,
        skipped=done.ranking.skipped,
        looked_at=done.looked_at,
        matched=done.ranking.matched,
        stale_left_out=done.left_out,
        **query_fields(request, done.question, interrogator, score),
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
