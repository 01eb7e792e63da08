"""What earlier searches left on this disk, in its parts, and how to be rid of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gmi_registry.index.cache import SpecCache, StoredFile, evict, stored_files
from gmi_registry.index.stored.files import database_path, kept_database

__all__ = ["CachePart", "Pruned", "cache_parts", "prune"]

_LIBRARY = "gmi-registry"
_PREFILTERS = ("stored-index-prefilters", "stored-index-frames")
"""The second is what version 0.1 left."""


@dataclass(frozen=True)
class CachePart:
    """One part of the cache. Neither ``folders`` nor ``database`` need exist.

    ``prunable`` is False for what nobody can make again without long work.
    """

    name: str
    folders: tuple[Path, ...]
    prunable: bool = True
    database: Path | None = None

    def files(self) -> list[StoredFile]:
        """Its files, each with its size in bytes and its last use."""
        found = [file for folder in self.folders for file in stored_files(folder)]
        kept = None if self.database is None else kept_database(self.database)
        return found if kept is None else [kept, *found]


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
        CachePart(
            "what was worked out for indexes",
            tuple(own / name for name in _PREFILTERS),
            database=database_path(own),
        ),
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
    held = [(part, part.files()) for part in chosen]
    files = [file for _, own in held for file in own]
    gone = set(evict(files, unused_for=unused_for, max_bytes=max_bytes, dry_run=dry_run))
    return tuple(_counted(part, gone.intersection(own)) for part, own in held)


def _counted(part: CachePart, gone: set[StoredFile]) -> Pruned:
    return Pruned(part, len(gone), sum(file.size for file in gone))
