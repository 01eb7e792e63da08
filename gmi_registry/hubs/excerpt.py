"""The few fields of a manifest that a listing needs, without the cost of checking all of it."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.errors import HubError
from gmi_registry.hubs.confinement import read_plain
from gmi_registry.spec import MANIFEST_NAME
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.manifest import MANIFEST_LIMIT

__all__ = ["Excerpt", "read_excerpt"]

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Excerpt:
    """``digest`` is the SHA-256 (hex) of ``spec.json``; the rest are fields of ``model`` in it.

    ``weights_digest`` is that of :class:`~gmi_registry.spec.DescribedModel`.
    """

    digest: str
    tags: tuple[str, ...]
    base_model: str | None
    kind: str
    weights_digest: str


def read_excerpt(folder: Path, inside: Path | None = None) -> Excerpt:
    """Read from ``folder``/spec.json, where ``folder`` is a ``gmi`` in the hub ``inside``.

    A full check costs ten times as much, and comes with loading. Raises HubError where the file is
    missing, a link or too large, lies outside of the hub, or is plainly no manifest.
    """
    path = folder / MANIFEST_NAME
    try:
        content = read_plain(path, MANIFEST_LIMIT, inside or False, within=(folder.name,))
    except FileNotFoundError:
        raise HubError(f"{path} is missing") from None
    try:
        model = json.loads(content)["model"]
        tags = model.get("tags", [])
        base_model, kind = model.get("base_model"), model.get("kind")
        weights = [[weight["path"], weight["sha256"]] for weight in model["weights"]]
        usable = (
            isinstance(tags, list)
            and all(isinstance(text, str) for text in (*tags, kind))
            and isinstance(base_model, str | None)
            and all(_SHA256.fullmatch(sha256) for _, sha256 in weights)
        )
        weights_digest = canonical_digest(weights)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        usable = False
    if not usable:
        raise HubError(f"{path} is not a manifest")
    return Excerpt(
        hashlib.sha256(content).hexdigest(), tuple(tags), base_model, kind, weights_digest
    )
