"""Who stands behind a specification."""

from __future__ import annotations

from typing import Literal

__all__ = ["Trust"]

Trust = Literal["owner", "verified", "self-published"]
"""The model's owner, beside whose model it lies; a registry's maintainers, who drew some of its
images again; or whoever put it into the registry."""
