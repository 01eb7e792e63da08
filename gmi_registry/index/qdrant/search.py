"""Searching an index on a Qdrant server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self, get_args

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
from gmi_registry.index.entry import ComparabilityKey, IndexEntry
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
from gmi_registry.index.queries import ImageQuery, IndexQuery, PromptValues, Shortlist
from gmi_registry.index.rank import rank_group
from gmi_registry.index.result import GroupRanking
from gmi_registry.scoring import DEFAULT_SCORE, SCORES, Candidates, WithinScatter
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.sweep import norm_range
from gmi_registry.spec import EncoderRef, ModelRef
from gmi_registry.spec.reference import HubName

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Condition, Filter, ScoredPoint


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


_GRAPH_WIDTH = 1024


class PointSearch:
    """One search for ``images`` [B, D] among the models that pass ``passing``.

    The mean of the squared distances to B images is that to their middle, plus how far they lie
    from it, which is the same for all models: one search does for any number of images. With
    ``exact`` every model is compared, else the graph is asked.
    """

    def __init__(
        self,
        connection: Connection,
        facts: CollectionMetadata,
        images: Floats,
        passing: Filter | None,
        *,
        exact: bool,
    ) -> None:
        self._connection = connection
        self._facts = facts
        self._passing = passing
        self._exact = exact
        styles = facts.styles(images)
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
            self._facts.collection,
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
            raise SpecFormatError(
                f"{self._connection.address} gives a distance that is none",
                hint=load_again(self._connection.address),
            )
        return squares + (self._spread - self._facts.excess)


Images = Callable[[Sequence[ModelRef]], NDArray[np.float16]]
Styles = Callable[[Sequence[ModelRef]], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class ServedGroup:
    """A :class:`~gmi_registry.index.ModelGroup` of R models whose distances are known already.

    ``fetch`` gives images [R, N, D] by reference, ``styles`` what
    :meth:`.CollectionMetadata.styles` says of their means [R, D]. Means, statistics and what other
    scores want stay on the server: asking for them raises UnsupportedOperationError.
    """

    facts: CollectionMetadata
    entries: Sequence[IndexEntry]
    fetch: Images
    styles: Styles

    @property
    def key(self) -> ComparabilityKey:
        return self.facts.key

    @cached_property
    def names(self) -> list[str]:
        return [str(entry.model) for entry in self.entries]

    @property
    def digest(self) -> str:
        raise unserved("what all members are")

    @property
    def prompts(self) -> tuple[str, ...]:
        return self.facts.prompts

    def prompts_held(self, rows: Sequence[int]) -> Sequence[HeldPrompts]:
        return [(self.facts.prompt_embeddings, np.arange(len(rows)))]

    @property
    def text_dim(self) -> int:
        return int(self.facts.prompt_embeddings.shape[-1])

    @property
    def image_prompt(self) -> NDArray[np.int32]:
        return self.facts.image_prompt

    @property
    def temperature(self) -> float:
        return self.facts.temperature

    @property
    def image_dim(self) -> int:
        return self.facts.image_dim

    @property
    def means(self) -> Floats:
        raise unserved("means")

    @property
    def scatter(self) -> WithinScatter:
        raise unserved("statistics")

    def whitened(self, rows: Sequence[int]) -> tuple[NDArray[np.float64], float]:
        facts = self.facts
        apart = self.styles([self.entries[row].model for row in rows])
        return apart + facts.centre.astype(np.float64) @ facts.whitening, facts.excess

    @property
    def estimator(self) -> None:
        # The server has measured them.
        return None

    def images(self, rows: Sequence[int] | None = None) -> NDArray[np.float16]:
        chosen = range(len(self.entries)) if rows is None else rows
        return self.fetch([self.entries[row].model for row in chosen])

    def portions(self, rows: Sequence[int]) -> Sequence[NDArray[np.intp]]:
        return [np.arange(len(rows))]

    def row_norms(self, rows: Sequence[int]) -> NDArray[np.float32]:
        return norm_range(self.images(rows))

    def files(self, rows: Sequence[int]) -> NDArray[np.intp]:
        return np.zeros(len(rows), np.intp)

    def at_hand(self, rows: Sequence[int]) -> bool:
        return True

    def candidates(
        self, rows: Sequence[int], prompt_embeddings: Floats, *, grams: bool = True
    ) -> Candidates:
        raise unserved("all embeddings")


@dataclass(frozen=True, eq=False)
class ServedQuery:
    """``question``, where the server has measured the ``known`` distances [R] of a shortlist,
    nearest first, and those of models ``beyond`` it, which compete for chances."""

    question: ImageQuery
    known: Floats
    beyond: Floats = field(default_factory=lambda: np.empty(0))

    def most_beyond(self, models: int, temperature: float) -> float:
        """The largest share of all chance that so many ``models`` can have that are no nearer than
        the last of the shortlist: in 0..1."""
        images = len(self.question.query.image_embeddings)
        weights = np.exp((self.known[0] - self.known) * (images / (2 * temperature)))
        most = models * float(weights[-1])
        return most / (most + float(weights.sum()))

    @property
    def encoder_id(self) -> str:
        return self.question.encoder_id

    @property
    def about(self) -> ModelRef | None:
        return None

    def distances(self, stack: ModelGroup, rows: Sequence[int]) -> Floats:
        return np.asarray(self.known[np.asarray(rows, np.intp)])

    def near(self, stack: ModelGroup, rows: Sequence[int], count: int) -> Shortlist:
        return Shortlist.everything(self.distances(stack, rows))

    def confidences(self, stack: ModelGroup, distances: Floats) -> Floats | None:
        competing = np.concatenate([distances, self.beyond])
        chances = self.question.confidences(stack, competing)
        return None if chances is None else chances[: len(distances)]

    def best_prompts(
        self, stack: ModelGroup, rows: Sequence[int], count: int
    ) -> Sequence[PromptValues]:
        if count < 1 or not len(rows):
            return [()] * len(rows)
        return self.question.best_prompts(stack, rows, count)

    def faults(self, stack: ModelGroup, rows: Sequence[int]) -> Sequence[str | None]:
        return self.question.faults(stack, rows)


def unserved(what: str) -> UnsupportedOperationError:
    """The error for a search that wants more than a server of nearest neighbours can give."""
    return UnsupportedOperationError(
        f"an index on a Qdrant server answers by the default score without a prompt, not by {what}",
        hint="leave out what asks for it, or search the index files: gmi-search ... --index DIR",
    )


COMPETING = 4096
"""Confidences are shared out among this many of the nearest models at most, or all that the hits
need."""

_NEAREST = 256
_NEGLIGIBLE = 0.001
"""Of all chance: models that have no more of it together are not asked for."""
_EXACT = 1_000_000
"""Up to here every model is compared, which takes a server a tenth of a second at most and finds
the same each time; beyond it Qdrant's graph is asked, as widely as makes up for what it misses."""
_POINTS_AT_ONCE = 32
_VECTORS = 1024
_MORE = 4
_TRIES = 3


class QdrantIndex:
    """One group of models on a Qdrant server. Not safe for threads.

    Where :func:`~gmi_registry.index.qdrant.upload.serve_into` puts another version in its place
    meanwhile, the next question is asked of that one; no answer mixes the two.
    """

    def __init__(self, connection: Connection, facts: CollectionMetadata) -> None:
        self._connection = connection
        self._facts = facts

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
        return self._facts.models

    @property
    def key(self) -> ComparabilityKey:
        """What all models share."""
        return self._facts.key

    @property
    def encoder(self) -> EncoderRef:
        """The encoder of all specifications, which must encode the query too."""
        return self._facts.encoder

    @property
    def prompt_set(self) -> str:
        """The prompt set's name, for people."""
        return self._facts.prompt_set

    def answer(
        self,
        question: IndexQuery,
        filters: Filters | None = None,
        *,
        hub: HubName | None = None,
        top: int | None = 10,
        best_prompts: int = 3,
        repeats: bool = False,
    ) -> GroupRanking:
        """The models nearest to the question's images, as the index files would rank them.

        The server applies ``filters`` and ``hub``, None for any. ``top`` is the most hits, None for
        all; ``best_prompts`` the most prompts that each hit names. ``confidence`` is shared out
        among the nearest :data:`COMPETING` models that pass, or more where hits reach further, and
        not among all: it is too large by the chance of those behind them. ``versions`` are looked
        for among the nearest few hundred. ``repeats`` is that of :func:`.answer`.

        Raises UnsupportedOperationError for anything but a question by images, by the default
        score, without prompts, unwanted images or words for the style; IncomparableSpecsError for
        images of another encoder; InputError where ``top`` is not positive; and as :meth:`open`.
        """
        if top is not None and top < 1:
            raise InputError(f"the number of hits must be positive, not {top}")
        images = self._checked(question)
        passing = condition(filters or Filters(), hub)
        for attempt in range(_TRIES):
            try:
                return self._answer(images, passing, top, best_prompts, repeats)
            except SpecNotFoundError:
                # Another version has taken the place of the one that was open.
                if attempt == _TRIES - 1:
                    raise
                self._facts = _current_metadata(self._connection)
                images = self._checked(question)
        raise AssertionError("the last attempt returns or raises")

    def _checked(self, question: IndexQuery) -> ImageQuery:
        if not isinstance(question, ImageQuery):
            raise unserved("a text or a model")
        for unwelcome, what in (
            (question.score is not SCORES[DEFAULT_SCORE], "another score"),
            (question.query.has_prompts, "prompts that go with the images"),
            (question.unwanted is not None, "unwanted images"),
            (question.style is not None, "words for the style"),
        ):
            if unwelcome:
                raise unserved(what)
        facts = self._facts
        if question.encoder_id != facts.key.encoder_id:
            raise IncomparableSpecsError(
                f"{self._connection.address} holds specifications made with the encoder "
                f"{facts.encoder_name} ({facts.key.encoder_id[:8]}), the query was encoded with "
                f"{question.encoder_id[:8]}",
                hint="search with the encoder that the specifications name",
            )
        width = question.query.image_embeddings.shape[1]
        if width != facts.image_dim:
            raise IncomparableSpecsError(
                f"the query's image embeddings have {width} values, those of the specifications "
                f"{facts.image_dim}, though both name encoder {question.encoder_id[:8]}",
                hint="encode the query again with the encoder that the specifications name",
            )
        return question

    def _answer(
        self,
        question: ImageQuery,
        passing: Filter | None,
        top: int | None,
        best_prompts: int,
        repeats: bool,
    ) -> GroupRanking:
        members = self._count(passing)
        search = self._search(question, passing)
        limit = members if top is None else max(_NEAREST, top + 1)
        while True:
            found, whole = self._ranked(
                question, search, members, limit, top, best_prompts, repeats
            )
            # Where models that repeat each other are shown, others may be behind them.
            shown = {hit.ref for hit in found.hits}
            crowded = any(other.ref in shown for hit in found.hits for other in hit.repeats)
            enough = len(found.hits) == top and found.hits[-1].margin is not None
            if whole or top is None or (enough and not crowded):
                return found
            limit *= _MORE

    def _ranked(
        self,
        question: ImageQuery,
        search: PointSearch,
        members: int,
        limit: int,
        top: int | None,
        best_prompts: int,
        repeats: bool,
    ) -> tuple[GroupRanking, bool]:
        """Of ``limit`` of the nearest models or more; and whether those are all."""
        facts = self._facts
        while True:
            points = search(min(limit, members))
            rows = [PointPayload.read(point.payload, self._connection.address) for point in points]
            # A model's versions make one hit, so that many of them may leave too few.
            found = len({row.reference.without_revision for row in rows})
            if len(rows) >= members or len(rows) < limit or (top is not None and found > top):
                break
            limit *= 2
        if not rows:
            return GroupRanking(facts.key, facts.prompt_set, facts.encoder_name, 0, ()), True
        self._check(points, rows)
        shortlist = ServedGroup(
            facts, [row.entry(facts) for row in rows], self._images, self._styles
        )
        measured = ServedQuery(question, search.distances(points))
        left = min(members, COMPETING) - len(rows)
        if left > 0 and measured.most_beyond(members - len(rows), facts.temperature) > _NEGLIGIBLE:
            further = search.distances(search(left, after=len(rows)))
            measured = replace(measured, beyond=further)
        standing = {str(row.reference.identity): row.standing for row in rows}
        ranking = rank_group(
            Selection(shortlist, range(len(rows))),
            measured,
            top=top,
            best_prompts=best_prompts,
            standing=standing.__getitem__,
            repeats=repeats,
        )
        whole = len(rows) >= members or len(rows) < limit
        return replace(ranking, members=max(members, len(rows))), whole

    def _count(self, passing: Filter | None) -> int:
        if passing is None:
            return self._facts.models
        client = self._connection.client
        return self._connection.ask(
            client.count, self._facts.collection, count_filter=passing, exact=True
        ).count

    def _search(self, question: ImageQuery, passing: Filter | None) -> PointSearch:
        images = question.query.image_embeddings
        exact = self._facts.models <= _EXACT
        return PointSearch(self._connection, self._facts, images, passing, exact=exact)

    def _check(self, points: Sequence[ScoredPoint], rows: Sequence[PointPayload]) -> None:
        names = [point_id(row.reference) for row in rows]
        if len({*names}) < len(names) or names != [str(point.id) for point in points]:
            raise SpecFormatError(
                f"{self._connection.address} gives a model another's place",
                hint=load_again(self._connection.address),
            )

    def _styles(self, wanted: Sequence[ModelRef]) -> NDArray[np.float64]:
        """The vectors by which the server compares models, by reference: [R, D]."""
        facts, connection = self._facts, self._connection
        ids = [point_id(model) for model in wanted]
        found: dict[str, object] = {}
        for start in range(0, len(ids), _VECTORS):
            for record in connection.ask(
                connection.client.retrieve,
                facts.collection,
                ids[start : start + _VECTORS],
                with_payload=False,
                with_vectors=["style"],
            ):
                vectors = record.vector
                found[str(record.id)] = vectors.get("style") if isinstance(vectors, dict) else None
        styles = np.full((len(ids), facts.image_dim), np.nan)
        for place, name in enumerate(ids):
            style = np.asarray(found.get(name), np.float64)
            if style.shape == styles.shape[1:]:
                styles[place] = style
        if not np.isfinite(styles).all():
            raise SpecFormatError(
                f"{connection.address} holds no vector of a model that fits the others",
                hint=load_again(connection.address),
            )
        return styles

    def _images(self, wanted: Sequence[ModelRef]) -> NDArray[np.float16]:
        """The images of models, by reference: [R, N, D]."""
        facts, connection = self._facts, self._connection
        shape = (len(facts.image_prompt), facts.image_dim)
        ids = [images_id(model) for model in wanted]
        found: dict[str, object] = {}
        for start in range(0, len(ids), _POINTS_AT_ONCE):
            part = ids[start : start + _POINTS_AT_ONCE]
            for record in connection.ask(connection.client.retrieve, facts.collection, part):
                found[str(record.id)] = record.payload
        arrays = [unpacked_images(found.get(name), shape) for name in ids]
        for model, array in zip(wanted, arrays, strict=True):
            if array is None:
                raise SpecFormatError(
                    f"{connection.address} holds no images of {model} that fit the others",
                    hint=load_again(connection.address),
                )
        return np.stack([array for array in arrays if array is not None])


def _current_metadata(connection: Connection) -> CollectionMetadata:
    """Of the collection that the name leads to now."""
    facts = fetch_metadata(connection, connection.collection)
    if facts is None:
        raise SpecFormatError(
            f"{connection.address} holds a collection {connection.collection!r} that is no index",
            hint="name another collection, or load an index: gmi index serve-into DIR URL",
        )
    return facts
