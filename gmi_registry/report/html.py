"""The report as one HTML file: no script, no request to anywhere, everything inside."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gmi_registry.errors import InputError
from gmi_registry.report.number import number
from gmi_registry.report.page import Page
from gmi_registry.report.strip import strip

__all__ = ["render", "write_html"]


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped, links lead to http and https only."""
    style = files("gmi_registry.report").joinpath("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    # Even if a text slipped through the escaping, the browser would neither run nor fetch it:
    # pictures come from the page itself, and the one style sheet is known by its digest.
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = Environment(
        loader=PackageLoader("gmi_registry.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.globals["strip"] = strip
    template = environment.get_template("page.html.j2")
    # Markup: the style sheet is a file of this package, and escaping would break its digest.
    return template.render(page=page, style=Markup(style), policy=policy)


def write_html(page: Page, path: Path) -> Path:
    """Write the page to ``path`` whole or not at all, and return the absolute path.

    Raises InputError where that cannot be done; a file that was there before is then unchanged.
    """
    # A file name may hold bytes that are no text.
    content = render(page).encode("utf-8", "backslashreplace")
    path = path.absolute()
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with scratch.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: the report cannot be written: {error.strerror}",
            hint="name a file in a folder that exists and that you may write to",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
    return path
