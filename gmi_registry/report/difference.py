"""How far a model has moved: in words, beside other distances, and as a page with pictures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gmi_registry import __version__
from gmi_registry.atomic import write_text
from gmi_registry.errors import GmiError, InputError, SpecError, SpecNotFoundError
from gmi_registry.hubs.open import HubAccess, SpecFolder, opened_hub, read_from
from gmi_registry.report.figures import ContactSheet, Picture, embed, number
from gmi_registry.report.page import STYLE_SHEET, fill_template
from gmi_registry.spec import MANIFEST_NAME, ModelRef, Spec
from gmi_registry.spec.diff import Movement, PromptShift, SpecDiff, distance_between

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

_LOOKED_AT = 8


@dataclass(frozen=True)
class Neighbour:
    """A model, and ``mmd2`` from it to the one in question, as in :class:`.Movement`."""

    model: str
    title: str
    mmd2: float


def nearest_other(
    spec: Spec,
    place: SpecFolder,
    hub: str | Path | Hub,
    access: HubAccess,
) -> Neighbour | None:
    """The nearest of the models on ``hub`` that can be compared with ``spec``, which ``place`` has.

    A search proposes eight, and the discrepancies decide; so it costs what a search by a model
    does. None where the hub has no other. Raises what a search raises.
    """
    from gmi_registry.hubs.open import HubAccess
    from gmi_registry.search.request import SearchRequest
    from gmi_registry.search.run import search

    own = {ref.repository for ref in (spec.manifest.model.ref, place.model) if ref is not None}
    like = str(place.folder) if place.expected is None else str(place.expected)
    with opened_hub(hub, access) as opened:
        request = SearchRequest(like=like, top=_LOOKED_AT)
        found = search(request, opened, HubAccess(offline=access.offline))
        distances = [
            (distance, str(hit.ref.without_revision), hit.title)
            for hit in found.hits
            if hit.ref.repository not in own
            for distance in [_distance(opened, hit.ref, spec)]
            if distance is not None
        ]
    if not distances:
        return None
    distance, model, title = min(distances)
    return Neighbour(model, title, distance)


def _distance(hub: Hub, ref: ModelRef, spec: Spec) -> float | None:
    try:
        other = read_from(hub, ref)
    except GmiError:
        return None
    return distance_between(other, spec)


_PAIRS = 12
_FIELDS = 40
_LONGEST = 160


@dataclass(frozen=True)
class Scale:
    """A distance to compare a movement with: ``label`` says what is ``mmd2`` apart.

    ``share`` is the movement as a part of it, of distances and not of squares.
    """

    label: str
    mmd2: float
    share: str


@dataclass(frozen=True)
class Pair:
    """A prompt, and what old and new made of it; None where a picture is not to be had."""

    prompt: str
    shift: str
    share: str
    old: Picture | None
    new: Picture | None


@dataclass(frozen=True)
class DifferencePage:
    """The whole page. ``fields`` are (path, old, new); ``no_pictures`` are reasons."""

    title: str
    verdict: str
    names: tuple[tuple[str, str], ...]
    mmd2: float | None
    scales: tuple[Scale, ...]
    pairs: tuple[Pair, ...]
    no_pictures: tuple[str, ...]
    prompts: int
    nsfw: bool
    fields: tuple[tuple[str, str, str], ...]
    more_fields: int
    version: str = __version__


def verdict(found: SpecDiff) -> str:
    """One sentence on how far the model has moved."""
    moved = found.movement
    if found.identical:
        return "The two specifications are the same."
    if moved is None:
        return f"The images cannot be compared: {found.incomparable}."
    moves = "The model has moved: its images changed"
    if any(change.path in ("model.hub", "model.id") for change in found.fields):
        moves = "The two models differ: their images do"
    chance = f"{round(100 * moved.chance, 1):g} % of"
    return {
        "unmoved": "The images are the same.",
        "other numerics": "The model generates the same images: they moved by "
        f"{100 * moved.mean_share:.1f} % on average, as other numerics or another machine move "
        "them.",
        "redrawn": "The model has not moved: its images changed as they do when the same model "
        f"generates them again with other seeds (as far or farther in {chance} shuffles).",
        "moved": f"{moves} in a common direction, which they do not when the same model generates "
        f"them again (as far in {chance} shuffles).",
        "too few prompts": f"The images moved; {moved.prompts} prompts are too few to say "
        "whether the model did.",
    }[moved.verdict]


def scales(moved: Movement, neighbour: Neighbour | None = None) -> tuple[Scale, ...]:
    """The distances to compare the movement with, the smallest first as a rule."""
    found = [
        (
            "the same steps in no common direction, as when a model generates its images again",
            moved.unordered,
        )
    ]
    if moved.halves is not None:
        found.append(("two halves of one model's own prompts", moved.halves))
    if neighbour is not None:
        found.append((f"the nearest other model, {neighbour.model}", neighbour.mmd2))
    rows = [Scale(label, mmd2, _part(moved.mmd2, mmd2)) for label, mmd2 in found]
    if moved.seeds is not None:
        # Sets of one image a prompt, so compared with their like and not with the whole.
        part = _part(moved.seeds.across, moved.seeds.within)
        rows.insert(
            1, Scale("two seeds of one model, against a seed of each", moved.seeds.within, part)
        )
    return tuple(rows)


def difference_page(
    found: SpecDiff,
    old: Spec,
    new: Spec,
    *,
    names: tuple[str, str],
    previews: tuple[Path | None, Path | None],
    neighbour: Neighbour | None = None,
) -> DifferencePage:
    """The page of one comparison.

    ``names`` say where old and new are, ``previews`` are their contact sheets, of which the cells
    of the prompts that moved most are shown. One that cannot be had or cut is replaced by the
    reason; nothing is raised for it.
    """
    reasons: list[str] = []
    sheets = [
        _sheet(which, path, spec, reasons)
        for which, path, spec in zip(("old", "new"), previews, (old, new), strict=True)
    ]
    shifts = [shift for shift in found.prompt_shifts[:_PAIRS] if shift.shift > 0]
    pairs = [_pair(shift, sheets[0], sheets[1]) for shift in shifts]
    model, before = new.manifest.model, old.manifest.model
    title = f"How far {model.title} has moved"
    if model.ref.repository != before.ref.repository:
        title = f"How far {before.title} is from {model.title}"
    return DifferencePage(
        title=title,
        verdict=verdict(found),
        names=(
            ("old", f"{names[0]} ({found.old_digest[:12]})"),
            ("new", f"{names[1]} ({found.new_digest[:12]})"),
            ("encoder", f"{new.manifest.encoder.name}/{new.manifest.encoder.pretrained}"),
        ),
        mmd2=found.mmd2,
        scales=() if found.movement is None else scales(found.movement, neighbour),
        pairs=tuple(pairs),
        no_pictures=tuple(reasons) if pairs else (),
        prompts=len(found.prompt_shifts),
        nsfw=model.nsfw or before.nsfw,
        fields=tuple(
            (change.path, _side(change.old), _side(change.new)) for change in found.fields[:_FIELDS]
        ),
        more_fields=max(0, len(found.fields) - _FIELDS),
    )


def write_difference(page: DifferencePage, path: Path) -> Path:
    """Write the page to ``path`` whole or not at all, and return the absolute path.

    Raises InputError where that cannot be done; a file that was there before is then unchanged.
    """
    sheets: Sequence[tuple[str, str]] = [STYLE_SHEET, ("gmi_registry.report", "difference.css")]
    text = fill_template("gmi_registry.report", "difference.html.j2", sheets, page=page)
    return write_text(path, text, "page")


def _sheet(which: str, path: Path | None, spec: Spec, reasons: list[str]) -> ContactSheet | None:
    if path is None:
        reasons.append(f"The {which} specification has no contact sheet.")
        return None
    try:
        return ContactSheet(path, spec.manifest)
    except InputError as error:
        said = error.message.removeprefix(f"{path}: ")
        reasons.append(f"The contact sheet of the {which} specification cannot be used: {said}.")
        return None


def _pair(shift: PromptShift, old: ContactSheet | None, new: ContactSheet | None) -> Pair:
    def cut(sheet: ContactSheet | None) -> Picture | None:
        cell = None if sheet is None else sheet.cell(shift.index)
        return None if cell is None else embed(cell)

    return Pair(shift.prompt, number(shift.shift), f"{100 * shift.share:.0f} %", cut(old), cut(new))


def _part(mmd2: float, of: float) -> str:
    """The ratio of the two distances, for people."""
    if of <= 0:
        return "the same" if mmd2 <= 0 else "beyond all measure"
    ratio = math.sqrt(mmd2 / of)
    return f"{100 * ratio:,.0f} %"


def _side(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@runtime_checkable
class _Remote(Protocol):
    """Hugging Face, with a registry beside it or without."""

    @property
    def endpoint(self) -> str: ...

    @property
    def offline(self) -> bool: ...


@dataclass(frozen=True)
class PreviousSpec:
    """An older specification; ``name`` says where it is, ``preview`` is its contact sheet."""

    spec: Spec
    name: str
    preview: Path | None


def find_previous(
    new: Spec,
    hub: str | Path | Hub | None = None,
    access: HubAccess | None = None,
) -> PreviousSpec:
    """The specification whose digest ``new`` names as ``previous``.

    It is what the model's hub has now, where ``new`` is not published yet; on Hugging Face it may
    also be in an older commit of the model, which costs a request a page of commits and up to five
    for each specification that is looked at, 60 at most. ``hub`` is where a model of a folder lies.

    Raises SpecNotFoundError where ``new`` replaces none, or where what it replaces is not to be
    had: a folder and the registry are only asked for what they have now. OfflineError where older
    commits would have to be asked for; HubError, AuthError or RateLimitError where the hub says no.
    """
    ref, digest = new.manifest.model.ref, new.manifest.previous
    compare = "gmi spec diff OLD NEW compares any two"
    if digest is None:
        raise SpecNotFoundError(
            f"the specification of {ref.without_revision} replaces none: it names no previous one",
            hint=compare,
        )
    if ref.hub == "local" and (hub is None or hub in ("hf", "civitai")):
        raise SpecNotFoundError(
            f"the specification that {ref.without_revision} had before can only be in its hub, a "
            "folder that was not named",
            hint="add --hub FOLDER, or name both: gmi spec diff OLD NEW",
        )
    source = hub if ref.hub == "local" else ref.hub
    with opened_hub(source, access) as opened:
        found = _at(opened, ref.identity, digest)
        if found is None and ref.hub == "hf":
            found = _in_history(opened, ref, digest, access)
        if found is not None:
            return found
    why = {
        "hf": "neither the present specification on the hub nor an older commit is that one (the "
        "history may have been squashed, or it was in the registry)",
        "local": "a hub in a folder keeps no older ones",
        "civitai": "the registry's older commits are not looked through",
    }[ref.hub]
    raise SpecNotFoundError(
        f"the previous specification of {ref.without_revision}, {digest[:12]}, cannot be found: "
        f"{why}",
        hint=f"if you have a copy: gmi spec diff COPY {ref.identity}",
    )


def _at(hub: Hub, ref: ModelRef, digest: str) -> PreviousSpec | None:
    """What ``hub`` has under ``ref``, where it is the one with this digest."""
    try:
        folder = hub.fetch_spec(ref)
        content = (folder / MANIFEST_NAME).read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            return None
        return PreviousSpec(read_from(hub, ref), str(ref), hub.fetch_preview(ref))
    except (SpecNotFoundError, SpecError, OSError):
        return None


def _in_history(
    hub: Hub, ref: ModelRef, digest: str, access: HubAccess | None
) -> PreviousSpec | None:
    from gmi_registry.hubs.huggingface.listing import earlier_commits

    if not isinstance(hub, _Remote):
        return None
    token = None if access is None else access.token
    for commit in earlier_commits(hub.endpoint, ref, token=token, offline=hub.offline):
        found = _at(hub, ModelRef("hf", ref.id, commit, ref.file), digest)
        if found is not None:
            return found
    return None
