"""What a publication is told, and what it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gmi_registry.generation.placement import Offload
from gmi_registry.generation.specification import Plan
from gmi_registry.hubs.protocol import Hub, SpecStore
from gmi_registry.spec import ModelRef

__all__ = ["Order", "Outcome", "Progress", "Publication", "Stage"]

Stage = Literal["check", "generate", "encode", "write"]
Progress = Callable[[Stage, int, int], None]
"""Told (stage, done, total): steps in ``check`` and ``write``, pictures in the other two.

Those two go on side by side.
"""

Outcome = Literal["published", "up to date", "already proposed", "planned"]
"""``already proposed``: an open pull request of this account's has the same, and is ``where``."""


@dataclass(frozen=True)
class Publication:
    """What publishing did.

    ``spec_digest`` is None after a dry run of something new. ``images`` counts the pictures that
    this call generated, without those of an earlier, interrupted one; ``seconds`` is wall time.
    """

    ref: ModelRef
    outcome: Outcome
    spec_digest: str | None
    where: str
    images: int
    seconds: float
    plan: Plan


@dataclass(frozen=True)
class Order:
    """Where to and how, as :func:`~gmi_registry.publish.publish` was told."""

    ref: ModelRef
    hub: Hub
    work: Path
    output: Path | None
    device: str | None
    force: bool
    proposal: dict[str, bool]
    progress: Progress
    store: SpecStore | None
    base: ModelRef | None = None
    offload: Offload | None = None
    allow_partial: bool = False

    @property
    def options_of_base(self) -> dict[str, ModelRef]:
        """What the hub is told of the base: nothing where none was named, as a hub of somebody
        else's may know nothing of it."""
        return {} if self.base is None else {"base": self.base}

    @property
    def shelf(self) -> Hub | SpecStore:
        """What holds the specification: the hub itself, beside the model, or a store."""
        return self.hub if self.store is None else self.store
