"""What ``gmi index info`` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.cli.screen import write_pairs
from gmi_registry.index.hubness import FEWEST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gmi_registry.index import ComparabilityKey, Hubness
    from gmi_registry.index.stored import StoredIndex

__all__ = ["inventory", "write_inventory"]

_REMARKABLE = 2.0
"""Times the share that a model has to be first for, beyond chance, to be named."""


def inventory(
    folder: Path, index: StoredIndex, hubness: Mapping[ComparabilityKey, Hubness]
) -> dict[str, Any]:
    """The JSON document: models in all, by hub and by group, what they take on the disk, and which
    of them are near everything."""
    found = index.info
    hubs = Counter(name.partition(":")[0] for group in index.groups for name in group.names)
    return {
        "index": str(folder),
        "version": found.version,
        "digest": found.digest,
        "models": found.rows,
        "hubs": dict(sorted(hubs.items())),
        "bytes": found.bytes,
        "groups": [
            {
                "group": str(group.key),
                "encoder": f"{group.encoder.name}/{group.encoder.pretrained}",
                "prompt_set": group.prompt_set,
                "models": group.rows,
                "removed": group.removed,
                "parts": group.parts,
                "bytes": group.bytes,
                "hubness": _hubness(hubness[group.key]),
            }
            for group in found.groups
        ],
    }


def _hubness(found: Hubness) -> dict[str, Any]:
    return {
        "models": found.models,
        "images": found.asked,
        "pictures": found.pictures,
        "share": found.share,
        "hubs": [
            {
                "model": hub.model,
                "first": hub.first,
                "tenth": hub.tenth,
                "breadth": hub.breadth,
                "at_least": hub.certain,
                "pictures": hub.pictured,
                "pictures_at_least": hub.certain_pictured,
                "universal": found.is_universal(hub),
            }
            for hub in found.hubs
        ],
    }


def _told(found: dict[str, Any]) -> list[str]:
    """A line for each model that is beyond doubt first more often than it should be."""
    if found["models"] < FEWEST:
        return [f"{found['models']:,} models are too few to say"]
    lines = []
    for hub in found["hubs"]:
        times = hub["first"] / found["share"]
        if hub["universal"] or hub["at_least"] > _REMARKABLE * found["share"]:
            told = f"{hub['model']}: first for {hub['first']:.1%} of {found['images']:,} images"
            told += f" of other models, {times:.1f} times its share"
            told += f" (at least {hub['at_least'] / found['share']:.1f})"
            if hub["pictures"] is not None:
                told += f", and for {hub['pictures']:.1%} of {found['pictures']} pictures"
            lines.append(told + ("; near everything" if hub["universal"] else ""))
    return lines or ["none: no model is first far more often than its share"]


def write_inventory(found: dict[str, Any]) -> None:
    """The same for people."""
    named = ", ".join(f"{hub} {count:,}" for hub, count in found["hubs"].items())
    groups = [
        (
            "group",
            f"{group['group']}: {group['models']:,} models, {group['encoder']}, prompts "
            f"{group['prompt_set']}, {group['parts']} parts, {group['bytes']:,} bytes",
        )
        for group in found["groups"]
    ]
    write_pairs(
        [
            ("models", f"{found['models']:,}" + (f" ({named})" if named else "")),
            ("size", f"{found['bytes']:,} bytes"),
            ("format", found["version"]),
            ("digest", found["digest"]),
            *groups,
            *(("hubs", line) for group in found["groups"] for line in _told(group["hubness"])),
        ]
    )
