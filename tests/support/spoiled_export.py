"""An exported encoder with other contents than it was made with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gmi_registry.encoders.description import FileEntry

Change = Callable[[Any], None]


def describe(folder: Path, change: Change) -> None:
    path = folder / "encoder.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def put(folder: Path, name: str, data: bytes) -> None:
    """Another content, which ``encoder.json`` agrees with."""
    (folder / name).write_bytes(data)
    entry = FileEntry.of(data).model_dump()
    describe(folder, lambda document: document["files"].update({name: entry}))
