"""The documentation as a website, by Sphinx, from the pages as they lie in the repository.

``nox -s site`` builds it. The front page is README.md, to which ``contents.txt`` is
added. The source folder is the repository, so that links lead to the same files as on a hub.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]

project = "gmi-registry"
author = "The gmi-registry authors"
release = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
language = "en"

root_doc = "README"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
include_patterns = [
    "*.md",
    "docs/**.md",
    "examples/README.md",
    "spec_format/**.md",
    "zoo/ATTRIBUTION.md",
    "zoo/README.md",
]
exclude_patterns = ["docs/_site"]

# Headings have the anchors that hubs make.
myst_heading_anchors = 4
# A page may begin with any heading, and the reference shows signatures that are no whole programs.
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

html_theme = "furo"
html_title = f"gmi-registry {release}"
html_static_path: list[str] = []
html_extra_path = ["static"]
html_copy_source = False
html_show_sphinx = False


def _add_contents(app: Any, docname: str, source: list[str]) -> None:
    if docname == root_doc:
        source[0] += "\n" + (_HERE / "contents.txt").read_text("utf-8")


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_contents)
