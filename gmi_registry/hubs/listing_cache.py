"""What hubs said before, kept on this disk for searches offline; deleting it is always safe.

Files are replaced whole, so that a reader, or a crash, finds the old one or the new one. What is
damaged counts as empty, and where nothing can be written nothing is remembered.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.sanitize import holds_secret

_LIMIT = 512 * 1024 * 1024

_log = logging.getLogger(__name__)


def read_note(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none that can be read."""
    content = read_sealed(path, limit=_LIMIT)
    try:
        found = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        _log.debug("%s cannot be read, and counts as empty: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def write_note(path: Path, document: object) -> None:
    """Put a document into a file, whole or not at all; where that fails nothing is remembered."""
    text = json.dumps(document)
    if holds_secret(text):
        return  # which the hub has echoed
    try:
        write_sealed(path, text.encode())
    except OSError as error:
        _log.debug("%s cannot be written: %s", path, error)


class ListingCache:
    """The last complete listing of one hub, in the file ``path``.

    ``version`` is that of what the hub keeps in it; a file of another one counts as empty.
    """

    def __init__(self, path: Path, version: int) -> None:
        self.path = path
        self._version = version

    def read(self) -> dict[str, Any]:
        """What :meth:`keep` was given, and when, as ``listed``; empty where there was none."""
        document = read_note(self.path)
        declared = document.get("format")
        known = isinstance(declared, dict) and declared.get("version") == self._version
        return document if known else {}

    @property
    def listed(self) -> float | None:
        """When the last listing was kept, in seconds since 1970; None where there was none."""
        listed = self.read().get("listed")
        if isinstance(listed, int | float) and 0 <= listed < math.inf:
            return float(listed)
        return None

    @property
    def age(self) -> float | None:
        """How many seconds ago that was."""
        listed = self.listed
        return None if listed is None else max(0.0, time.time() - listed)

    def keep(self, **content: object) -> None:
        """Keep a complete listing in place of the one before."""
        declared = {"name": "gmi-listing", "version": self._version}
        write_note(self.path, {"format": declared, "listed": time.time(), **content})
