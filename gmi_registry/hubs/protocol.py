"""What a hub is: a place that holds models, and carries specifications beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gmi_registry.model import Kind, ModelFiles
from gmi_registry.spec import ModelRef

__all__ = ["Hub", "Listing", "ListingFilter"]


@dataclass(frozen=True)
class ListingFilter:
    """What a search asks a hub to list: all ``tags``, none of ``not_tags``; case does not count."""

    tags: tuple[str, ...] = ()
    not_tags: tuple[str, ...] = ()
    base_model: str | None = None
    kind: Kind | None = None

    def admits(self, tags: Iterable[str], base_model: str | None, kind: str | None) -> bool:
        """Whether a model that is described so passes."""
        found = {tag.casefold() for tag in tags}
        return (
            all(tag.casefold() in found for tag in self.tags)
            and not any(tag.casefold() in found for tag in self.not_tags)
            and _same(self.base_model, base_model)
            and _same(self.kind, kind)
        )


def _same(wanted: str | None, found: str | None) -> bool:
    return wanted is None or (found is not None and wanted.casefold() == found.casefold())


@dataclass(frozen=True)
class Listing:
    """One model that a hub says has a specification.

    ``spec_digest`` is the SHA-256 (hex) of its ``spec.json`` where the hub knows it without a
    download, else None: with it an unchanged specification is not read again.
    """

    ref: ModelRef
    tags: tuple[str, ...]
    spec_digest: str | None = None
    url: str | None = None


class Hub(Protocol):
    """Where models are. Every method raises a HubError (or OfflineError) with its fix."""

    @property
    def name(self) -> str:
        """As in ``ModelRef.hub``."""
        ...

    def list_specs(self, wanted: ListingFilter) -> Iterator[Listing]:
        """The models with a specification that pass the filter, in a fixed order."""
        ...

    def fetch_spec(self, ref: ModelRef) -> Path:
        """A folder on this disk that holds the model's ``spec.json`` and ``spec.tensors``."""
        ...

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """The model's contact sheet on this disk, or None where it has none."""
        ...

    def fetch_model(self, ref: ModelRef) -> ModelFiles:
        """The model's files on this disk, with its base model's where it needs one."""
        ...

    def fetch_encoder(self, name: str, pretrained: str) -> Path | None:
        """A folder in open_clip's layout for an encoder that the hub carries, or None."""
        ...

    def check_writable(self, ref: ModelRef) -> None:
        """Raises AuthError or HubError where ``push_spec`` would fail for want of rights."""
        ...

    def push_spec(self, ref: ModelRef, folder: Path) -> str:
        """Put the files of ``folder`` beside the model, all or none; returns where they are."""
        ...
