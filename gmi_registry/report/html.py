"""The report as one HTML file: no script, no request to anywhere, everything inside."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.report.file import write_whole
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
    return write_whole(path, render(page), "report")
