"""The folder that an index is written to."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from gmi_registry.atomic import flush_file, flush_folder, scratch_file
from gmi_registry.index.stored.document import DOCUMENT_NAME
from gmi_registry.index.stored.record import FileRecord, file_name

__all__ = ["Store"]

_GROUP = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(r"[0-9a-f]{32}-[a-z]+\.(jsonl|tensors)")
_SCRATCH = re.compile(r"\.[a-z0-9_]+\.part")


class Store:
    """Files that never change under names that follow from their content, and one that names them.

    A file is there whole or not at all. Whoever is stopped before ``conclude`` leaves the index as
    it was, and files that the next writer takes away. ``written`` counts bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written = 0

    def put(self, group: str, kind: str, pieces: Iterable[bytes | memoryview]) -> FileRecord:
        """Write a file of a group. Nothing refers to it yet."""
        place = self.folder / group
        place.mkdir(exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with scratch_file(place, private=True) as (stream, scratch):
            for piece in pieces:
                digest.update(piece)
                size += stream.write(piece)
            flush_file(stream)
            stream.close()
            name = file_name(group, kind, digest.hexdigest())
            scratch.replace(self.folder / name)
        self.written += size
        return FileRecord(name=name, sha256=digest.hexdigest(), size=size)

    def conclude(self, document: bytes, keep: Collection[str]) -> None:
        """Make ``document`` the index, of which ``keep`` are the files; all others go."""
        with scratch_file(self.folder, private=True) as (stream, scratch):
            stream.write(document)
            flush_file(stream)
            stream.close()
            _sync_folders(self.folder)
            scratch.replace(self.folder / DOCUMENT_NAME)
        _sync_folders(self.folder)
        self.written += len(document)
        self.sweep(keep)

    def sweep(self, keep: Collection[str]) -> None:
        """Take away what a writer made and ``keep`` does not name, and nothing else."""
        for path in self.folder.glob(".*.part"):
            if _SCRATCH.fullmatch(path.name):
                path.unlink(missing_ok=True)
        for place in sorted(self.folder.iterdir()):
            if place.is_symlink() or not place.is_dir() or not _GROUP.fullmatch(place.name):
                continue
            for path in sorted(place.iterdir()):
                ours = _FILE.fullmatch(path.name) or _SCRATCH.fullmatch(path.name)
                if ours and f"{place.name}/{path.name}" not in keep:
                    # Where open files cannot be deleted, the next writer will do it.
                    with contextlib.suppress(OSError):
                        path.unlink()
            with contextlib.suppress(OSError):
                place.rmdir()


def _sync_folders(folder: Path) -> None:
    """Have the names of new files reach the disk too, where the system knows how."""
    for place in (folder, *(it for it in folder.iterdir() if _GROUP.fullmatch(it.name))):
        flush_folder(place)
