"""``gmi spec diff``: what changed between two specifications, and how far the model has moved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gmi_registry.cli.funnel import funnel
from gmi_registry.cli.option import AsJson, Offline, OptionalHubText, RegistryText, Token
from gmi_registry.cli.screen import remark, write_json, write_line
from gmi_registry.errors import GmiError
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.open import opened_hub
from gmi_registry.hubs.resolve import SpecFolder, find_spec
from gmi_registry.report.number import number

if TYPE_CHECKING:
    from gmi_registry.report.difference_neighbour import Neighbour
    from gmi_registry.spec import Spec
    from gmi_registry.spec.diff import Movement, SpecDiff

__all__ = ["diff"]

_FIELDS_SHOWN = 40
_SHIFTS_SHOWN = 5


@funnel()
def diff(
    old: Annotated[
        str,
        typer.Argument(
            metavar="OLD",
            help="As MODEL of the other commands. Alone it is the new one, and is compared with "
            "the one that it replaced.",
        ),
    ],
    new: Annotated[
        str | None, typer.Argument(metavar="[NEW]", help="Likewise.", show_default=False)
    ] = None,
    hub: OptionalHubText = None,
    alone: Annotated[
        bool,
        typer.Option("--alone", help="Look for no other model on --hub to hold the distance to."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write a page with pictures of the prompts that moved most.",
            show_default=False,
        ),
    ] = None,
    token: Token = None,
    registry: RegistryText = None,
    offline: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Compare two specifications, field by field and by their images.

    How far the images moved is held against what drawing the same model again moves them, and with
    --hub against the distance to the nearest other model there.
    """
    from gmi_registry.report.difference import difference_page, write_page
    from gmi_registry.spec.diff import diff_specs

    access = HubAccess(token=token, offline=offline or None, registry=registry)
    places = [find_spec(text, hub, access) for text in (old, new) if text is not None]
    specs = [place.read() for place in places]
    names = [text for text in (old, new) if text is not None]
    previews: list[Path | None] = []
    if new is None:
        from gmi_registry.report.difference_past import find_previous

        past = find_previous(specs[0], hub, access)
        specs.insert(0, past.spec)
        names.insert(0, past.name)
        previews.append(past.preview)
    before, after = specs
    found = diff_specs(before, after)
    neighbour = None
    if hub is not None and not alone and found.movement is not None and not found.identical:
        neighbour = _neighbour(after, places[-1], hub, access)
    if html is not None:
        previews += [_preview(place, hub, access) for place in places]
        page = difference_page(
            found,
            before,
            after,
            names=(names[0], names[1]),
            previews=(previews[0], previews[1]),
            neighbour=neighbour,
        )
        remark(f"page written: {write_page(page, html)}")
    if as_json:
        write_json(_document(found, neighbour))
    else:
        _write(found, neighbour)


def _neighbour(spec: Spec, place: SpecFolder, hub: str, access: HubAccess) -> Neighbour | None:
    from gmi_registry.report.difference_neighbour import nearest_other

    try:
        return nearest_other(spec, place, hub, access)
    except GmiError as error:
        # What was asked for is the difference; this is one thing less to hold it against.
        remark(f"no other model to hold it against: {error.message}")
        return None


def _preview(place: SpecFolder, hub: str | None, access: HubAccess) -> Path | None:
    from gmi_registry.spec import PREVIEW_NAME, SPEC_DIR

    beside = place.folder / SPEC_DIR / PREVIEW_NAME
    if beside.is_file() and (place.follow_links is True or not beside.is_symlink()):
        return beside
    if place.expected is None:
        return None
    named = place.expected.hub if place.expected.hub != "local" else hub
    try:
        with opened_hub(named, replace(access, registry=place.registry)) as opened:
            return opened.fetch_preview(place.expected)
    except GmiError as error:
        remark(f"no contact sheet: {error.message}")
        return None


def _write(found: SpecDiff, neighbour: Neighbour | None) -> None:
    from gmi_registry.report.difference import scales, verdict

    if found.identical:
        write_line(f"identical: both have digest {found.new_digest}")
        return
    for change in found.fields[:_FIELDS_SHOWN]:
        write_line(f"{change.path}: {_side(change.old)} -> {_side(change.new)}")
    if len(found.fields) > _FIELDS_SHOWN:
        write_line(f"... and {len(found.fields) - _FIELDS_SHOWN} more fields; --json has them all")
    if found.movement is None:
        write_line(f"images: not comparable, {found.incomparable}")
        return
    write_line(
        f"images: squared maximum mean discrepancy {number(found.movement.mmd2)} (0 is equal)"
    )
    for scale in scales(found.movement, neighbour):
        write_line(f"  {scale.share} of the distance of {number(scale.mmd2)}: {scale.label}")
    write_line(verdict(found))
    for shift in found.prompt_shifts[:_SHIFTS_SHOWN]:
        if shift.shift > 0:
            write_line(
                f"  moved by {number(shift.shift)} ({100 * shift.share:.0f} %): {shift.prompt}"
            )


def _side(value: object) -> str:
    return "absent" if value is None else str(value)


def _document(found: SpecDiff, neighbour: Neighbour | None) -> dict[str, Any]:
    return {
        "old": found.old_digest,
        "new": found.new_digest,
        "identical": found.identical,
        "fields": [
            {"path": change.path, "old": change.old, "new": change.new} for change in found.fields
        ],
        "incomparable": found.incomparable,
        "mmd2": found.mmd2,
        "movement": None if found.movement is None else _movement(found.movement),
        "nearest_other": None
        if neighbour is None
        else {"model": neighbour.model, "title": neighbour.title, "mmd2": neighbour.mmd2},
        "prompt_shifts": [
            {
                "prompt": item.prompt,
                "index": item.index,
                "shift": item.shift,
                "share": item.share,
            }
            for item in found.prompt_shifts
        ],
    }


def _movement(moved: Movement) -> dict[str, Any]:
    return {
        "verdict": moved.verdict,
        "unordered": moved.unordered,
        "chance": moved.chance,
        "halves": moved.halves,
        "seeds": None
        if moved.seeds is None
        else {"within": moved.seeds.within, "across": moved.seeds.across},
        "mean_share": moved.mean_share,
    }
