"""How a search arrives at its ranking: by specifications, by an index, or by a server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from PIL.Image import Image

from gmi_registry.background import known_universal
from gmi_registry.clock import Clock, Progress
from gmi_registry.encoders.protocol import Encoder
from gmi_registry.equipment import Equipment
from gmi_registry.errors import OfflineError, UnsupportedOperationError
from gmi_registry.filters import Filters
from gmi_registry.freshness import Freshness, named_now
from gmi_registry.gathering import Gathered, Gathering
from gmi_registry.hub_index import HubIndex
from gmi_registry.hubs.protocol import Hub, knows_names, with_base_names
from gmi_registry.index import (
    ImageQuery,
    IndexedSpec,
    IndexQuery,
    ModelQuery,
    Ranking,
    SpecCache,
    TextQuery,
    Wording,
    rank_groups,
)
from gmi_registry.interrogators import Interrogator
from gmi_registry.place import find_model, find_spec, hub_named_in, is_folder, registry_of
from gmi_registry.request import Request
from gmi_registry.scoring import Query, score_named
from gmi_registry.spec import EncoderRef
from gmi_registry.spec.reference import HubName

__all__ = ["Seeking", "Sought", "is_served"]

_SCHEME = "qdrant://"


def is_served(index: str | Path) -> bool:
    """Whether an index is named that lies on a server."""
    return isinstance(index, str) and index.startswith(_SCHEME)


@dataclass(frozen=True)
class Sought:
    """The ranking, with the question and the encoder that led to it where it came to that.

    The numbers are those of :class:`~gmi_registry.answer.SearchResult`; ``listed`` is ``read`` and
    ``from_cache`` together."""

    ranking: Ranking
    question: IndexQuery | None
    encoder: EncoderRef | None
    looked_at: int
    listed: int
    read: int = 0
    left_out: int = 0
    index: str | None = None


@dataclass(frozen=True)
class Seeking:
    """One search: what it asks, of whom, and with what."""

    request: Request
    hub: Hub
    wanted: Filters
    equipment: Equipment
    clock: Clock
    encoder: Encoder | None
    score: str
    interrogator: str
    top: int | None
    repeats: bool
    cache_dir: Path
    progress: Progress

    def by_rows(self, gathering: Gathering, *, fresh_only: bool) -> Sought:
        """With the specifications at hand, or the rows of an index."""
        question: IndexQuery | None = None
        compared_by = None if self.encoder is None else self.encoder.ref
        with gathering.opened(self.progress) as known:
            if self.request.like is not None:
                exemplar, compared_by = self._exemplar(self.request.like, known)
                question = ModelQuery(exemplar)
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
                return rank_groups(
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
            ranking = named_now(ranking, self.hub)
            return self._sought(ranking, question, compared_by, found, left_out)

    def by_server(self, url: str, *, fresh_only: bool) -> Sought:
        """With the collection at ``url``.

        Raises UnsupportedOperationError for what a server cannot answer or tell, and what
        :meth:`.ServedIndex.open` and :meth:`.ServedIndex.answer` raise.
        """
        from gmi_registry.index.qdrant import Location, QdrantIndex

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
        place = Location.parse(url)
        if self.equipment.offline and not place.is_here:
            raise OfflineError(
                f"{url} is across the network, which is switched off",
                hint="search without --offline, or with the files of the index: --index DIR",
            )
        with QdrantIndex.open(place) as served:
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
        return Sought(ranking, question, encoder.ref, found, group.members, index=url)

    def _gathered(self, gathering: Gathering, known: HubIndex | None) -> Gathered:
        if known is not None:
            return Gathered(known, len(known), len(known), 0, known.name)
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
        place = find_spec(
            like,
            self.hub,
            cache_dir=None if cache is None else cache.parent,
            offline=self.equipment.offline or None,
            registry=None if here else registry_of(self.hub),
        )
        spec = place.read()
        exemplar = IndexedSpec.of(spec)
        if place.model is not None:
            # Under the name that the hub lists it by, so that it is not its own neighbour.
            entry = exemplar.entry.found_at(
                replace(place.model, revision=exemplar.entry.model.revision), None
            )
            exemplar = replace(exemplar, entry=entry)
        return exemplar, spec.manifest.encoder

    def _question(self, encoder: Encoder, phrases: Sequence[str]) -> IndexQuery:
        from gmi_registry.query import OwnPrompts, build_query, embed_text, logit_scale

        self.clock.begin("query")
        request = self.request
        prompts = OwnPrompts(encoder, SpecCache(self.cache_dir))
        if request.text is not None:
            return TextQuery(embed_text(request.text, encoder), encoder.ref.id, prompts)
        style = None
        if request.style is not None:
            style = Wording(embed_text(request.style, encoder), logit_scale(encoder))
        guess: str | Interrogator = self.interrogator
        if request.prompt is None:
            guess = self.equipment.interrogator(self.interrogator, phrases)

        def query(pictures: Sequence[Image]) -> Query:
            return build_query(pictures, encoder, interrogator=guess, prompt=request.prompt)

        unwanted = query(request.unwanted) if request.unwanted else None
        return ImageQuery(
            query(request.pictures), score_named(self.score), unwanted, style, prompts
        )

    def _sought(
        self,
        ranking: Ranking,
        question: IndexQuery | None,
        encoder: EncoderRef | None,
        found: Gathered,
        left_out: int = 0,
    ) -> Sought:
        return Sought(
            ranking,
            question,
            encoder,
            found.looked_at,
            found.listed,
            found.read,
            left_out,
            found.name,
        )
