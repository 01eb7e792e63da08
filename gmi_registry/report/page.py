"""What the report shows, as plain values: no arrays, no files, nothing left to compute."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

__all__ = ["Card", "Group", "Page", "Picture", "QueryImage", "SkippedModel"]


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: ``uri`` is a ``data:`` URI that this package encoded itself."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class QueryImage:
    """One image of the query, or the contact sheet of a model that others are to be near.

    ``picture`` is None where it could not be shown.
    """

    name: str
    picture: Picture | None
    pseudo_prompt: str | None


@dataclass(frozen=True)
class Card:
    """One model of the answer.

    ``margin`` is the distance to the next model minus the own; None for the last. ``stale`` says
    that its weights are known to have changed since. ``confidence`` is the chance that it made the
    query's images, None where the score speaks of none. ``described_by`` says who stands behind the
    specification, empty where that is the user alone; ``versions`` are others of the same model,
    ``repeats`` other models of the same images. ``universal`` says that it is near everything,
    empty where nobody knows of it. ``partial`` says that a part of a LoRA made the images, empty
    where all of it did.
    ``prompts`` are the model's prompts that speak most for it, best first. ``preview`` is its
    contact sheet; where it is None, ``no_preview`` says why.
    """

    rank: int
    model: str
    title: str
    distance: float
    margin: float | None
    kind: str
    tags: tuple[str, ...] = ()
    licence: str | None = None
    base_model: str | None = None
    url: str | None = None
    nsfw: bool = False
    stale: bool = False
    confidence: float | None = None
    described_by: str = ""
    versions: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()
    universal: str = ""
    partial: str = ""
    prompts: tuple[str, ...] = ()
    preview: Picture | None = None
    no_preview: str = "this model has no contact sheet"

    @property
    def name(self) -> str:
        """The model without its revision."""
        return self.model.partition("@")[0]

    @property
    def revision(self) -> str:
        """The beginning of the revision, enough to recognise it by; empty where there is none."""
        return self.model.partition("@")[2][:12]

    @property
    def link(self) -> str | None:
        """``url`` where it is an ordinary web address. A specification is not to be trusted."""
        if self.url is None:
            return None
        try:
            parts = urlsplit(self.url)
        except ValueError:
            return None
        return self.url if parts.scheme in ("http", "https") and parts.netloc else None


@dataclass(frozen=True)
class Group:
    """Models whose distances may be compared with one another: one set of default prompts."""

    heading: str
    note: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class SkippedModel:
    """A model that was looked at and not ranked."""

    model: str
    reason: str


@dataclass(frozen=True)
class Page:
    """The whole report. ``settings`` are pairs of a label and a value.

    ``query`` are pictures, of which ``text`` takes the place in a search by words; ``unwanted``
    show what is not wanted. ``reading`` says what the distances are between.
    """

    title: str
    query: tuple[QueryImage, ...]
    settings: tuple[tuple[str, str], ...]
    groups: tuple[Group, ...]
    skipped: tuple[SkippedModel, ...]
    looked_at: int
    version: str
    unwanted: tuple[QueryImage, ...] = ()
    text: str | None = None
    reading: str = (
        "Distances are between the query and the images that each model made when it was published."
    )
