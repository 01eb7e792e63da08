"""The answer to a query."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gmi_registry.index.entry import ComparabilityKey, ModelMetadata

if TYPE_CHECKING:
    from gmi_registry.model import Trust
    from gmi_registry.spec import ModelRef


@dataclass(frozen=True, slots=True)
class PromptMatch:
    """A prompt of the model's whose images are near the query.

    ``index`` counts the prompts of the default set from 0; ``contribution`` is what the prompt adds
    to the cross term of Eq. 9 (weight times kernel, divided by N), whatever score ranked the hit.
    For a question by a text it is what the prompt adds to the mean cosine, for one by a model the
    mean kernel between the two models' images of the prompt.
    """

    index: int
    prompt: str
    contribution: float


@dataclass(frozen=True, slots=True)
class FoldedVersion:
    """Another version of a model that is shown already, with what the ranking says of it."""

    ref: ModelRef
    title: str
    distance: float
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Repeat:
    """Another model, whose specification repeats that of a hit: by it the two cannot be told apart.

    It says the same images, and not whose they were first. ``distance`` is its own.
    """

    ref: ModelRef
    title: str
    distance: float
    stale: bool | None
    trust: Trust | None


@dataclass(frozen=True, slots=True)
class Universal:
    """What is said of a model that is near everything: the share of other models' images that it is
    ``first`` for where their own do not compete, the ``share`` that would fall to it by chance, and
    of background pictures that no model made, None where nobody asked with them."""

    first: float
    share: float
    pictures: float | None


@dataclass(frozen=True, kw_only=True)
class SearchHit(ModelMetadata):
    """One model in a ranking, with its :class:`~gmi_registry.index.ModelMetadata`.

    ``rank`` counts from 1 within ``group``; equal distances are ordered by model. ``distance`` is
    comparable within the group and the score only. ``margin`` is the next model's distance minus
    this one's, None for the last. Where a hub's models have versions that are described apart, the
    nearest is shown, and ``versions`` holds the rest, nearest first. ``confidence`` is the chance,
    in 0..1, that this model made the query's images, if one of those compared in the group did;
    None but for the default score, which alone speaks of one. ``best_prompts`` is sorted, the
    nearest first, and empty where an index has the images of the hits elsewhere. ``stale`` says
    that the model's weights are no longer those that were described, None that nobody knows; a
    stale model stands behind the fresh ones it ties with. ``trust`` says who stands behind the
    specification, None where only the user is concerned. ``repeats`` are other models whose
    specifications repeat this one, the best trusted first, and of those the nearest. The first of
    them all is a hit, the others are where no model that differs wants the room. ``confidence`` is
    as without them. ``universal`` says that the model is known to be near everything, so that being
    near the query says little; None for all others, and where nobody has measured it.
    """

    rank: int
    distance: float
    margin: float | None
    confidence: float | None = None
    best_prompts: tuple[PromptMatch, ...]
    group: ComparabilityKey
    stale: bool | None = None
    trust: Trust | None = None
    versions: tuple[FoldedVersion, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    universal: Universal | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; those of ``group`` are left to who shows it."""
        own = {name: getattr(self, name) for name in ("distance", "margin", "confidence")}
        plain = self.to_plain()
        del plain["hub_tags"]
        return {
            "rank": self.rank,
            **plain,
            **own,
            "best_prompts": [asdict(match) for match in self.best_prompts],
            "stale": self.stale,
            "trust": self.trust,
            "versions": [_named(version) for version in self.versions],
            "repeats": [_named(other) for other in self.repeats],
            "universal": None if self.universal is None else asdict(self.universal),
        }


def _named(other: FoldedVersion | Repeat) -> dict[str, Any]:
    plain = asdict(other)
    del plain["ref"]
    return {"model": str(other.ref), **plain}


@dataclass(frozen=True, slots=True)
class SkippedSpec:
    """A specification that took no part, and why, in one line."""

    model: ModelRef
    reason: str


@dataclass(frozen=True, slots=True)
class GroupRanking:
    """The ranking of one group: ``hits`` are the nearest of ``members`` that were compared, models
    or versions of models.

    ``prompt_set`` and ``encoder`` are the names of what the group shares.
    """

    key: ComparabilityKey
    prompt_set: str
    encoder: str
    members: int
    hits: tuple[SearchHit, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """One ranking for each group that can be compared with the query, the largest group first.

    Distances of two groups say nothing about each other. So they are not merged: ranks start again
    at 1 in each group, and each holds up to the number of hits that was requested.
    ``looked_at`` counts all indexed models, ``matched`` those that passed the filters.
    """

    groups: tuple[GroupRanking, ...]
    skipped: tuple[SkippedSpec, ...]
    looked_at: int
    matched: int

    @property
    def hits(self) -> tuple[SearchHit, ...]:
        """All hits, group after group, each in its own order; the main group's come first."""
        return tuple(hit for group in self.groups for hit in group.hits)
