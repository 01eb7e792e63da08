"""The index on a server, as something that can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import (
    GmiError,
    IncomparableSpecsError,
    InputError,
    SpecFormatError,
    SpecNotFoundError,
)
from gmi_registry.filters import Filters
from gmi_registry.index.image_question import ImageQuestion
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.question import Question
from gmi_registry.index.ranked import ranked
from gmi_registry.index.result import GroupRanking
from gmi_registry.index.selection import Selection
from gmi_registry.index.served.condition import condition
from gmi_registry.index.served.connection import Connection
from gmi_registry.index.served.facts import Facts
from gmi_registry.index.served.nearest import NearestSearch
from gmi_registry.index.served.pictures import unpacked
from gmi_registry.index.served.place import Place, again
from gmi_registry.index.served.row import Row, images_id, point_id
from gmi_registry.index.served.shortlist import Measured, Shortlist, unserved
from gmi_registry.index.served.storage import stored_facts
from gmi_registry.scoring import DEFAULT_SCORE, SCORES
from gmi_registry.spec import EncoderRef, ModelRef
from gmi_registry.spec.reference import HubName

if TYPE_CHECKING:
    from qdrant_client import QdrantClient
    from qdrant_client.models import Filter, ScoredPoint

__all__ = ["COMPETING", "ServedIndex"]

COMPETING = 4096
"""Confidences are shared out among this many of the nearest models at most, or all that the hits
need."""

_NEAREST = 256
_NEGLIGIBLE = 0.001
"""Of all chance: models that have no more of it together are not asked for."""
_EXACT = 1_000_000
"""Up to here every model is compared, which takes a server a tenth of a second at most and finds
the same each time; beyond it Qdrant's graph is asked, as widely as makes up for what it misses."""
_RECORDS = 32
_VECTORS = 1024
_MORE = 4
_TRIES = 3


class ServedIndex:
    """One group of models on a Qdrant server. Not safe for threads.

    Where :func:`~gmi_registry.index.served.delivery.serve_into` puts another version in its place
    meanwhile, the next question is asked of that one; no answer mixes the two.
    """

    def __init__(self, connection: Connection, facts: Facts) -> None:
        self._connection = connection
        self._facts = facts

    @classmethod
    def open(
        cls, target: str | Place | QdrantClient, *, collection: str | None = None
    ) -> ServedIndex:
        """By its URL, ``qdrant://host:port/collection?tls=1``, or by an open client and the name
        of the ``collection``. A key is taken from the environment variable QDRANT_API_KEY.

        Raises InputError for what is no such URL, MissingExtraError without qdrant-client,
        HubError where no server answers, AuthError, SpecNotFoundError where the collection is not
        there, SpecFormatError where it is no index, UnsupportedVersionError where a newer version
        of this package loaded it.
        """
        connection = Connection.to(target, collection)
        try:
            return cls(connection, _live(connection))
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
        question: Question,
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
                self._facts = _live(self._connection)
                images = self._checked(question)
        raise AssertionError("the last attempt returns or raises")

    def _checked(self, question: Question) -> ImageQuestion:
        if not isinstance(question, ImageQuestion):
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
        question: ImageQuestion,
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
        question: ImageQuestion,
        search: NearestSearch,
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
            rows = [Row.read(point.payload, self._connection.address) for point in points]
            # A model's versions make one hit, so that many of them may leave too few.
            found = len({row.reference.without_revision for row in rows})
            if len(rows) >= members or len(rows) < limit or (top is not None and found > top):
                break
            limit *= 2
        if not rows:
            return GroupRanking(facts.key, facts.prompt_set, facts.encoder_name, 0, ()), True
        self._check(points, rows)
        shortlist = Shortlist(facts, [row.entry(facts) for row in rows], self._images, self._styles)
        measured = Measured(question, search.distances(points))
        left = min(members, COMPETING) - len(rows)
        if left > 0 and measured.most_beyond(members - len(rows), facts.temperature) > _NEGLIGIBLE:
            further = search.distances(search(left, after=len(rows)))
            measured = replace(measured, beyond=further)
        standing = {str(row.reference.identity): row.standing for row in rows}
        ranking = ranked(
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

    def _search(self, question: ImageQuestion, passing: Filter | None) -> NearestSearch:
        images = question.query.image_embeddings
        exact = self._facts.models <= _EXACT
        return NearestSearch(self._connection, self._facts, images, passing, exact=exact)

    def _check(self, points: Sequence[ScoredPoint], rows: Sequence[Row]) -> None:
        names = [point_id(row.reference) for row in rows]
        if len({*names}) < len(names) or names != [str(point.id) for point in points]:
            raise SpecFormatError(
                f"{self._connection.address} gives a model another's place",
                hint=again(self._connection.address),
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
                hint=again(connection.address),
            )
        return styles

    def _images(self, wanted: Sequence[ModelRef]) -> NDArray[np.float16]:
        """The images of models, by reference: [R, N, D]."""
        facts, connection = self._facts, self._connection
        shape = (len(facts.image_prompt), facts.image_dim)
        ids = [images_id(model) for model in wanted]
        found: dict[str, object] = {}
        for start in range(0, len(ids), _RECORDS):
            part = ids[start : start + _RECORDS]
            for record in connection.ask(connection.client.retrieve, facts.collection, part):
                found[str(record.id)] = record.payload
        arrays = [unpacked(found.get(name), shape) for name in ids]
        for model, array in zip(wanted, arrays, strict=True):
            if array is None:
                raise SpecFormatError(
                    f"{connection.address} holds no images of {model} that fit the others",
                    hint=again(connection.address),
                )
        return np.stack([array for array in arrays if array is not None])


def _live(connection: Connection) -> Facts:
    """Of the collection that the name leads to now."""
    facts = stored_facts(connection, connection.collection)
    if facts is None:
        raise SpecFormatError(
            f"{connection.address} holds a collection {connection.collection!r} that is no index",
            hint="name another collection, or load an index: gmi index serve-into DIR URL",
        )
    return facts
