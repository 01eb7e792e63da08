"""Specifications that were read before, on disk under their digests.

A digest names a content for ever, so nothing here goes stale; a hub that cannot name the digest
gives a stamp instead (a revision, or sizes and times of the files), which is remembered with the
digest it led to. Files are sealed (:mod:`gmi_registry.atomic`): one that does not fit,
for whatever reason, is deleted and made again. They appear under their names whole or not at all,
so any number of processes may share a directory, the last to write the same content winning, and
``prune`` may run beside them: what it takes away is read from the hub again.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load, save

from gmi_registry.atomic import read_sealed, write_sealed
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.eviction import StoredFile, evict, mark_used, stored_files
from gmi_registry.index.indexed import IndexedSpec

__all__ = ["CacheUse", "SpecCache"]

# Part of the path: a program that stores something else stores it elsewhere.
_LAYOUT = "index-v1"
# A digest that a hub names becomes a file name, so nothing but a digest may.
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SPEC_SUFFIX = ".bin"
_LIMIT = 2 * 1024**3
_RECENT = 7 * 24 * 3600.0

Beside = Literal["background", "hubness", "prompts"]
"""What else is kept: background pictures and prompts by encoder, and what was measured of sets of
models."""

_KINDS: tuple[Beside, ...] = ("background", "hubness", "prompts")

_log = logging.getLogger(__name__)


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
            self._delete(path)
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

    def prune(
        self, *, unused_for: float = 0.0, max_bytes: int = 0, dry_run: bool = False
    ) -> CacheUse:
        """Delete what was used longest ago, as :func:`gmi_registry.index.eviction.evict` does.

        Returns what went (``dry_run``: what would). With the defaults that is everything.
        """
        gone = evict(self.files(), unused_for=unused_for, max_bytes=max_bytes, dry_run=dry_run)
        return CacheUse.of(gone)

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

    def _delete(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("cannot delete %s: %s", path, error)


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
