"""What the hub is made of: accounts, answers, faults, quotas, and the contents of files."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

Kind = Literal[
    "429", "500", "cut", "slow", "stale-parent", "changed-file", "wrong-digest", "hostile-content"
]
_FILE = re.compile(r"/(resolve|raw|storage)/")
_COMMIT = re.compile(r"/api/[^/]+/[^/]+/[^/]+/commit/")
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
_RECORD = 48
_END = b"\xff" * 32
_FOREVER = 4102444800  # seconds since 1970; the year 2100


@dataclass(frozen=True)
class User:
    """An account with one token. ``role`` is that of the token: ``read`` changes nothing.

    ``orgs`` are organisations in which this account may write.
    """

    name: str
    token: str
    orgs: tuple[str, ...] = ()
    role: Literal["read", "write"] = "write"

    def owns(self, namespace: str) -> bool:
        """Whether repositories of ``namespace`` are this account's own or of its organisations."""
        return namespace == self.name or namespace in self.orgs

    def whoami(self) -> dict[str, Any]:
        """The answer to /api/whoami-v2."""
        return {
            "type": "user",
            "id": self.name.encode().hex().ljust(24, "0")[:24],
            "name": self.name,
            "fullname": self.name,
            "isPro": False,
            "orgs": [
                {"type": "org", "name": org, "fullname": org, "roleInOrg": "write"}
                for org in self.orgs
            ],
            "auth": {
                "type": "access_token",
                "accessToken": {
                    "displayName": "loopback",
                    "role": self.role,
                    "createdAt": "2024-01-01T00:00:00.000Z",
                },
            },
        }


@dataclass
class Reply:
    """Status, headers and body of an answer. ``length`` is announced where it is not the body's."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Reply:
        """``value`` as JSON; underscores in names of headers stand for hyphens."""
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        body = json.dumps(value, separators=(",", ":")).encode()
        return cls(status, body, {"Content-Type": "application/json; charset=utf-8", **named})


class Refusal(Exception):  # noqa: N818, it is an answer
    """An answer of 400 and above, raised from wherever the reason is found.

    ``code`` goes into X-Error-Code; ``message`` into X-Error-Message and the body.
    """

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.reply = Reply.json({"error": message}, status)
        self.reply.headers |= {"X-Error-Message": message, **named}
        if code:
            self.reply.headers["X-Error-Code"] = code


@dataclass
class Fault:
    """What happens to the next ``times`` requests that match.

    ``method`` is None for any; ``path_regex`` is searched for in the path with its query, unquoted.
    A large file's bytes are asked for at ``/storage/{repo}/{sha256}/{path}`` on ``localhost``.

    - ``429``: refused by the RateLimit header, to be tried again in ``retry_after`` seconds.
    - ``500``: an internal error.
    - ``cut``: the connection ends after half the answer's body, or before any of it where it has
      none. The request has its effect, as when only the answer is lost.
    - ``slow``: the body takes ``seconds``, in pieces.
    - ``stale-parent``: just before a commit is looked at, somebody else commits ``files``.
    - ``changed-file``: just before a file is served, somebody else commits ``content`` (or else
      its bytes backwards) under its path. Pinned revisions still get the old bytes.
    - ``wrong-digest``: as many bytes, of which one differs from what the ETag promises.
    - ``hostile-content``: the file holds ``content`` instead, ETag and size alike. A HEAD request
      shows the same and does not count.

    ``applied`` says whether the request has its effect before the failure; None takes the usual
    for the kind: yes for ``cut`` and ``slow``, no for ``429`` and ``500``.
    """

    kind: Kind
    method: str | None = None
    path_regex: str = ".*"
    times: int = 1
    retry_after: int = 1
    seconds: float = 1.0
    content: bytes | None = None
    files: dict[str, bytes | None] = field(default_factory=lambda: {"notes.txt": b"in between\n"})
    applied: bool | None = None
    seen: int = 0

    @property
    def has_effect(self) -> bool:
        return self.kind not in ("429", "500") if self.applied is None else self.applied


class Faults:
    """The faults that are still to come, in the order in which they were injected."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._waiting.append(fault)

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, method: str, target: str) -> Fault | None:
        """The first fault that this request meets; it is spent when its ``times`` are over."""
        for fault in self._waiting:
            if not _meets(fault, method, target):
                continue
            if not (fault.kind == "hostile-content" and method == "HEAD"):
                fault.seen += 1
                if fault.seen >= fault.times:
                    self._waiting.remove(fault)
            return fault
        return None


def _meets(fault: Fault, method: str, target: str) -> bool:
    if fault.method not in (None, method) or not re.search(fault.path_regex, target):
        return False
    if fault.kind == "stale-parent":
        return method == "POST" and bool(_COMMIT.match(target))
    if fault.kind in ("changed-file", "hostile-content"):
        return bool(_FILE.search(target)) and method in ("GET", "HEAD")
    if fault.kind == "wrong-digest":
        return bool(_FILE.search(target)) and method == "GET"
    return True


@dataclass
class Quota:
    """Requests in ``window`` seconds to the API, and to files (the storage behind it is free).

    The Hub's own numbers are 500 and 3,000 in 300 seconds for somebody without a token.
    """

    api: int = 500
    resolvers: int = 3000
    window: int = 300
    _spent: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def count(self, word: str, who: str) -> dict[str, str]:
        """Count a request of ``who`` whose path begins with ``word``; the headers for its answer.

        Raises Refusal (429) over the limit.
        """
        kind = "api" if word == "api" else "resolvers"
        if word in ("storage", "upload"):
            return {}
        limit = self.api if kind == "api" else self.resolvers
        now = time.monotonic()
        start, spent = self._spent.get((kind, who), (now, 0))
        if now - start >= self.window:
            start, spent = now, 0
        self._spent[kind, who] = start, spent + 1
        left = max(0, limit - spent - 1)
        wait = max(1, round(start + self.window - now))
        headers = {
            "RateLimit": f'"{kind}";r={left};t={wait}',
            "RateLimit-Policy": f'"fixed window";"{kind}";q={limit};w={self.window}',
        }
        if spent >= limit:
            refusal = Refusal(429, "We had to rate limit you")
            refusal.reply.headers |= headers
            raise refusal
        return headers


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
    """By .gitattributes, by size, or because it is not a text; as the Hub decides on an upload."""
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
