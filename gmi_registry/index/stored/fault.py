"""How the faults of a stored index are put into words."""

from __future__ import annotations

from gmi_registry.sanitize import first_fault

__all__ = ["AGAIN", "first_fault"]

AGAIN = (
    "fetch the index again; if that does not help, whoever publishes it must build it anew: "
    "gmi index build"
)
"""The hint for an index that lies or was damaged."""
