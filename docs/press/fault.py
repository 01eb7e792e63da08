"""The page on errors: the tree of classes, and how programs end."""

from __future__ import annotations

import inspect

from docs.press.page import Page, code, prose
from gmi_registry import errors
from gmi_registry.cli import output

__all__ = ["error_page"]

_USAGE = 2
"""typer's own, which it gives no name."""


def error_page() -> Page:
    """All errors that this package raises on purpose."""
    page = Page("Errors and exit codes")
    page.add(
        "Every error that is raised on purpose is a `GmiError` of `gmi_registry.errors`. Its "
        "`message` is one line; its `hint`, where there is one, is the next command or change. "
        "Programs print both on stderr, and a traceback as well with `HF_DEBUG=1`."
    )
    page.fence("error: what was wrong, and where\nhint: the command to run next", "text")
    page.heading("The tree")
    page.fence("\n".join(_tree(errors.GmiError, "", "")), "text")
    page.table(
        ["class", "raised for"],
        [[code(kind.__name__), _meaning(kind)] for kind in _all(errors.GmiError)],
    )
    page.heading("Exit codes")
    page.table(
        ["code", "when"],
        [
            ["0", "done; also a search that finds nothing"],
            [str(output.FAILED), "one of the errors above, or `gmi spec verify` found a fault"],
            [str(_USAGE), "the command line cannot be understood"],
            [str(output.INTERRUPTED), "interrupted with Ctrl-C"],
            [
                str(output.READER_GONE),
                "whoever read stdout has gone, as in `gmi-search ... | head`",
            ],
        ],
    )
    return page


def _children(kind: type[errors.GmiError]) -> list[type[errors.GmiError]]:
    return [value for value in vars(errors).values() if _is_child(value, kind)]


def _is_child(value: object, parent: type) -> bool:
    return inspect.isclass(value) and parent in value.__bases__


def _all(kind: type[errors.GmiError]) -> list[type[errors.GmiError]]:
    return [kind, *(found for child in _children(kind) for found in _all(child))]


def _tree(kind: type[errors.GmiError], before: str, below: str) -> list[str]:
    lines = [before + kind.__name__]
    children = _children(kind)
    for child in children:
        last = child is children[-1]
        branch, gap = ("└── ", "    ") if last else ("├── ", "│   ")
        lines += _tree(child, below + branch, below + gap)
    return lines


def _meaning(kind: type[errors.GmiError]) -> str:
    return prose(kind.__doc__)
