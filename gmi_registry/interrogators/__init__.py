"""Interrogators: from an image to its pseudo-prompt. Importing this never imports torch."""

from gmi_registry.interrogators.modes import (
    INTERROGATORS,
    MODES,
    Interrogator,
    load_interrogator,
    require_interrogator,
)

__all__ = [
    "INTERROGATORS",
    "MODES",
    "Interrogator",
    "load_interrogator",
    "require_interrogator",
]
