"""Digests of large files, remembered so that unchanged gigabytes are read once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from pathlib import Path

from gmi_registry.errors import HubError
from gmi_registry.hubs.confinement import opened_plain
from gmi_registry.sealed import read_sealed, write_sealed

__all__ = ["FileDigests"]

_CHUNK = 1024 * 1024
# Clocks of file systems tick as coarsely as 2 s: a file may change twice within one tick, and
# carry the same times before and after.
_TICK_NS = 2_000_000_000
_SHA256 = re.compile(rb"[0-9a-f]{64}")

_log = logging.getLogger(__name__)


class FileDigests:
    """SHA-256 of files, kept in ``directory`` under path, size, times and inode.

    One small file a digest, so that processes share the directory without locks. Where it cannot
    be written, digests are computed each time. One that is damaged is made again; deleting the
    directory at any time is safe.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def sha256(self, path: Path, *, inside: Path | None = None) -> str:
        """Digest (hex) of a regular file, which lies in ``inside`` once links are followed.

        Raises HubError where it cannot be read.
        """
        place, links = (path, True) if inside is None else (path.resolve(), inside)
        try:
            # Large files are shared between users by giving them several names.
            with opened_plain(place, links, second_names=True) as stream:
                before = os.fstat(stream.fileno())
                note = self.directory / _key(path, before)
                known = _noted(note)
                if known is not None:
                    return known
                digest = hashlib.sha256()
                while chunk := stream.read(_CHUNK):
                    digest.update(chunk)
                after = os.fstat(stream.fileno())
        except OSError as error:
            raise HubError(f"{path} cannot be read: {error.strerror or error}") from error
        if _key(path, before) != _key(path, after):
            raise HubError(f"{path} changed while it was read", hint="try again when it is whole")
        if time.time_ns() - before.st_mtime_ns > _TICK_NS:
            _write_note(note, digest.hexdigest())
        return digest.hexdigest()


def _key(path: Path, status: os.stat_result) -> str:
    # The change time as well: programs that unpack or copy put the modification time back.
    parts = [
        os.fspath(path.absolute()),
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_ino,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _noted(note: Path) -> str | None:
    content = read_sealed(note, limit=64)
    return content.decode() if content is not None and _SHA256.fullmatch(content) else None


def _write_note(note: Path, digest: str) -> None:
    try:
        write_sealed(note, digest.encode())
    except OSError as error:
        _log.debug("cannot remember the digest of a file: %s", error)
