"""Searching an index on a Qdrant server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import (
    GmiError,
    IncomparableSpecsError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
    UnsupportedOperationError,
)
from gmi_registry.filters import Clause, Filters
from gmi_registry.index.entry import ComparabilityKey, GroupRanking, IndexEntry
from gmi_registry.index.groups import HeldPrompts, ModelGroup, Selection
from gmi_registry.index.qdrant.connection import Connection, Location, load_again
from gmi_registry.index.qdrant.points import (
    CollectionMetadata,
    PointPayload,
    fetch_metadata,
    images_id,
    point_id,
    unpacked_images,
)
from gmi_registry.index.queries import (
    ImageQuery,
    IndexQuery,
    PromptValues,
    Shortlist,
    check_width,
)
from gmi_registry.index.rank import rank_group
from gmi_registry.scoring import DEFAULT_SCORE, SCORES, Candidates, WithinScatter
from gmi_registry.scoring.kernels import Floats
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.reference import HubName

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Condition, Filter, Record, ScoredPoint


COMPETING = 4096
"""Confidences are shared out among this many of the nearest models at most, or all that the hits
need."""

_NEAREST = 256
_NEGLIGIBLE = 0.001
"""Of all chance: models that have no more of it together are not asked for."""
_EXACT = 1_000_000
"""Up to here every model is compared, which takes a server a tenth of a second at most and finds
the same each time; beyond it Qdrant's graph is asked, as widely as makes up for what it misses."""
_GRAPH_WIDTH = 1024
# Points in one request.
_IMAGES = 32
_VECTORS = 1024
_MORE = 4
_TRIES = 3


def condition(filters: Filters, hub: HubName | None) -> Filter | None:
    """Lets through what ``filters`` does, on ``hub`` (None for any), and no points but those of
    models; None where all models pass. Looks at the fields of
    :data:`~gmi_registry.index.qdrant.points.FILTERED`."""
    from qdrant_client import models

    wanted = [_condition(clause) for clause in filters.clauses if clause.wanted]
    refused = [_condition(clause) for clause in filters.clauses if not clause.wanted]
    if hub is not None:
        wanted.append(_any_of("hub", (hub,)))
    elif not (wanted or refused):
        return None
    else:
        wanted.append(_any_of("hub", get_args(HubName)))
    return models.Filter(must=wanted, must_not=refused)


def _condition(clause: Clause) -> Condition:
    from qdrant_client import models

    if clause.words == ("mature",) and clause.field == "mark":
        # A point says of every model what its specification does; Civitai alone rates.
        return models.Filter(
            must=[_any_of("hub", ("civitai",)), _any_of("folded.marks", ("nsfw",))]
        )
    name = {"tag": "tags", "base_model": "base_model", "kind": "kind", "mark": "marks"}
    return _any_of(f"folded.{name[clause.field]}", clause.words)


def _any_of(field: str, words: tuple[str, ...]) -> Condition:
    from qdrant_client import models

    match = models.MatchValue(value=words[0]) if len(words) == 1 else models.MatchAny(any=[*words])
    return models.FieldCondition(key=field, match=match)


class PointSearch:
    """One search for ``images`` [B, D] among the models that pass ``passing``.

    The mean of the squared distances to B images is that to their middle, plus how far they lie
    from it, which is the same for all models: one search does for any number of images. With
    ``exact`` every model is compared, else the graph is asked.
    """

    def __init__(
        self,
        connection: Connection,
        shared: CollectionMetadata,
        images: Floats,
        passing: Filter | None,
        *,
        exact: bool,
    ) -> None:
        self._connection = connection
        self._shared = shared
        self._passing = passing
        self._exact = exact
        styles = shared.styles(images)
        self._middle = styles.mean(axis=0)
        self._spread = float(np.square(styles - self._middle).sum(axis=1).mean())

    def __call__(self, limit: int, *, after: int = 0) -> list[ScoredPoint]:
        """The nearest ``limit`` points behind the first ``after``, nearest first; their payloads
        only where ``after`` is 0. Raises as :meth:`Connection.ask` does."""
        if not limit:
            return []
        from qdrant_client import models

        width = max(_GRAPH_WIDTH, after + limit)
        return self._connection.ask(
            self._connection.client.query_points,
            self._shared.header.collection,
            query=self._middle.tolist(),
            using="style",
            query_filter=self._passing,
            search_params=models.SearchParams(exact=self._exact, hnsw_ef=width),
            limit=limit,
            offset=after,
            with_payload=not after,
        ).points

    def distances(self, points: Sequence[ScoredPoint]) -> Floats:
        """Those of the default score: [R]. Raises SpecFormatError where one is no number."""
        with np.errstate(over="ignore"):
            squares = np.square([point.score for point in points], dtype=np.float64)
        if not np.isfinite(squares).all():
            raise _damaged(self._connection, "gives a distance that is none")
        return squares + (self._spread - self._shared.header.excess)


class ServedGroup(ModelGroup):
    """The R models that a search found, whose distances are known already.

    Images, and the vectors by which the server compares models, are fetched for the asking. Means,
    statistics and what other scores want stay on the server: asking for them raises
    UnsupportedOperationError.
    """

    def __init__(
        self, connection: Connection, shared: CollectionMetadata, entries: Sequence[IndexEntry]
    ) -> None:
        self.key = shared.key
        self._connection = connection
        self._shared = shared
        self._entries = entries

    @property
    def entries(self) -> Sequence[IndexEntry]:
        return self._entries

    @cached_property
    def names(self) -> list[str]:
        return [str(entry.ref) for entry in self.entries]

    @property
    def digest(self) -> str:
        raise unserved("what all members are")

    @property
    def prompts(self) -> tuple[str, ...]:
        return self._shared.header.prompts

    def prompts_held(self, rows: Sequence[int]) -> Sequence[HeldPrompts]:
        return [(self._shared.prompt_embeddings, np.arange(len(rows)))]

    @property
    def text_dim(self) -> int:
        return int(self._shared.prompt_embeddings.shape[-1])

    @property
    def image_dim(self) -> int:
        return self._shared.image_dim

    @property
    def temperature(self) -> float:
        return self._shared.header.temperature

    @property
    def means(self) -> Floats:
        raise unserved("means")

    @property
    def scatter(self) -> WithinScatter:
        raise unserved("statistics")

    def grams(self, rows: Sequence[int]) -> NDArray[np.float32]:
        raise unserved("all embeddings")

    def downloads(self, rows: Sequence[int]) -> NDArray[np.float64]:
        raise unserved("all embeddings")

    def candidates(
        self, rows: Sequence[int], prompt_embeddings: Floats, *, grams: bool = True
    ) -> Candidates:
        raise unserved("all embeddings")

    def whitened(self, rows: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        shared = self._shared
        ids = [point_id(self.entries[row].ref) for row in rows]
        found: dict[str, object] = {}
        for record in self._retrieved(ids, _VECTORS, with_payload=False, with_vectors=["style"]):
            vectors = record.vector
            found[str(record.id)] = vectors.get("style") if isinstance(vectors, dict) else None
        styles = np.full((len(ids), self.image_dim), np.nan)
        for place, name in enumerate(ids):
            style = np.asarray(found.get(name), np.float64)
            if style.shape == styles.shape[1:]:
                styles[place] = style
        if not np.isfinite(styles).all():
            raise _damaged(self._connection, "holds no vector of a model that fits the others")
        return styles + shared.centre.astype(np.float64) @ shared.whitening, shared.header.excess

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        chosen = range(len(self.entries)) if rows is None else rows
        wanted = [self.entries[row].ref for row in chosen]
        shape = (len(self.image_prompt), self.image_dim)
        ids = [images_id(model) for model in wanted]
        found = {str(record.id): record.payload for record in self._retrieved(ids, _IMAGES)}
        arrays = []
        for model, name in zip(wanted, ids, strict=True):
            array = unpacked_images(found.get(name), shape)
            if array is None:
                reason = f"holds no images of {model} that fit the others"
                raise _damaged(self._connection, reason)
            arrays.append(array)
        return np.stack(arrays)

    def _retrieved(self, ids: Sequence[str], at_once: int, **options: Any) -> Iterator[Record]:
        """The points of these ``ids``, so many in a request."""
        retrieve, name = self._connection.client.retrieve, self._shared.header.collection
        for start in range(0, len(ids), at_once):
            some = ids[start : start + at_once]
            yield from self._connection.ask(retrieve, name, some, **options)


@dataclass(frozen=True, eq=False)
class ServedQuery(IndexQuery):
    """``query``, where the server has measured the ``known`` distances [R] of a shortlist,
    nearest first, and those of models ``beyond`` it, which compete for chances."""

    query: ImageQuery
    known: Floats
    beyond: Floats = field(default_factory=lambda: np.empty(0))

    def most_beyond(self, models: int, temperature: float) -> float:
        """The largest share of all chance that so many ``models`` can have that are no nearer than
        the last of the shortlist: in 0..1."""
        images = len(self.query.images.image_embeddings)
        weights = np.exp((self.known[0] - self.known) * (images / (2 * temperature)))
        most = models * float(weights[-1])
        return most / (most + float(weights.sum()))

    @property
    def encoder_id(self) -> str:
        return self.query.encoder_id

    def distances(self, group: ModelGroup, rows: Sequence[int]) -> Floats:
        return np.asarray(self.known[np.asarray(rows, np.intp)])

    def shortlist(self, group: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        return Shortlist.everything(self.distances(group, rows))

    def confidences(self, group: ModelGroup, distances: Floats) -> Floats | None:
        competing = np.concatenate([distances, self.beyond])
        chances = self.query.confidences(group, competing)
        return None if chances is None else chances[: len(distances)]

    def best_prompts(
        self, group: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        if count < 1 or not len(rows):
            return [()] * len(rows)
        return self.query.best_prompts(group, rows, count)

    def faults(self, group: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
        return self.query.faults(group, rows)


def unserved(what: str) -> UnsupportedOperationError:
    """The error for a search that wants more than a server of nearest neighbours can give."""
    return UnsupportedOperationError(
        f"an index on a Qdrant server answers by the default score without a prompt, not by {what}",
        hint="leave out what asks for it, or search the index files: gmi-search ... --index DIR",
    )


class QdrantIndex:
    """One group of models on a Qdrant server. Not safe for threads.

    Where :func:`~gmi_registry.index.qdrant.points.serve_into` puts another version in its place
    meanwhile, the next query is asked of that one; no answer mixes the two.
    """

    def __init__(self, connection: Connection, shared: CollectionMetadata) -> None:
        self._connection = connection
        self._shared = shared

    @classmethod
    def open(
        cls, target: str | Location | QdrantClient, *, collection: str | None = None
    ) -> QdrantIndex:
        """By its URL, ``qdrant://host:port/collection?tls=1``, or by an open client and the name
        of the ``collection``. A key is taken from the environment variable QDRANT_API_KEY.

        Raises InputError for what is no such URL, MissingExtraError without qdrant-client,
        HubError where no server answers, AuthError, SpecNotFoundError where the collection is not
        there, SpecFormatError where it is no index, UnsupportedVersionError where a newer version
        of this package loaded it.
        """
        connection = Connection.to(target, collection)
        try:
            return cls(connection, _current_metadata(connection))
        except GmiError:
            connection.close()
            raise

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._shared.header.models

    @property
    def key(self) -> ComparabilityKey:
        """What all models share."""
        return self._shared.key

    @property
    def encoder(self) -> EncoderRef:
        """The encoder of all specifications, which must encode the query too."""
        return self._shared.header.encoder

    @property
    def prompt_set(self) -> str:
        """The prompt set's name, for people."""
        return self._shared.header.prompt_set

    def answer(
        self,
        query: IndexQuery,
        filters: Filters | None = None,
        *,
        hub: HubName | None = None,
        top: int | None = 10,
        best_prompts: int = 3,
        repeats: bool = False,
    ) -> GroupRanking:
        """The models nearest to the query's images, as the index files would rank them.

        The server applies ``filters`` and ``hub``, None for any. ``top`` is the most hits, None for
        all; ``best_prompts`` the most prompts that each hit names. ``confidence`` is shared out
        among the nearest :data:`COMPETING` models that pass, or more where hits reach further, and
        not among all: it is too large by the chance of those behind them. ``versions`` are looked
        for among the nearest few hundred. ``repeats`` is that of :func:`.answer`.

        Raises UnsupportedOperationError for anything but a query by images, by the default
        score, without prompts, unwanted images or words for the style; IncomparableSpecsError for
        images of another encoder; InputError where ``top`` is not positive; and as :meth:`open`.
        """
        if top is not None and top < 1:
            raise InputError(f"the number of hits must be positive, not {top}")
        images = self._checked(query)
        passing = condition(filters or Filters(), hub)
        for attempt in range(_TRIES):
            try:
                return self._answer(images, passing, top, best_prompts, repeats)
            except SpecNotFoundError:
                # Another version has taken the place of the one that was open.
                if attempt == _TRIES - 1:
                    raise
                self._shared = _current_metadata(self._connection)
                images = self._checked(query)
        raise AssertionError("the last attempt returns or raises")

    def _checked(self, query: IndexQuery) -> ImageQuery:
        if not isinstance(query, ImageQuery):
            raise unserved("a text or a model")
        for unwelcome, what in (
            (query.score is not SCORES[DEFAULT_SCORE], "another score"),
            (query.images.has_prompts, "prompts that go with the images"),
            (query.unwanted is not None, "unwanted images"),
            (query.style is not None, "words for the style"),
        ):
            if unwelcome:
                raise unserved(what)
        shared = self._shared
        if query.encoder_id != shared.key.encoder_id:
            raise IncomparableSpecsError(
                f"{self._connection.address} holds specifications made with the encoder "
                f"{shared.encoder_name} ({shared.key.encoder_id[:8]}), the query was encoded with "
                f"{query.encoder_id[:8]}",
                hint="search with the encoder that the specifications name",
            )
        check_width("image", shared.image_dim, query.images.image_embeddings, query.encoder_id)
        return query

    def _answer(
        self,
        query: ImageQuery,
        passing: Filter | None,
        top: int | None,
        best_prompts: int,
        repeats: bool,
    ) -> GroupRanking:
        members = self._count(passing)
        search = self._search(query, passing)
        limit = members if top is None else max(_NEAREST, top + 1)
        while True:
            found, whole = self._ranked(query, search, members, limit, top, best_prompts, repeats)
            # Where models that repeat each other are shown, others may be behind them.
            shown = {hit.ref for hit in found.hits}
            crowded = any(other.ref in shown for hit in found.hits for other in hit.repeats)
            enough = len(found.hits) == top and found.hits[-1].margin is not None
            if whole or top is None or (enough and not crowded):
                return found
            limit *= _MORE

    def _ranked(
        self,
        query: ImageQuery,
        search: PointSearch,
        members: int,
        limit: int,
        top: int | None,
        best_prompts: int,
        repeats: bool,
    ) -> tuple[GroupRanking, bool]:
        """Of ``limit`` of the nearest models or more; and whether those are all."""
        shared = self._shared
        while True:
            points = search(min(limit, members))
            rows = [PointPayload.read(point.payload, self._connection.address) for point in points]
            # A model's versions make one hit, so that many of them may leave too few.
            found = len({row.ref.without_revision for row in rows})
            if len(rows) >= members or len(rows) < limit or (top is not None and found > top):
                break
            limit *= 2
        if not rows:
            prompt_set = shared.header.prompt_set
            return GroupRanking(shared.key, prompt_set, shared.encoder_name, 0, ()), True
        self._check(points, rows)
        entries = [row.entry(shared) for row in rows]
        group = ServedGroup(self._connection, shared, entries)
        measured = ServedQuery(query, search.distances(points))
        left = min(members, COMPETING) - len(rows)
        further, temperature = members - len(rows), shared.header.temperature
        if left > 0 and measured.most_beyond(further, temperature) > _NEGLIGIBLE:
            beyond = search.distances(search(left, after=len(rows)))
            measured = replace(measured, beyond=beyond)
        status = {str(row.ref.identity): row.status for row in rows}
        ranking = rank_group(
            Selection(group, range(len(rows))),
            measured,
            top=top,
            best_prompts=best_prompts,
            status=status.__getitem__,
            repeats=repeats,
        )
        whole = len(rows) >= members or len(rows) < limit
        return replace(ranking, members=max(members, len(rows))), whole

    def _count(self, passing: Filter | None) -> int:
        if passing is None:
            return self._shared.header.models
        client = self._connection.client
        return self._connection.ask(
            client.count, self._shared.header.collection, count_filter=passing, exact=True
        ).count

    def _search(self, query: ImageQuery, passing: Filter | None) -> PointSearch:
        images = query.images.image_embeddings
        exact = self._shared.header.models <= _EXACT
        return PointSearch(self._connection, self._shared, images, passing, exact=exact)

    def _check(self, points: Sequence[ScoredPoint], rows: Sequence[PointPayload]) -> None:
        names = [point_id(row.ref) for row in rows]
        if len({*names}) < len(names) or names != [str(point.id) for point in points]:
            raise _damaged(self._connection, "gives a model another's place")


def _current_metadata(connection: Connection) -> CollectionMetadata:
    """Of the collection that the name leads to now."""
    shared = fetch_metadata(connection, connection.collection)
    if shared is None:
        raise SpecFormatError(
            f"{connection.address} holds a collection {connection.collection!r} that is not an "
            f"index",
            hint="name another collection, or load an index: gmi index serve-into DIR URL",
        )
    return shared


def _damaged(connection: Connection, reason: str) -> SpecFormatError:
    return SpecFormatError(f"{connection.address} {reason}", hint=load_again(connection.address))
