"""Specifications that were read before, kept on disk, and what of a cache is deleted first.

A digest names a content for ever, so nothing here goes stale. A hub that cannot name the digest
gives a stamp instead (a revision, or sizes and times of the files), which is remembered with the
digest it led to. Files are sealed (:mod:`gmi_registry.atomic`): one that does not fit, for whatever
reason, is deleted and made again. They appear under their names whole or not at all, so any number
of processes may share a directory, the last to write the same content winning, and ``prune`` may
run beside them: what it takes away is read from the hub again.

The time of a file's last use is its modification time, which the caches here set anew when they
read it; the access time that a file system keeps is switched off on many.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load, save

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.index.entry import IndexedSpec, IndexEntry

_SCRATCH_AGE = 3600.0
"""Seconds after which a file that somebody was writing, its name a dot first, has been given up."""

_MARK_AGE = 3600.0
"""Seconds after which a use is noted again: not at every read, and soon enough for days."""

_log = logging.getLogger(__name__)


def _deleted(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        _log.debug("cannot delete %s: %s", path, error)
        return False
    return True


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file with its size in bytes and its last use in seconds since 1970.

    ``delete`` takes ``path`` away and says whether it did.
    """

    path: Path
    size: int
    used: float
    delete: Callable[[Path], bool] = _deleted


def stored_files(folder: Path) -> list[StoredFile]:
    """The plain files in ``folder`` and below, sorted by path; links are not followed.

    What cannot be looked at, or vanishes meanwhile, is left out.
    """
    found = []
    for place, _, names in os.walk(folder, followlinks=False):
        for name in names:
            path = Path(place, name)
            try:
                status = path.lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                found.append(StoredFile(path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda file: file.path)


def evict(
    files: Iterable[StoredFile],
    *,
    unused_for: float = 0.0,
    max_bytes: int = 0,
    dry_run: bool = False,
) -> list[StoredFile]:
    """Delete the files longest unused until at most ``max_bytes`` are left; return what went.

    Files used within the last ``unused_for`` seconds are spared, even where more than ``max_bytes``
    stay then. With the defaults everything goes. ``dry_run`` only says what would. Each file goes
    in one step, so a program that reads them at the same time finds one whole or not at all; one
    that cannot be deleted stays, without an error.
    """
    files = list(files)
    now = time.time()
    left = sum(file.size for file in files)
    gone = []
    for file in sorted(files, key=lambda file: (file.used, file.path)):
        if left <= max_bytes and max_bytes > 0:
            break
        age = now - file.used
        if unused_for > 0 and age < unused_for:
            continue
        if file.path.name.startswith(".") and age < _SCRATCH_AGE:
            continue
        if dry_run or file.delete(file.path):
            gone.append(file)
            left -= file.size
    return gone


def mark_used(path: Path) -> None:
    """Note that ``path`` was read now. Nothing is raised: a cache may be read-only."""
    try:
        if abs(time.time() - path.stat().st_mtime) > _MARK_AGE:
            os.utime(path)
    except OSError as error:
        _log.debug("cannot note the use of %s: %s", path, error)


# Part of the path: a program that stores something else stores it elsewhere.
_LAYOUT = "index-v1"
# A digest that a hub names becomes a file name, so nothing but a digest may.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SPEC_SUFFIX = ".bin"
_LIMIT = 2 * 1024**3
_RECENT = 7 * 24 * 3600.0

Beside = Literal["background", "hubness", "prompts", "temperature"]
"""What else is kept: background pictures and prompts by encoder, and what was measured of sets of
models."""

_KINDS: tuple[Beside, ...] = ("background", "hubness", "prompts", "temperature")


@dataclass(frozen=True)
class CacheUse:
    """How many specifications a cache holds, and the bytes that all its files take.

    ``used`` is the last use of any of them in seconds since 1970, None for an empty cache.
    """

    specs: int
    bytes: int
    used: float | None = None

    @classmethod
    def of(cls, files: Sequence[StoredFile]) -> CacheUse:
        """The sum of some of a cache's files."""
        return cls(
            specs=sum(file.path.suffix == _SPEC_SUFFIX for file in files),
            bytes=sum(file.size for file in files),
            used=max((file.used for file in files), default=None),
        )


class SpecCache:
    """A directory of parsed specifications with their Gram matrices. No method raises OSError.

    ``directory`` is made at the first write. Where it cannot be written a warning is logged once,
    and the search goes on without it.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory) / _LAYOUT
        self._specs = self.directory / "specs"
        self._stamps = self.directory / "stamps"
        self._beside = {kind: self.directory / kind for kind in _KINDS}
        self._writable = True

    def get(self, digest: str) -> IndexedSpec | None:
        """The specification with that digest, or None where it is unknown or its file damaged."""
        if not _DIGEST.fullmatch(digest):
            return None
        path = self._specs / f"{digest}{_SPEC_SUFFIX}"
        body = self._read(path)
        if body is None:
            return None
        try:
            return _unpacked(body, digest)
        except Exception as error:
            # The checksum held, so this was written by a program that meant something else, and
            # may fail in any way. The specification is read again: nothing is lost but time.
            _log.debug("%s is of another layout and is made again: %s", path, error)
            _deleted(path)
            return None

    def put(self, indexed: IndexedSpec) -> None:
        """Keep a specification under its digest."""
        self._write(self._specs / f"{indexed.entry.digest}{_SPEC_SUFFIX}", _packed(indexed))

    def digest_for(self, stamp: str) -> str | None:
        """The digest that ``remember`` was told for this stamp, or None."""
        body = self._read(self._stamp_path(stamp))
        return None if body is None else body.decode("ascii", "replace")

    def remember(self, stamp: str, digest: str) -> None:
        """Whoever shows this stamp again has the specification with this digest."""
        self._write(self._stamp_path(stamp), digest.encode("ascii"))

    def kept(self, kind: Beside, name: str) -> bytes | None:
        """What :meth:`keep` was given under that name, whole; None where there is nothing."""
        return self._read(self._beside[kind] / _hashed(name))

    def keep(self, kind: Beside, name: str, body: bytes) -> None:
        """Keep something that can be had again at a price."""
        self._write(self._beside[kind] / _hashed(name), body)

    def use(self) -> CacheUse:
        """What the cache holds now."""
        return CacheUse.of(self.files())

    def files(self) -> list[StoredFile]:
        """Everything that this class has stored, and nothing else."""
        places = (self._specs, self._stamps, *self._beside.values())
        return [file for place in places for file in stored_files(place)]

    def prune(self, *, unused_for: float = 0.0, max_bytes: int = 0) -> CacheUse:
        """Delete what was used longest ago, as :func:`gmi_registry.index.cache.evict` does.

        Returns what went. With the defaults that is everything.
        """
        return CacheUse.of(evict(self.files(), unused_for=unused_for, max_bytes=max_bytes))

    def keep_within_limit(self) -> CacheUse:
        """What a search does after it has stored something: nothing, below 2 GiB.

        What was used in the last week stays, so that two large hubs do not drive each other out.
        """
        return self.prune(unused_for=_RECENT, max_bytes=_LIMIT)

    def _stamp_path(self, stamp: str) -> Path:
        return self._stamps / _hashed(stamp)

    def _read(self, path: Path) -> bytes | None:
        body = read_sealed(path)
        if body is not None:
            mark_used(path)
        return body

    def _write(self, path: Path, body: bytes) -> None:
        if not self._writable:
            return
        try:
            write_sealed(path, body)
        except OSError as error:
            self._writable = False
            _log.warning("cannot write the cache %s: %s", self.directory, error)


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _packed(indexed: IndexedSpec) -> bytes:
    return save(
        {
            "entry": np.frombuffer(indexed.entry.to_json(), np.uint8),
            "image_embeddings": indexed.image_embeddings,
            "prompt_embeddings": indexed.prompt_embeddings,
            "gram": indexed.gram,
        }
    )


def _unpacked(body: bytes, digest: str) -> IndexedSpec:
    """Raises some Exception for any body that ``_packed`` did not make for that digest."""
    tensors = load(body)
    entry = IndexEntry.from_json(tensors["entry"].tobytes())
    images, prompts, gram = (
        tensors[name] for name in ("image_embeddings", "prompt_embeddings", "gram")
    )
    rows = len(entry.prompts) * entry.key.images_per_prompt
    if entry.digest != digest or len(images) != rows or len(prompts) != len(entry.prompts):
        raise ValueError("not the specification that the name promises")
    if images.dtype != np.float16 or prompts.dtype != np.float16 or gram.dtype != np.float32:
        raise ValueError("arrays of another type")
    if images.ndim != 2 or prompts.ndim != 2 or gram.shape != (rows, rows):
        raise ValueError("arrays of another shape")
    return IndexedSpec(entry, images, prompts, gram)
