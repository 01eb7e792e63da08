"""The report as one HTML file, in the look of the search's: no script, nothing fetched."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from gmi_registry import __version__
from gmi_registry.bench.figures import Drawing
from gmi_registry.bench.results import Results
from gmi_registry.bench.specimen import Specimen
from gmi_registry.bench.tables import tables
from gmi_registry.report.html import STYLE_SHEET
from gmi_registry.report.page import Picture
from gmi_registry.report.template import fill

__all__ = ["page"]


@dataclass(frozen=True)
class Shown:
    """A figure inside the page."""

    title: str
    note: str
    picture: Picture


def page(results: Results, drawings: Sequence[Drawing], specimens: Sequence[Specimen]) -> str:
    """The whole page. Every text is escaped: prompts and models' names are other people's."""
    return fill(
        "gmi_registry.bench",
        "bench.html.j2",
        [STYLE_SHEET, ("gmi_registry.bench", "bench.css")],
        results=results,
        facts=_facts(results),
        figures=[Shown(it.title, it.note, _picture(it.content)) for it in drawings],
        tables=tables(results),
        specimens=specimens,
        guessed={pick.guessed for it in specimens for pick in it.picks},
        seconds=[(stage, _time(seconds)) for stage, seconds in results.seconds.items()],
        version=__version__,
    )


def _facts(results: Results) -> list[tuple[str, str]]:
    one = results.protocol("images-1") or results.protocols[0]
    encoder = results.encoder
    named = encoder if isinstance(encoder, str) else encoder.get("name", "see results.json")
    facts = [
        ("models", str(len(one.models))),
        ("tasks of one image", f"{one.tasks:,}"),
        ("encoder", str(named)),
        ("interrogator", results.interrogator),
        ("γ of Eq. 9", f"{results.gamma:g}"),
        ("benchmark", results.digest[:12]),
    ]
    if results.limit is not None:
        facts.append(("cut down", f"--limit {results.limit}: not for quoting"))
    return facts + [(name, version) for name, version in results.libraries.items()]


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _picture(content: bytes) -> Picture:
    """A PNG of this package's own making: its size stands in the first chunk."""
    width, height = struct.unpack(">II", content[16:24])
    uri = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    return Picture(uri, width, height)
