"""The page of a search: its values, how a search fills them, and the one HTML file.

The file holds everything that it shows: no script, and no request to anywhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gmi_registry import __version__
from gmi_registry.atomic import write_text
from gmi_registry.errors import GmiError
from gmi_registry.index.entry import GroupRanking, Ranking, SearchHit
from gmi_registry.model import Trust
from gmi_registry.report.figures import (
    Picture,
    embed_preview,
    near_everything,
    number,
    percent,
    strip,
)
from gmi_registry.sanitize import on_page
from gmi_registry.spec import ModelRef


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


_DESCRIBED_BY: dict[Trust, str] = {
    "owner": "its owner",
    "verified": "an entry of the registry, which its maintainers checked",
    "self-published": "an entry of the registry, which nobody checked",
}

Previews = Callable[[ModelRef], Path | None]
"""Where a model's contact sheet is on this disk: ``Hub.fetch_preview``."""


def search_page(
    result: Ranking,
    images: Sequence[QueryImage],
    *,
    unwanted: Sequence[QueryImage] = (),
    text: str | None = None,
    exemplar: QueryImage | None = None,
    settings: Sequence[tuple[str, str]],
    previews: Previews,
) -> Page:
    """The page of one search.

    ``images`` are the query's, ``unwanted`` show what is not wanted; where there are none, ``text``
    is what was asked in words, or ``exemplar`` the model that others were to be near. A contact
    sheet that cannot be had or shown is replaced by the reason; nothing is raised for it.
    """
    return Page(
        title=_title(images, unwanted, text, exemplar),
        query=tuple(images) if exemplar is None else (exemplar,),
        unwanted=tuple(unwanted),
        text=text,
        settings=tuple(settings),
        groups=tuple(
            _group(group, first=position == 0, previews=previews)
            for position, group in enumerate(result.groups)
        ),
        skipped=tuple(SkippedModel(str(it.model), it.reason) for it in result.skipped),
        looked_at=result.looked_at,
        version=__version__,
        reading=_reading(unwanted, text, exemplar),
    )


def _title(
    images: Sequence[QueryImage],
    unwanted: Sequence[QueryImage],
    text: str | None,
    exemplar: QueryImage | None,
) -> str:
    if exemplar is not None:
        return f"Models near {exemplar.name}"
    if text is not None:
        return f"Models for “{text}”"
    title = f"Models that make images like {_those(images)}"
    return f"{title}, and unlike {_those(unwanted)}" if unwanted else title


def _those(images: Sequence[QueryImage]) -> str:
    return images[0].name if len(images) == 1 else f"these {len(images)}"


def _reading(unwanted: Sequence[QueryImage], text: str | None, exemplar: QueryImage | None) -> str:
    """What the distances are between."""
    made = "the images that each model made when it was published"
    if exemplar is not None:
        return f"Distances are between what the model in question made of its prompts and {made}."
    if text is not None:
        return f"Distances are between the words and {made}, which say less than a picture does."
    if unwanted:
        return (
            f"Distances are between the query and {made}, and longer for models that may have made "
            "the unwanted images."
        )
    return f"Distances are between the query and {made}."


def _group(group: GroupRanking, *, first: bool, previews: Previews) -> Group:
    count = f"the nearest {len(group.hits)} of {group.members} models"
    if first:
        heading, note = "Ranking", f"{count}, default prompts {group.prompt_set}"
    else:
        heading = f"Models with the default prompts {group.prompt_set}"
        note = f"{count}; these distances cannot be compared with those above"
    return Group(heading, note, tuple(_card(hit, previews) for hit in group.hits))


def _partial(hit: SearchHit) -> str:
    share = hit.lora_partial
    if share is None:
        return ""
    return f"a part of the LoRA made the images: {share.applied} of its {share.tensors} tensors"


def _card(hit: SearchHit, previews: Previews) -> Card:
    preview, reason = _preview(hit.ref, previews)
    return Card(
        rank=hit.rank,
        model=str(hit.ref),
        title=hit.title,
        distance=hit.distance,
        margin=hit.margin,
        kind=hit.kind,
        tags=hit.tags,
        licence=hit.licence,
        base_model=hit.base_model,
        url=hit.url,
        nsfw=hit.nsfw,
        stale=bool(hit.stale),
        confidence=hit.confidence,
        described_by=_described_by(hit),
        versions=tuple(version.title for version in hit.versions),
        universal="" if hit.universal is None else near_everything(hit.universal),
        partial=_partial(hit),
        repeats=tuple(f"{other.title} ({other.ref.identity})" for other in hit.repeats),
        prompts=tuple(match.prompt for match in hit.best_prompts),
        preview=preview,
        no_preview=reason,
    )


def _described_by(hit: SearchHit) -> str:
    who = "" if hit.trust is None else _DESCRIBED_BY[hit.trust]
    if hit.described_as is None:
        return who
    return f"{who + ', ' if who else ''}as {hit.described_as}, its name at the time"


def _preview(ref: ModelRef, previews: Previews) -> tuple[Picture | None, str]:
    try:
        path = previews(ref)
        if path is None:
            return None, "this model has no contact sheet"
        return embed_preview(path), ""
    except GmiError as error:
        return None, f"the contact sheet cannot be shown: {error.message}"


def _finished(value: object) -> object:
    """A text of strangers, before it is escaped; what is marked as HTML is the template's own."""
    return on_page(value) if type(value) is str else value


def fill_template(
    package: str, template: str, sheets: Sequence[tuple[str, str]], **values: object
) -> str:
    """The template of ``package`` with ``values``, every text escaped.

    ``sheets`` are the style sheets, each a package and a file in it. The template gets them as
    ``style``, and as ``policy`` a content security policy under which no browser would run or
    fetch anything even if a text slipped through: pictures come from the page itself, and the
    style sheet is known by its digest.
    """
    style = "\n".join(
        files(where).joinpath(name).read_text(encoding="utf-8") for where, name in sheets
    )
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        loader=PackageLoader(package, package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finished,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    environment.globals["strip"] = strip
    # Markup: the style sheets are files of this package, and escaping would break their digest.
    return environment.get_template(template).render(style=Markup(style), policy=policy, **values)


STYLE_SHEET = ("gmi_registry.report", "page.css")
"""Package and file of the look that all pages share."""


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped, links lead to http and https only."""
    return fill_template("gmi_registry.report", "page.html.j2", [STYLE_SHEET], page=page)


def write_search_page(page: Page, path: Path) -> Path:
    """Write the page to ``path`` whole or not at all, and return the absolute path.

    Raises InputError where that cannot be done; a file that was there before is then unchanged.
    """
    return write_text(path, render(page), "report")
