"""Versions of the libraries whose arithmetic a result rests on."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__all__ = ["LIBRARIES", "versions"]

LIBRARIES = (
    "clip-interrogator",
    "diffusers",
    "numpy",
    "open_clip_torch",
    "peft",
    "pillow",
    "timm",
    "torch",
    "transformers",
)


def versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Name to version of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
