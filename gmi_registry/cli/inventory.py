"""What ``gmi index info`` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmi_registry.cli.screen import write_pairs

if TYPE_CHECKING:
    from gmi_registry.index.stored import StoredIndex

__all__ = ["inventory", "write_inventory"]


def inventory(folder: Path, index: StoredIndex) -> dict[str, Any]:
    """The JSON document: models in all, by hub and by group, and what they take on the disk."""
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
            }
            for group in found.groups
        ],
    }


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
        ]
    )
