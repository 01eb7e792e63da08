"""Folders of this program outside anybody's project: the cache, and work in progress."""

from __future__ import annotations

from pathlib import Path

from gmi_registry.errors import InputError

__all__ = ["cache_folder", "work_folder"]


def cache_folder(chosen: Path | None) -> Path:
    """Where is kept what was read or worked out once; made when it is first written."""
    if chosen is not None:
        return chosen
    from platformdirs import user_cache_path

    return user_cache_path("gmi-registry", appauthor=False)


def work_folder(chosen: Path | None, cache: Path) -> Path:
    """Where unfinished generation is kept, by default in ``cache``; it exists on return.

    Raises InputError where it cannot be made.
    """
    folder = cache / "work" if chosen is None else chosen
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made: {error.strerror}",
            hint="choose a work folder with --work DIR",
        ) from error
    return folder
