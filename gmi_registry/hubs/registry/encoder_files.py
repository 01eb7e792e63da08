"""Exported encoders in the registry, so that whoever only searches needs neither torch nor weights.

::

    encoders/{architecture}/{weights tag}/{first 16 digits of the weights' SHA-256}/...

Only the registry's maintainers write there: a proposal may change an entry, and nothing else.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from gmi_registry.errors import InputError
from gmi_registry.hubs.registry.dataset import Dataset

__all__ = ["encoder_path", "fetch_encoder_files"]

_FOLDER = "encoders"
_DIGITS = 16
_MOST = 8
"""Weights of one name that are looked at: more than were ever published under one."""


def encoder_path(name: str, pretrained: str, weights_sha256: str) -> str:
    """The folder of an encoder's export, below the root of the dataset."""
    return f"{_FOLDER}/{name}/{pretrained}/{weights_sha256[:_DIGITS]}"


def fetch_encoder_files(
    dataset: Dataset,
    name: str,
    pretrained: str,
    target: Path,
    *,
    limits: Mapping[str, int],
    accepts: Callable[[Path], bool],
) -> Path | None:
    """Put an export of the encoder ``name/pretrained`` into ``target``, all files or none.

    ``limits`` are the files and the most bytes of each. The first file of every export is shown to
    ``accepts`` in a folder of its own; the rest are fetched of the first that it accepts. None
    where there is no such export; the target where it is there already. Two requests, two or more
    a file, and nothing is sent but the name.

    Raises InputError where the target cannot be written, and as :class:`.Dataset`.
    """
    if target.exists():
        return target
    commit = dataset.head()
    folders = sorted(
        path
        for path, held in dataset.level(commit, f"{_FOLDER}/{name}/{pretrained}").items()
        if isinstance(held, str)
    )
    first = next(iter(limits))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a rename is all that is left to do.
        with tempfile.TemporaryDirectory(prefix=".gmi-", dir=target.parent) as place:
            scratch = Path(place)
            source = dataset.in_cache(scratch / "hub")
            for folder in folders[:_MOST]:
                there = dataset.stored(commit, [f"{folder}/{name}" for name in limits])
                if len(there) < len(limits):
                    continue
                fresh = scratch / Path(folder).name
                fresh.mkdir()
                _take(source, f"{folder}/{first}", commit, fresh / first, limits[first])
                if not accepts(fresh):
                    continue
                for file in [file for file in limits if file != first]:
                    _take(source, f"{folder}/{file}", commit, fresh / file, limits[file])
                try:
                    fresh.rename(target)
                except OSError:
                    if not target.exists():  # else another search was quicker
                        raise
                return target
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="name another place: --cache-dir DIR",
        ) from error
    return None


def _take(dataset: Dataset, path: str, commit: str, target: Path, limit: int) -> None:
    # What is fetched is a link within the cache, which goes away: the file itself is moved.
    shutil.move(dataset.fetch(path, commit, limit=limit).resolve(), target)
