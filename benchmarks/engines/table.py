"""The measurements as a table."""

from __future__ import annotations

import importlib.metadata as packages
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CORE = (
    "huggingface_hub",
    "httpx2",
    "stamina",
    "numpy",
    "safetensors",
    "pydantic",
    "pillow",
    "pyyaml",
    "platformdirs",
    "typer",
    "rich",
    "jinja2",
)


def weight_of(names: Sequence[str]) -> float:
    """MB of installed files that these distributions and what they require add to the core."""

    def closure(wanted: Sequence[str]) -> set[str]:
        known: set[str] = set()
        queue = list(wanted)
        while queue:
            one = re.sub(r"[-_.]+", "-", queue.pop().lower())
            if one in known:
                continue
            try:
                needs = packages.requires(one) or []
            except packages.PackageNotFoundError:
                continue
            known.add(one)
            plain = [it for it in needs if "extra ==" not in it and "python_version <" not in it]
            queue += [re.match(r"[A-Za-z0-9._-]+", it)[0] for it in plain]
        return known

    files = (
        file.locate()
        for one in closure(names) - closure(CORE)
        for file in packages.files(one) or []
    )
    return sum(Path(file).stat().st_size for file in files if Path(file).is_file()) / 1e6


def median(runs: list[dict[str, Any]], key: str = "seconds") -> Any:
    failed = [run["failed"] for run in runs if "failed" in run]
    return failed[0] if failed else statistics.median(run[key] for run in runs)


def shown(value: Any, scale: float = 1.0) -> str:
    if not isinstance(value, (int, float)):
        return str(value)
    number = value * scale
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def rows_of(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Heading and cell of every column."""
    runs, built = found["runs"], found["build"]
    took = {work: median(each) for work, each in runs.items()}
    imported = median(runs["default"], "import") if "default" in runs else None
    peaks = [shown(median(runs[it], "peak")) for it in ("default", "paper") if it in runs]
    cells = {
        "engine": found["engine"],
        "specs": str(found["models"]),
        "build s": shown(median([built])),
        "disk MB": shown(found.get("disk", ""), 1e-6),
        "add 100 s": shown(took.get("add", "")),
        "MB to send": shown(found.get("sent", ""), 1e-6),
        "default ms": found.get("failed", shown(took.get("default", ""), 1e3)),
        "of it import": shown("" if imported is None else imported, 1e3),
        "tag 1 % ms": shown(took.get("filtered", ""), 1e3),
        "Eq. 9 s": shown(took.get("paper", "")),
        "ten rows ms": shown(took.get("fetch", ""), 1e3),
        "peak MB, default / Eq. 9 / build": " / ".join([*peaks, shown(built.get("peak", ""))]),
        "installs MB": shown(found["installs"]),
    }
    return list(cells.items())


def hub_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for a search that opened its index on a hub."""
    hub = found["hub"]
    return [
        ("engine", found["engine"]),
        ("whole index MB", shown(hub["whole"], 1e-6)),
        ("fetched MB", shown(hub["served"], 1e-6)),
        ("requests", str(hub["requests"])),
        ("s", shown(median([hub]))),
    ]


def markdown(results: list[dict[str, Any]]) -> str:
    """Two tables, and a line on what readers make for themselves."""
    out = []
    for rows in (
        [rows_of(found) for found in results],
        [hub_rows(found) for found in results if "hub" in found],
    ):
        if rows:
            out += [
                "| " + " | ".join(head for head, _ in rows[0]) + " |",
                "|---" * len(rows[0]) + "|",
            ]
            out += ["| " + " | ".join(cell for _, cell in row) + " |" for row in rows] + [""]
    for it in results:
        if "compile" in it["runs"]:
            made, written = median(it["runs"]["compile"]), it["written"]
            out.append(
                f"{it['engine']}, {it['models']} specs: {shown(made, 1e3)} ms to make the database"
                f" from what was fetched; adding 100 writes {shown(written, 1e-6)} MB here with it"
            )
    return "\n".join(out)
