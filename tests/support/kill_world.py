"""The hubs on which a runner is killed: each with one LoRA, whose weights change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.support.regeneration_world import (
    WEIGHTS,
    fill_folder,
    fill_loopback,
    open_loopback,
    other_weights,
    specification,
)

# isort: split
from gmi_registry.hubs.local import LocalHub
from gmi_registry.spec import Spec, read_spec
from tests.support.loopback import LoopbackHub

__all__ = ["FolderWorld", "LoopbackWorld"]


class FolderWorld:
    """The folder's hub."""

    name = "local"

    def __init__(self, room: Path, models: Path) -> None:
        self._room, self._models = room, models
        self._base = fill_folder(models, room / "first" / "hub").root

    def begin(self, run: Path) -> None:
        shutil.copytree(self._base, run / "hub")
        self._run = run

    def open(self) -> LocalHub:
        return LocalHub(self._run / "hub", self._run / "cache")

    def change(self) -> None:
        place = self._run / "hub" / "models" / "ink" / WEIGHTS
        place.write_bytes(other_weights(self._models))

    def spec(self) -> Spec | None:
        folder = self._run / "hub" / "models" / "ink"
        # A reader sees the one or the other, or between two renames none: see hubs/files.py.
        return read_spec(folder) if (folder / "gmi").exists() else None

    def commits(self) -> int:
        return 0


class LoopbackWorld:
    """The loopback hub, with the real client."""

    name = "hf"

    def __init__(self, hub: LoopbackHub, models: Path) -> None:
        self._hub, self._models = hub, models

    def begin(self, run: Path) -> None:
        self._hub.clear()
        fill_loopback(self._hub, self._models)
        self._run = run

    def open(self) -> Any:
        return open_loopback(self._hub, self._run / "cache")

    def change(self) -> None:
        self._hub.commit("alice/ink", {WEIGHTS: other_weights(self._models)})

    def spec(self) -> Spec | None:
        folder = specification(self._hub, "ink", self._run / "seen")
        return None if folder is None else read_spec(folder)

    def commits(self) -> int:
        return len(self._hub.history("alice/ink"))
