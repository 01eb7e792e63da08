"""Reading from a folder that strangers write to: nothing outside it, nothing that is no file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gmi_registry.errors import HubError

__all__ = ["read_plain", "require_inside"]


def require_inside(path: Path, root: Path) -> None:
    """Raise HubError unless ``path`` lies in ``root`` once all links are followed."""
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a loop of links
        inside = False
    if not inside:
        raise HubError(
            f"{path} is a link that leads out of the hub",
            hint="put the files themselves there; such links are not followed",
        )


def read_plain(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes. Links are not followed.

    Raises FileNotFoundError as such, and HubError for everything else that is wrong.
    """
    if path.is_symlink():
        raise HubError(f"{path} is a symbolic link", hint="put the file itself there")
    # Without O_NONBLOCK a named pipe would keep the reader waiting for ever.
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        handle = os.open(path, flags)
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise HubError(f"{path} is not a regular file")
            with os.fdopen(handle, "rb", closefd=False) as stream:
                content = stream.read(limit + 1)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HubError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > limit:
        raise HubError(f"{path} has more than {limit:,} bytes")
    return content
