"""The report as one HTML file: no script, no request to anywhere, everything inside."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.report.page import Page
from gmi_registry.report.template import fill

__all__ = ["STYLE_SHEET", "render", "write_html"]

STYLE_SHEET = ("gmi_registry.report", "page.css")
"""Package and file of the look that all pages share."""


def render(page: Page) -> str:
    """The page as HTML. Every text is escaped, links lead to http and https only."""
    return fill("gmi_registry.report", "page.html.j2", [STYLE_SHEET], page=page)


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
