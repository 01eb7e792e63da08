"""Which hub it is: for a process that opens it anew, and for files that are kept about it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

__all__ = ["folder_about", "hub_address", "hub_text", "model_folder"]

_FOLDER = "regeneration"


def hub_text(hub: Hub) -> str:
    """What :func:`gmi_registry.hubs.open_hub` takes to open the same hub in another process.

    The path of a folder is absolute. An endpoint is not in it: that is the environment's.
    """
    root = getattr(hub, "root", None)
    return str(root.absolute()) if isinstance(root, Path) else hub.name


def hub_address(hub: Hub) -> str:
    """One text a hub, by which two that are called alike are told apart."""
    root = getattr(hub, "root", None)
    if isinstance(root, Path):
        return f"local:{root.resolve()}"
    endpoint = getattr(hub, "endpoint", None)
    return f"{hub.name}:{endpoint}" if isinstance(endpoint, str) else hub.name


def folder_about(work: Path, hub: Hub) -> Path:
    """Where in the folder ``work`` is kept what runs know about ``hub``; it need not exist."""
    from gmi_registry.spec.canonical import canonical_digest

    return work / _FOLDER / canonical_digest([hub_address(hub)])[:16]


def model_folder(about: Path, model: str) -> Path:
    """Where in the folder ``about`` a hub the pictures of one model wait; it need not exist.

    Of its own, so that it can go as a whole once the model is described, whatever was killed in it.
    """
    from gmi_registry.spec.canonical import canonical_digest

    # A model's name may hold what no file's may.
    return about / "work" / canonical_digest([model])[:32]
