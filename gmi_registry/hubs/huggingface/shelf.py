"""What of the models in a listing lies on this disk, told without a request."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime

from gmi_registry.filters import Traits
from gmi_registry.hubs.huggingface.catalogue import Catalogue, Entry
from gmi_registry.hubs.huggingface.download import Downloads
from gmi_registry.hubs.protocol import Listing, is_stale
from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, TENSORS_NAME, ModelRef, WeightFile
from gmi_registry.spec.manifest import MANIFEST_LIMIT

__all__ = ["MANIFEST", "TENSORS", "Shelf"]

MANIFEST = f"{SPEC_DIR}/{MANIFEST_NAME}"
"""The manifest's path in a repository."""

TENSORS = f"{SPEC_DIR}/{TENSORS_NAME}"
"""Likewise the tensor file's."""


class Shelf:
    """The specifications of the hub at ``endpoint`` that ``downloads`` brought here before."""

    def __init__(self, endpoint: str, downloads: Downloads, catalogue: Catalogue) -> None:
        self._endpoint = endpoint
        self._downloads = downloads
        self._catalogue = catalogue

    def on_disk(self, entry: Entry) -> Entry | None:
        """The entry at its newest commit of which both files are here; None where there is none, or
        the hub says that the model has none any more."""
        if not entry.has_spec:
            return None
        for position, sha in enumerate(entry.commits):
            if all(self._downloads.cached(entry.id, path, sha) for path in (MANIFEST, TENSORS)):
                return dataclasses.replace(entry, commits=entry.commits[position:])
        return None

    def listing(self, entry: Entry) -> Listing:
        """The entry for a search, with what is known of its specification at that commit."""
        digest = stale = None
        manifest = self._downloads.cached(entry.id, MANIFEST, entry.sha)
        if manifest is not None:
            with manifest.open("rb") as stream:
                content = stream.read(MANIFEST_LIMIT + 1)
            digest = hashlib.sha256(content).hexdigest()
            current = self._catalogue.weights(entry.id, entry.sha)
            if current is not None:
                stale = is_stale(_described(content), current)
        return Listing(
            ModelRef("hf", entry.id, entry.sha),
            entry.tags,
            spec_digest=digest,
            url=f"{self._endpoint}/{entry.id}",
            stale=stale,
            modified=_time(entry.modified),
            traits=Traits.listed("hf", entry.tags),
            has_spec=entry.has_spec,
        )


def _described(content: bytes) -> list[WeightFile]:
    """The weights that a manifest names; none where it is broken, as whoever loads it will say."""
    try:
        return [WeightFile(**weight) for weight in json.loads(content)["model"]["weights"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _time(text: str | None) -> datetime | None:
    try:
        found = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found
