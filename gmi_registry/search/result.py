"""The result of a search: rankings, the query, and how long each stage took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gmi_registry.index import GroupRanking, ImageQuery, IndexQuery, ModelQuery, Ranking
from gmi_registry.search.request import image_names

if TYPE_CHECKING:
    from gmi_registry.search.request import SearchRequest
    from gmi_registry.spec import EncoderRef, ModelRef

Stage = Literal["list", "index", "prepare", "encoder", "query", "rank"]
Progress = Callable[[Stage, int, int], None]
"""Told (stage, done, total): specifications in ``index``, and in ``prepare``, which a large index
has once; else 0 or 1 of 1."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall time of each stage in seconds; 0 for one that was not reached.

    ``list`` asks the hub, ``index`` reads specifications, ``encoder`` loads the model, ``query``
    encodes the images, ``rank`` compares.
    """

    list: float = 0.0
    index: float = 0.0
    encoder: float = 0.0
    query: float = 0.0
    rank: float = 0.0

    @property
    def total(self) -> float:
        """The sum in seconds."""
        return self.list + self.index + self.encoder + self.query + self.rank


class StageTimer:
    """Times one stage after the other, and reports where each begins and ends."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._seconds: dict[Stage, float] = {}
        self._stage: Stage | None = None
        self._start = 0.0

    def begin(self, stage: Stage) -> None:
        self.end()
        self._stage, self._start = stage, time.perf_counter()
        self._tell(0)

    def end(self) -> None:
        if self._stage is not None:
            self._seconds[self._stage] = time.perf_counter() - self._start
            self._tell(1)
            self._stage = None

    def _tell(self, done: int) -> None:
        if self._stage is not None and self._stage != "index":  # which counts for itself
            self.progress(self._stage, done, 1)

    @property
    def timings(self) -> Timings:
        return Timings(**self._seconds)


PROMPT_MODE = "prompt"
"""The interrogator of a result where the user gave the prompt."""

LIKE_SCORE = "like"
"""The score of a result where models are compared with a model."""

TEXT_SCORE = "text"
"""Likewise, where they are compared with a text alone."""

_COUNTS = ("looked_at", "matched", "stale_left_out", "read", "from_cache", "index", "offline")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult(Ranking):
    """The rankings, the query, and what it took.

    ``looked_at`` counts the models with a specification that the hub named for the filter, and
    where it named none, all that it has; ``matched`` those that passed the filter and could be
    read, ``stale_left_out`` those that did not for being stale. Of the specifications that the
    hub named ``read`` were read from it and ``from_cache`` were known. ``images`` are names for
    people; ``pseudo_prompts`` stand in their order, None for an image without one. ``not_like``
    and ``not_like_prompts`` are the same for pictures of what is not wanted. ``text`` is the prompt
    of a search by words alone, ``like`` the model of one by a model; ``score`` is then ``text`` or
    ``like``. ``style`` are words that stood beside the images, ``index`` the name of the index
    that took the place of specifications one by one. ``encoder_ref`` holds what ``encoder`` says.

    ``requests`` counts HTTP requests by method, None for a hub without a network. With ``offline``
    the hub was not asked; ``catalogue_age`` is then the age in seconds of the listing that the
    answer rests on, None where it is of this moment or was never made.
    """

    score: str
    images: tuple[str, ...]
    pseudo_prompts: tuple[str | None, ...]
    interrogator: str
    encoder_ref: EncoderRef | dict[str, Any] | None = field(repr=False)
    read: int
    from_cache: int
    timings: Timings
    stale_left_out: int = 0
    requests: Mapping[str, int] | None = None
    offline: bool = False
    catalogue_age: float | None = None
    text: str | None = None
    like: ModelRef | None = None
    not_like: tuple[str, ...] = ()
    not_like_prompts: tuple[str | None, ...] = ()
    style: str | None = None
    index: str | None = None

    @property
    def encoder(self) -> EncoderRef | None:
        """The encoder that images were compared by; None where there was nothing to compare."""
        if not isinstance(self.encoder_ref, dict):
            return self.encoder_ref
        from gmi_registry.spec import EncoderRef

        return EncoderRef.model_validate(self.encoder_ref)

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``: ``results`` rank the largest group of comparable models.

        ``other_groups`` hold the rest, whose distances cannot be compared with those.
        """
        groups = [_group_json(group) for group in self.groups]
        return {
            "query": {
                "images": list(self.images),
                "pseudo_prompts": list(self.pseudo_prompts),
                "interrogator": self.interrogator,
                "text": self.text,
                "like": None if self.like is None else str(self.like),
                "not_like": list(self.not_like),
                "not_like_prompts": list(self.not_like_prompts),
                "style": self.style,
            },
            "score": self.score,
            "results": groups[0]["results"] if groups else [],
            "other_groups": groups[1:],
            "skipped": [{"model": str(it.model), "reason": it.reason} for it in self.skipped],
            "encoder": None if self.encoder is None else self.encoder.known(),
            **{name: getattr(self, name) for name in _COUNTS},
            "catalogue_age": self.catalogue_age,
            "requests": None if self.requests is None else dict(self.requests),
            "groups": [
                {key: group[key] for key in ("group", "prompt_set", "members")} for group in groups
            ],
            "timings": asdict(self.timings),
        }


def query_fields(request: SearchRequest, query: IndexQuery | None) -> dict[str, Any]:
    """What a result says of its query; of prompts what was guessed, once that has been done."""
    fields: dict[str, Any] = {
        "score": request.score if request.text is None else TEXT_SCORE,
        "images": image_names(request.images, "image"),
        "pseudo_prompts": (request.prompt,) * len(request.images),
        "not_like": image_names(request.not_like, "unwanted image"),
        "not_like_prompts": (request.prompt,) * len(request.not_like),
        "interrogator": request.interrogator if request.prompt is None else PROMPT_MODE,
        "text": request.text,
        "style": request.style,
        "like": None,
    }
    if isinstance(query, ImageQuery):
        fields["pseudo_prompts"] = query.images.pseudo_prompts
        fields["interrogator"] = query.images.interrogator
        if query.unwanted is not None:
            fields["not_like_prompts"] = query.unwanted.pseudo_prompts
    elif isinstance(query, ModelQuery):
        fields |= {"score": LIKE_SCORE, "like": query.exemplar.entry.ref}
    return fields


def _group_json(group: GroupRanking) -> dict[str, Any]:
    shared = {name: getattr(group, name) for name in ("prompt_set", "encoder", "members")}
    return {"group": str(group.key)} | shared | {"results": [hit.to_json() for hit in group.hits]}
