"""A small benchmark over the paper's two functions: real stages, no weights, no torch."""

from __future__ import annotations

import json
from pathlib import Path

FILE = """
name = "circle"
version = {version}
generator = "example-2.1"
encoder = "circle/identity"
resolution = 1e-12
protocols = {protocols}
methods = {methods}
default_prompts = ["-1", "-0.75", "-0.5", "-0.25", "0", "0.25", "0.5", "0.75"]
evaluation_prompts = {evaluation}
dev_prompts = ["0.12", "0.22", "0.43"]

[seeds]
dev = [1, 2]
test = [0, 3]

[[models]]
model = "f1"

[[models]]
model = "f2"
"""

METHODS = ["rkme-clip", "paper-none", "paper-ground-truth", "default-ground-truth"]


def write_file(folder: Path, **changes: object) -> Path:
    """``circle.toml`` in ``folder``, with some of its fields changed."""
    fields = {
        "version": 1,
        "protocols": ["images-1", "images-2"],
        "methods": METHODS,
        "evaluation": ["0.05", "0.15", "0.35", "0.45"],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "circle.toml"
    path.write_text(FILE.format(**{key: json.dumps(value) for key, value in fields.items()}))
    return path


def contents(folder: Path) -> dict[str, object]:
    """Every file of a results folder by its path, without seconds and without work in progress."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith("work/"):
            continue
        found[name] = path.read_bytes()
        if path.suffix == ".json" and (name.startswith("stages/") or name == "bench.json"):
            document = json.loads(path.read_bytes())
            del document["seconds"]
            found[name] = document
    return found
