"""The hostile vectors of the format, as files of a repository."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["hostile_cases", "hostile_files"]

_VECTORS = Path(__file__).parents[2] / "spec_format" / "vectors" / "v1"


@cache
def _rows() -> dict[str, dict[str, Any]]:
    table = json.loads((_VECTORS / "table.json").read_text("utf-8"))
    return {
        row["case"]: row
        for row in table
        if row["case"].startswith("hostile/")
        # A hub holds no pipes, and no file of a terabyte.
        and all(step["do"] == "write" for step in row.get("steps", ()))
    }


def hostile_cases() -> tuple[str, ...]:
    """The names of those that a repository can hold, in alphabetical order."""
    return tuple(sorted(_rows()))


def hostile_files(case: str) -> dict[str, bytes]:
    """Path (``gmi/...``) to content."""
    folder = _VECTORS / case
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    for step in _rows()[case].get("steps", ()):
        files[step["path"]] = "".join(piece * n for piece, n in step["pieces"]).encode("latin-1")
    return files
