"""A page as a file."""

from __future__ import annotations

import os
from pathlib import Path

from gmi_registry.atomic import write_file
from gmi_registry.errors import InputError

_HINT = "name a file in a folder that exists and that you may write to"


def require_place(path: Path, what: str, *, hint: str = _HINT) -> None:
    """Raise InputError where :func:`write_whole` could not write ``path``; nothing is written."""
    folder = path.absolute().parent
    reason = None
    if path.is_dir():
        reason = "it is a folder"
    elif not folder.is_dir():
        reason = f"{folder} is no folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        reason = f"you may not write to {folder}"
    if reason is not None:
        raise InputError(f"{path}: the {what} cannot be written: {reason}", hint=hint)


def write_whole(path: Path, text: str, what: str, *, hint: str = _HINT) -> Path:
    """Write ``text`` as UTF-8 to ``path`` whole or not at all, and return the absolute path.

    Raises InputError, which calls the text ``what``, where that cannot be done; a file that was
    there before is then unchanged.
    """
    # A file name may hold bytes that are no text.
    content = text.encode("utf-8", "backslashreplace")
    path = path.absolute()
    try:
        write_file(path, content)
    except OSError as error:
        raise InputError(
            f"{path}: the {what} cannot be written: {error.strerror}",
            hint=hint,
        ) from error
    return path
