"""Where the files of an index come from."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from gmi_registry.errors import SpecFormatError, SpecNotFoundError
from gmi_registry.index.stored.document import DOCUMENT_NAME
from gmi_registry.index.stored.fault import AGAIN

__all__ = ["FolderFiles", "IndexFiles"]


class IndexFiles(Protocol):
    """Something that has the files of one state of an index."""

    def fetch(self, name: str, *, sha256: str | None, size: int | None) -> Path:
        """The file ``name``, relative to ``index.json`` and divided by ``/``, on this disk.

        ``sha256`` and ``size`` (bytes) are what ``index.json`` says of it, None for that document
        itself; whoever asks checks the bytes against them, so that they need only serve to find
        the file, or to refuse one that is too large. Raises some GmiError where there is none.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether the file would be there at once, without anything being asked of a network."""
        ...


class FolderFiles:
    """An index in a folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def fetch(self, name: str, *, sha256: str | None, size: int | None) -> Path:
        """The file itself.

        Raises SpecNotFoundError where the folder holds no index, SpecFormatError for a file that
        is missing, or in whose place lies a link or no plain file.
        """
        path = self.folder.joinpath(*name.split("/"))
        if name == DOCUMENT_NAME and not path.exists():
            raise SpecNotFoundError(
                f"{self.folder} holds no {DOCUMENT_NAME}",
                hint="make the index with gmi index build, or name the folder where it lies",
            )
        if path.is_symlink() or path.parent.is_symlink():
            raise SpecFormatError(f"{path} is a symbolic link", hint="put the file itself there")
        if not path.is_file():
            raise SpecFormatError(f"{path} is missing", hint=AGAIN)
        return path

    def has(self, name: str) -> bool:
        """All of an index in a folder is there."""
        return True
