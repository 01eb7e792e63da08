"""Two folders with the registry's files, the second one read as a proposal to the first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from gmi_registry.errors import HubError, InputError
from gmi_registry.hubs.confinement import opened_plain
from gmi_registry.hubs.registry.layout import entry_file, entry_path
from gmi_registry.hubs.registry.proposal import Proposal
from gmi_registry.spec import MANIFEST_NAME, ModelRef

__all__ = ["compare_folders"]

_GIT = ".git"
_CHUNK = 1024 * 1024


def compare_folders(base: Path, folder: Path) -> Proposal:
    """What ``folder`` changes of ``base``; git's own folder at the root of either is left out.

    Links are not followed. Whose an entry is no folder knows, so that replacing one is for a
    maintainer. Raises InputError where one of them is no folder, or cannot be read.
    """
    try:
        before, after = dict(_files(base)), dict(_files(folder))
        changed = {
            path: after[path].lstat().st_size
            for path in after
            if path not in before or not _same(before[path], after[path])
        }
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    return Proposal(
        changed={**changed, **{path: None for path in before if path not in after}},
        author=None,
        commit=None,
        owners=lambda entry: _nobody(base, entry),
        unpack=lambda entry: folder / entry_path(entry),
        linked=False,
    )


def _nobody(base: Path, entry: ModelRef) -> frozenset[str] | None:
    return frozenset() if os.path.lexists(base / entry_file(entry, MANIFEST_NAME)) else None


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", hint="name a folder with the registry's files")
    for place, folders, names in os.walk(root, onerror=_raise):
        here = Path(place)
        if here == root and _GIT in folders:
            folders.remove(_GIT)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*names, *links):
            path = here / name
            yield path.relative_to(root).as_posix(), path


def _same(first: Path, second: Path) -> bool:
    try:
        with opened_plain(first) as before, opened_plain(second) as after:
            while True:
                pieces = before.read(_CHUNK), after.read(_CHUNK)
                if pieces[0] != pieces[1]:
                    return False
                if not pieces[0]:
                    return True
    except HubError:  # a link, or no regular file
        return False


def _raise(error: OSError) -> None:
    raise error
