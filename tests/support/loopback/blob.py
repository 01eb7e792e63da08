"""One file's content, and whether it is stored as a large file."""

from __future__ import annotations

import fnmatch
import hashlib
from functools import cached_property

__all__ = ["DEFAULT_ATTRIBUTES", "Blob", "goes_to_lfs"]

_LARGE = [
    "*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib",
    "*.lfs.*", "*.mlmodel", "*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot",
    "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt", "*.pth", "*.rar", "*.safetensors",
    "saved_model/**/*", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm", "*.xz", "*.zip",
    "*.zst", "*tfevents*",
]  # fmt: skip

DEFAULT_ATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LARGE
).encode()
"""The .gitattributes that a new repository starts with."""

_LIMIT = 10 * 1024 * 1024  # what git itself may hold there


class Blob:
    """``lfs``: git holds only a pointer to it. ``xet_hash`` is its name in a Xet store, or None."""

    content: bytes
    xet_hash: str | None = None

    def __init__(self, content: bytes, *, lfs: bool) -> None:
        self.content = content
        self.lfs = lfs

    @cached_property
    def size(self) -> int:
        return len(self.content)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds in place of a large file."""
        return (
            "version https://git-lfs.github.com/spec/v1\n"
            f"oid sha256:{self.sha256}\nsize {self.size}\n"
        ).encode()

    @cached_property
    def oid(self) -> str:
        """SHA-1 (hex) of git's object: of the pointer for a large file."""
        content = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


def goes_to_lfs(path: str, size: int, sample: bytes, attributes: bytes | None) -> bool:
    """By .gitattributes, by size, or because it is no text; as the Hub decides on an upload."""
    if size == 0:
        return False
    text = (DEFAULT_ATTRIBUTES if attributes is None else attributes).decode(errors="replace")
    name = path.rpartition("/")[2]
    for line in text.splitlines():
        pattern, *rest = line.split() or [""]
        if "filter=lfs" in rest and (
            fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(path, pattern)
        ):
            return True
    return size > _LIMIT or not _is_text(sample)


def _is_text(sample: bytes) -> bool:
    if b"\0" in sample:
        return False
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        # A sample may end within a character.
        return error.reason == "unexpected end of data" and len(sample) - error.start < 4
    return True
