"""What a check of a proposal found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Check", "Finding", "Status"]

Check = Literal[
    "paths",
    "sizes",
    "manifest",
    "tensors",
    "preview",
    "place",
    "owner",
    "weights",
    "norms",
    "copies",
    "hubness",
    "audit",
]
"""In the order in which they are made."""

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; ``detail`` is one line, ``hint`` the next thing to do or None."""

    check: Check
    status: Status
    detail: str
    hint: str | None = None
