"""Which exported encoders were checked on this machine, so that each is checked once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
import time
from importlib.metadata import version
from pathlib import Path

from gmi_registry.encoders.layout import OnnxFolder

__all__ = ["Trials"]

# Clocks of file systems tick as coarsely as 2 s: within one tick a file may change unseen.
_TICK_NS = 2_000_000_000
# What the numbers depend on beside the files.
_LIBRARIES = ("ftfy", "numpy", "onnxruntime", "pillow", "regex")

_log = logging.getLogger(__name__)


class Trials:
    """Notes in ``directory``, an empty file each; deleting them at any time is safe.

    A note stands for files of certain sizes, times and inodes, under certain versions of the
    libraries that compute. Where none can be written, every load checks again.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def passed(self, folder: OnnxFolder) -> bool:
        """Whether the files that lie there now were found right before."""
        note = self._note(folder)
        return note is not None and note.is_file()

    def remember(self, folder: OnnxFolder) -> None:
        """Note that the files which lie there now were found right."""
        note, stamp = self._note(folder), folder.stamp()
        if note is None or stamp is None:
            return
        if time.time_ns() - max(times[1] for times in stamp) < _TICK_NS:
            return
        scratch = note.with_name(f".{note.name}.{secrets.token_hex(4)}")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            scratch.touch()
            scratch.replace(note)
        except OSError as error:
            _log.debug("cannot remember that an encoder was checked: %s", error)
            with contextlib.suppress(OSError):
                scratch.unlink()

    def _note(self, folder: OnnxFolder) -> Path | None:
        stamp = folder.stamp()
        if stamp is None:
            return None
        libraries = [version(name) for name in _LIBRARIES]
        parts = [os.fspath(folder.path.absolute()), folder.digest, libraries, stamp]
        return self.directory / hashlib.sha256(json.dumps(parts).encode()).hexdigest()
