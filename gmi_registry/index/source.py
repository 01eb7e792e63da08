"""Where a specification comes from, said so that the index need not know any hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gmi_registry.index.standing import UNKNOWN, Standing
from gmi_registry.spec import ModelRef, Spec

__all__ = ["SpecSource"]


@dataclass(frozen=True)
class SpecSource:
    """One model that has a specification.

    ``load`` reads it, and is not called where the cache already has it. For that the source names
    either ``digest``, the SHA-256 of ``spec.json``, or a ``stamp``: any text that changes whenever
    the two files do, such as hub, id and revision, or path, sizes and modification times. With
    neither, the specification is read each time. ``downloads`` and ``nsfw`` replace what the
    manifest says, unless they are None; ``hub_tags`` are those that the hub lists now, ``standing``
    is what it says of the specification, ``url`` the model's page there. ``checked`` says that
    ``load`` refuses a specification of any other model, so that another name in what it gives is
    one that the model had before; else a source of another model is skipped.
    """

    model: ModelRef
    load: Callable[[], Spec]
    digest: str | None = None
    stamp: str | None = None
    downloads: int | None = None
    nsfw: bool | None = None
    hub_tags: tuple[str, ...] = ()
    standing: Standing = UNKNOWN
    url: str | None = None
    checked: bool = False
