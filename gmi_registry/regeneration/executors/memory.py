"""How much memory there is, and how much a model will take."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gmi_registry.errors import GmiError
from gmi_registry.regeneration.executor import Work

__all__ = ["BASE", "FACTOR", "UNKNOWN", "estimated_need", "free_memory"]

BASE = 3 * 2**30
"""Bytes for the libraries (some 1 GiB) and an encoder such as ViT-L-14 in float32 (1.7 GB)."""

FACTOR = 3.0
"""Weights in memory to weights on disk, at their most.

A network of 840 million weights, as that of Stable Diffusion 1.5, came to 2.9 where it was stored
in 16 bits and drew in 32, while both are held; where it was stored in 32 bits it came to 1.
"""

UNKNOWN = 8 * 2**30
"""Bytes of weights where nobody says how many there are: a model of the larger kind."""

_PROC = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_WEIGHTS = (".safetensors", ".gguf")


def estimated_need(work: Work) -> int:
    """Bytes of memory that describing the model takes, by the sizes of its weights.

    They are those that its present specification names, the base's included: other weights of a
    model are most often of the same size. Where it has none they are those in its folder; else the
    model counts as a large one. At most a few requests, and nothing is raised.
    """
    weights = _described(work)
    if weights is None:
        weights = _in_folder(work)
    return BASE + int(FACTOR * (UNKNOWN if weights is None else weights))


def free_memory() -> int:
    """Bytes that new processes may take, within the limit of this container where it has one."""
    bounds = [bound for bound in (_of_machine(), _of_container(_CGROUP)) if bound is not None]
    # Where nothing is known, nothing can be bounded.
    return min(bounds, default=2**63)


def _described(work: Work) -> int | None:
    from gmi_registry.hubs.open import opened_hub
    from gmi_registry.hubs.resolve import makes_links
    from gmi_registry.spec import SPEC_DIR, ModelRef, read_manifest

    access = work.options.access
    try:
        ref = ModelRef.parse(work.model)
        if work.to_registry and work.hub == "hf":
            from gmi_registry.hubs.registry import Registry

            with Registry.open(access) as registry:
                model = read_manifest(registry.fetch_spec(ref).parent, follow_links=True).model
        else:
            with opened_hub(work.hub, access) as hub:
                folder = hub.fetch_spec(ref)
                parent = folder.parent if folder.name == SPEC_DIR else folder
                model = read_manifest(parent, follow_links=makes_links(hub)).model
    except GmiError:
        return None
    return sum(file.size for file in (*model.weights, *(model.base_weights or ())))


def _in_folder(work: Work) -> int | None:
    folder = Path(work.hub.removeprefix("local:")) / "models" / work.model.partition(":")[2]
    if work.hub in ("hf", "civitai") or not folder.is_dir():
        return None
    files = (path for path in folder.rglob("*") if path.suffix in _WEIGHTS and path.is_file())
    sizes = [path.stat().st_size for path in files]
    return sum(sizes) if sizes else None


def _of_machine() -> int | None:
    try:
        for line in _PROC.read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name == "MemAvailable":
                return int(rest.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        # Of the libraries that draw, accelerate requires it.
        psutil: Any = importlib.import_module("psutil")
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def _of_container(root: Path) -> int | None:
    """What the control group has left; memory of cached files is given back where it is wanted."""
    pairs = (
        (root / "memory.max", root / "memory.current", root / "memory.stat", "inactive_file"),
        (
            root / "memory" / "memory.limit_in_bytes",
            root / "memory" / "memory.usage_in_bytes",
            root / "memory" / "memory.stat",
            "total_inactive_file",
        ),
    )
    for limit, usage, statistics, cached in pairs:
        try:
            most = limit.read_text(encoding="ascii").strip()
            if most == "max":
                return None
            used = int(usage.read_text(encoding="ascii"))
            lines = statistics.read_text(encoding="ascii").splitlines()
            given_back = sum(int(line.split()[1]) for line in lines if line.split()[0] == cached)
            return max(0, int(most) - used + given_back)
        except (OSError, ValueError, IndexError):
            continue
    return None
