"""What a hub says of a specification that the specification cannot say itself."""

from __future__ import annotations

from dataclasses import dataclass

from gmi_registry.model import Trust

__all__ = ["UNKNOWN", "Standing"]


@dataclass(frozen=True, slots=True)
class Standing:
    """``stale``: whether the model's weights are others than those that were described, None where
    nobody knows. ``trust``: who stands behind it, None where only the user is concerned. ``stamp``:
    a text that changes whenever the specification does, where the hub has one."""

    stale: bool | None = None
    trust: Trust | None = None
    stamp: str | None = None


UNKNOWN = Standing()
"""Of a specification that no hub said anything of."""
