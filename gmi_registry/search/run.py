"""The search stage: from images, words or a model to the models of a hub that are near.

:func:`search` is the whole stage in one place. Images never leave this machine, and nothing is read
of a model but its two small files, or the rows of an index that were made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from gmi_registry.atomic import user_cache
from gmi_registry.background import known_universal
from gmi_registry.errors import OfflineError, UnsupportedOperationError
from gmi_registry.hubs.open import HubAccess
from gmi_registry.hubs.protocol import SearchableHub, with_base_names
from gmi_registry.index import IndexQuery, ModelQuery, Ranking, SpecCache, rank_groups
from gmi_registry.search.query import ModelLoader, make_query, open_images, stated_reference
from gmi_registry.search.result import Progress, SearchResult, StageTimer, query_fields
from gmi_registry.search.source import Freshness, SearchSource, find_exemplar, with_present_names

if TYPE_CHECKING:
    from gmi_registry.encoders.encoder import Encoder
    from gmi_registry.index.qdrant import QdrantIndex
    from gmi_registry.search.request import SearchRequest
    from gmi_registry.spec.reference import HubName


class CountsRequests(Protocol):
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
    def traffic(self) -> CountsRequests: ...

    @property
    def catalogue_age(self) -> float | None: ...


def search(
    request: SearchRequest,
    hub: SearchableHub,
    access: HubAccess | None = None,
    *,
    encoder: Encoder | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> SearchResult:
    """Rank the models of ``hub`` by how near their images are to what ``request`` asks for.

    Specifications that were read once are kept in ``access.cache_dir`` under their digests, and are
    read again only when they change; weights of encoders that the hub does not hold lie in ``hub``
    in it. None is this user's cache, and huggingface_hub's. ``access.offline`` keeps encoders and
    interrogators from the network; the hub has a setting of its own, which implies it. ``encoder``
    is by default the one that most of the specifications were made with; a query by a model needs
    none.

    A model whose weights are no longer those that were described is marked as stale, and follows
    the fresh ones that are equally near. With an index nobody is asked whether models have changed
    since, unless ``request.fresh_only`` wants to know. A specification that cannot be used is in
    ``skipped`` with the reason; where none is left, or none passes the filter, the result is empty.

    Raises InputError for an image or interrogator that cannot be used; SpecNotFoundError or another
    error of its hub for ``request.like``; IncomparableSpecsError where the encoder is not the one
    that made the specifications, OfflineError where its weights are not at hand, and whatever error
    the hub has for the listing as a whole, or opening the index that was named.
    """
    access = access or HubAccess()
    timer = StageTimer(progress)
    remote = hub if isinstance(hub, Remote) else None
    offline = bool(access.offline) or (remote is not None and remote.offline)
    access = replace(access, offline=offline or None)
    cache_dir = user_cache(access.cache_dir)

    # All that can be told without the hub, before it is asked for anything.
    images, unwanted = open_images(request.images), open_images(request.not_like)
    loader = ModelLoader.checked(request, encoder, access.cache_dir, offline)
    requests_before = {} if remote is None else remote.traffic.methods

    query: IndexQuery | None = None
    encoder_ref = None if encoder is None else stated_reference(encoder)
    cache = SpecCache(cache_dir)
    timer.begin("list")
    if request.names_server:
        with _open_server(request, offline=offline) as server:
            timer.begin("encoder")
            encoder = encoder or loader.encoder_like(server.encoder, str(request.index), hub)
            encoder_ref = stated_reference(encoder)
            timer.begin("query")
            guess = loader.interrogator(request, ())
            query = make_query(request, images, unwanted, encoder, guess, cache)
            timer.begin("rank")
            group = server.answer(
                query,
                with_base_names(request.filters, hub, tuple),
                hub=cast("HubName", hub.name),
                top=request.top,
                repeats=request.repeats,
            )
            ranking = Ranking((group,) if group.hits else (), (), len(server), group.members)
            looked_at, listed, read, stale = len(server), group.members, 0, 0
        index_name: str | None = str(request.index)
    else:
        with SearchSource.open(request, hub, cache_dir, progress) as source:
            if request.like is not None:
                exemplar, encoder_ref = find_exemplar(request.like, hub, access, source.index)
                query = ModelQuery(exemplar)

            # The specifications in memory, or the rows of the index, that pass the filter.
            specs = source.load(request.filters, timer)
            leave_out = None if query is None else query.about
            filters = with_base_names(request.filters, hub, specs.base_models)
            matching = specs.select(filters, leave_out)
            ranking = Ranking((), tuple(specs.skipped), source.looked_at, 0)

            if matching and query is None:
                timer.begin("encoder")
                encoder = encoder or loader.encoder_of(
                    matching, hub, text_alone=request.text is not None
                )
                encoder_ref = stated_reference(encoder)
                timer.begin("query")
                phrases = dict.fromkeys(text for part in matching for text in part.first.prompts)
                guess = loader.interrogator(request, tuple(phrases))
                query = make_query(request, images, unwanted, encoder, guess, cache)

            if matching and query is not None:
                timer.begin("rank")
                freshness = Freshness(hub, request.workers, may_be_old=source.index is not None)
                while True:
                    ranking = rank_groups(
                        specs,
                        specs.select(replace(filters, fresh_only=request.fresh_only), leave_out),
                        query,
                        top=request.top,
                        repeats=request.repeats,
                        universal=lambda group: known_universal(group, cache),
                    )
                    # With an index that would cost what it saves. Else: what takes the place of a
                    # stale model may be stale as well.
                    if source.index is not None and not request.fresh_only:
                        break
                    if not freshness.learn(specs, ranking):
                        break
            stale = sum(map(len, matching)) - ranking.matched
            ranking = with_present_names(ranking, hub)
        looked_at, listed, read = source.looked_at, source.listed, source.read
        index_name = None if source.index is None else source.index.name
    timer.end()
    return SearchResult(
        groups=ranking.groups,
        skipped=ranking.skipped,
        looked_at=looked_at,
        matched=ranking.matched,
        stale_left_out=stale,
        read=read,
        from_cache=listed - read,
        **query_fields(request, query),
        encoder_ref=encoder_ref,
        index=index_name,
        requests=None if remote is None else _since(requests_before, remote.traffic.methods),
        offline=offline,
        catalogue_age=remote.catalogue_age if remote is not None and remote.offline else None,
        timings=timer.timings,
    )


@contextmanager
def _open_server(request: SearchRequest, *, offline: bool) -> Iterator[QdrantIndex]:
    """The collection that ``request`` names, for the block.

    Raises UnsupportedOperationError for what a server cannot answer or tell, OfflineError, and what
    :meth:`.QdrantIndex.open` raises.
    """
    from gmi_registry.index.qdrant import Location, QdrantIndex

    url = str(request.index)
    if request.like is not None or request.text is not None:
        raise UnsupportedOperationError(
            f"{url} answers only to images",
            hint="search with an image, or with the files of the index: --index DIR",
        )
    if request.fresh_only:
        raise UnsupportedOperationError(
            f"{url} does not know which models have changed",
            hint="search without --fresh-only, or with the files of the index: --index DIR",
        )
    place = Location.parse(url)
    if offline and not place.is_here:
        raise OfflineError(
            f"{url} is across the network, which is switched off",
            hint="search without --offline, or with the files of the index: --index DIR",
        )
    with QdrantIndex.open(place) as served:
        yield served


def _since(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    counts = {method: count - before.get(method, 0) for method, count in sorted(now.items())}
    return {method: count for method, count in counts.items() if count}
