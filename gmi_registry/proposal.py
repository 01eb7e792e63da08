"""A hub to which changes are proposed, in place of being made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from gmi_registry.errors import UnsupportedOperationError
from gmi_registry.hubs.protocol import Hub
from gmi_registry.spec import ModelRef

__all__ = ["proposing"]


class _TakesProposals(Protocol):
    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str: ...


class _Proposing:
    """Everything as on the hub itself, but for ``push_spec``."""

    def __init__(self, hub: _TakesProposals) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    def push_spec(self, ref: ModelRef, folder: Path) -> str:
        return self._hub.push_spec(ref, folder, create_pr=True)


def proposing(hub: Hub) -> Hub:
    """``hub``, whose ``push_spec`` opens a pull request and returns its address.

    Raises UnsupportedOperationError for a folder, which has nobody to decide on one.
    """
    if hub.name == "local":
        raise UnsupportedOperationError(
            "a hub in a folder takes no pull requests", hint="leave out --create-pr"
        )
    return cast("Hub", _Proposing(cast("_TakesProposals", hub)))
