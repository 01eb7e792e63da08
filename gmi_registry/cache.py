"""What earlier searches left on this disk, in its parts, and how to be rid of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.index.cache import SpecCache
from gmi_registry.index.eviction import StoredFile, evict, stored_files

__all__ = ["CachePart", "Pruned", "cache_parts", "prune"]

_LIBRARY = "gmi-registry"


@dataclass(frozen=True)
class CachePart:
    """One part of the cache. ``folders`` need not exist.

    ``prunable`` is False for what nobody can make again without long work.
    """

    name: str
    folders: tuple[Path, ...]
    prunable: bool = True

    def files(self) -> list[StoredFile]:
        """Its files, each with its size in bytes and its last use."""
        return [file for folder in self.folders for file in stored_files(folder)]


@dataclass(frozen=True)
class Pruned:
    """How many files of a part went, and their bytes."""

    part: CachePart
    files: int
    bytes: int


def cache_parts(cache_dir: Path | None = None) -> tuple[CachePart, ...]:
    """The parts of the cache in ``cache_dir`` (None: this user's caches).

    Models and torch's encoders that were downloaded are not among them: they lie in
    huggingface_hub's own cache, for which there is ``hf cache``.
    """
    if cache_dir is None:
        from huggingface_hub import constants
        from platformdirs import user_cache_path

        own = user_cache_path(_LIBRARY, appauthor=False)
        assets = Path(constants.HF_ASSETS_CACHE) / _LIBRARY
    else:
        own, assets = cache_dir, cache_dir / "assets" / _LIBRARY
    return (
        CachePart("specifications", (SpecCache(own).directory,)),
        CachePart("digests of weights", (own / "weights-v1",)),
        CachePart("listings of hubs", (assets,)),
        CachePart("exported encoders", (own / "encoders", own / "encoders-checked-v1")),
        CachePart("unfinished publications", (own / "work",), prunable=False),
    )


def prune(
    parts: tuple[CachePart, ...],
    *,
    unused_for: float = 0.0,
    max_bytes: int = 0,
    dry_run: bool = False,
) -> tuple[Pruned, ...]:
    """Delete what was used longest ago, of all prunable parts taken together.

    Files used within the last ``unused_for`` seconds stay, and so does everything once
    ``max_bytes`` bytes or less are left; with the defaults nothing stays. ``dry_run`` only counts.
    Safe beside a running search, which reads from the hub again what it no longer finds. Nothing is
    raised for a file that cannot be deleted: it is not counted.
    """
    chosen = [part for part in parts if part.prunable]
    files = [file for part in chosen for file in part.files()]
    gone = set(evict(files, unused_for=unused_for, max_bytes=max_bytes, dry_run=dry_run))
    return tuple(_counted(chosen, gone))


def _counted(parts: list[CachePart], gone: set[StoredFile]) -> Iterator[Pruned]:
    for part in parts:
        own = [
            file
            for file in gone
            if any(file.path.is_relative_to(folder) for folder in part.folders)
        ]
        yield Pruned(part, len(own), sum(file.size for file in own))
