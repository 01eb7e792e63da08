"""A page from a template: everything inside, nothing run, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gmi_registry.report.number import number, percent
from gmi_registry.report.strip import strip
from gmi_registry.sanitize import on_page

__all__ = ["fill"]


def _finished(value: object) -> object:
    """A text of strangers, before it is escaped; what is marked as HTML is the template's own."""
    return on_page(value) if type(value) is str else value


def fill(package: str, template: str, sheets: Sequence[tuple[str, str]], **values: object) -> str:
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
