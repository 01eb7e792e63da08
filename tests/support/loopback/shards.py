"""A Xet store in a folder, as hf_xet keeps it: which files are in it, and their bytes.

A shard is a header of 48 bytes, then a record for each file: 48 bytes with its hash, flags and the
number of its segments; 48 for each segment; as many again with flag 31; 48 with the file's SHA-256
with flag 30. A hash of ones ends the list. Hashes are four little-endian numbers of 64 bits.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from .blob import Blob

__all__ = ["StoredBlob", "find_stored"]

_RECORD = 48
_END = b"\xff" * 32
_FOREVER = 4102444800  # seconds since 1970; the year 2100


class StoredBlob(Blob):
    """A large file that is in the store; its bytes are fetched when somebody wants them."""

    def __init__(self, store: Path, sha256: str, size: int, xet_hash: str) -> None:
        self.lfs = True
        self.sha256 = sha256
        self.size = size
        self.xet_hash = xet_hash
        self._store = store

    @cached_property
    def content(self) -> bytes:
        import hf_xet

        # From a copy: a client in another process may have the store itself open, and locked.
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "store"
            shutil.copytree(self._store, copy)
            target = Path(scratch) / "content"
            with hf_xet.XetSession().new_file_download_group(
                endpoint=f"local://{copy}", token="server", token_expiry_unix_secs=_FOREVER
            ) as group:
                wanted = hf_xet.XetFileInfo(self.xet_hash, self.size)
                group.start_download_file(wanted, str(target))
            return target.read_bytes()


def find_stored(store: Path, sha256: str) -> StoredBlob | None:
    """The file with that SHA-256 (hex), if it was uploaded."""
    for path in sorted(store.glob("xet/xorbs/shards/*.mdb")):
        for xet_hash, size, digest in _files(path.read_bytes()):
            if digest == sha256:
                return StoredBlob(store, sha256, size, xet_hash)
    return None


def _files(shard: bytes) -> Iterator[tuple[str, int, str | None]]:
    place = _RECORD
    while shard[place : place + 32] != _END:
        xet_hash = _hex(shard[place : place + 32])
        flags, segments = struct.unpack_from("<II", shard, place + 32)
        place += _RECORD
        # A segment: the hash of where it lies, flags, its size, and the range of chunks.
        size = sum(
            struct.unpack_from("<I", shard, place + index * _RECORD + 36)[0]
            for index in range(segments)
        )
        place += segments * _RECORD * (2 if flags >> 31 & 1 else 1)
        digest = None
        if flags >> 30 & 1:
            digest = _hex(shard[place : place + 32])
            place += _RECORD
        yield xet_hash, size, digest


def _hex(data: bytes) -> str:
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", data))
