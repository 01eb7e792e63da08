"""The two streams: data goes to stdout, everything that is said about it to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gmi_registry.sanitize import escaped as plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "is_wanted",
    "output",
    "plain",
    "progress_is_wanted",
    "remark",
    "write_json",
    "write_line",
    "write_pairs",
    "write_rows",
]


def output() -> Console:
    """A console on stdout. Colours and width are rich's to find out (NO_COLOR, COLUMNS)."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


def write_line(text: str) -> None:
    """One line of data."""
    sys.stdout.write(plain(text) + "\n")


def write_rows(rows: Iterable[Sequence[str]]) -> None:
    """Rows for other programs: one a line, a tab between the cells."""
    for row in rows:
        sys.stdout.write("\t".join(plain(cell) for cell in row) + "\n")


def write_json(document: object) -> None:
    """One JSON document. ASCII, so that it survives every terminal and pipe."""
    sys.stdout.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def write_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Labels and values: two columns on a terminal, else ``label: value`` lines."""
    console = output()
    if not console.is_terminal:
        for label, value in pairs:
            write_line(f"{label}: {value}")
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in pairs:
        # Text, not str: a title with [brackets] is a title, not markup.
        table.add_row(label, Text(plain(value)))
    console.print(table)


def remark(text: str) -> None:
    """One line for the person at the terminal."""
    sys.stderr.write(plain(text) + "\n")


def is_wanted(variable: str) -> bool:
    """Whether an environment variable is switched on, read as huggingface_hub reads its own."""
    return os.environ.get(variable, "").strip().upper() in ("1", "ON", "YES", "TRUE")


def progress_is_wanted(quiet: bool) -> bool:
    """Whether to draw progress bars: on a terminal, unless told otherwise."""
    return not quiet and sys.stderr.isatty() and not is_wanted("HF_HUB_DISABLE_PROGRESS_BARS")
