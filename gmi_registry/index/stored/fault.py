"""How the faults of a stored index are put into words."""

from __future__ import annotations

from pydantic import ValidationError

__all__ = ["AGAIN", "first_fault"]

AGAIN = (
    "fetch the index again; if that does not help, whoever publishes it must build it anew: "
    "gmi index build"
)
"""The hint for an index that lies or was damaged."""


def first_fault(error: ValidationError) -> str:
    """The first of pydantic's complaints in one line, without the offending value."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part)[:80] for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    message = " ".join(first["msg"].split())[:300]
    return f"{place + ': ' if place else ''}{message}{more}"
