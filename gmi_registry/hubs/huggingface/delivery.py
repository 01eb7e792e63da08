"""One small file of a commit, with one request, put where huggingface_hub keeps its own.

The client asks for a file's headers before it asks for the file. For a specification that is half
of all requests, and the answer to the second holds the same headers.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status

from gmi_registry.errors import SpecNotFoundError
from gmi_registry.hubs.huggingface.errors import Asked

__all__ = [
    "Delivery",
    "WrongBytesError",
    "beginning",
    "deliver",
    "git_digest",
    "remember_missing",
    "require_small",
]

_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


class WrongBytesError(Exception):
    """What arrived has another digest than the hub stated."""


@dataclass(frozen=True)
class Delivery:
    """A file as it arrived: its ``content``, the ``commit`` it is of, and the ``digest`` that the
    hub states, by which the cache names it."""

    commit: str
    digest: str
    content: bytes

    def put(self, repository: Path, path: str) -> Path:
        """Place it in a model's folder of the cache, as the cache's documentation lays it out.

        The bytes lie in ``blobs``, and below ``snapshots`` a link to them, or where links do not
        work the file itself. Both appear whole or not at all. Returns the latter's place.
        """
        blob = repository / "blobs" / self.digest
        place = repository / "snapshots" / self.commit / path
        place.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with _scratch_of(blob) as scratch:
            scratch.write_bytes(self.content)
            scratch.replace(blob)
        with _scratch_of(place) as scratch:
            try:
                scratch.symlink_to(os.path.relpath(blob, place.parent))
            except OSError:
                blob.replace(place)
            else:
                scratch.replace(place)
        return place


def deliver(api: HfApi, url: str, asked: Asked, *, limit: int) -> Delivery | None:
    """The file at ``url``, which is the one that ``asked`` names, held in memory.

    One GET, and one more for each place that the hub sends it on to. Returns None where the hub
    states no commit, or no digest by which a blob could be named: then the client must fetch the
    file its own way. Raises SpecNotFoundError for more than ``limit`` bytes, judged before any
    content is read where the size is stated, :class:`WrongBytesError`, and the client's errors.
    """
    # Compressed on the way it would have no stated size.
    headers = build_hf_headers(
        token=api.token, library_name=api.library_name, headers={"Accept-Encoding": "identity"}
    )
    with get_session().stream(
        "GET",
        url,
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        follow_redirects=True,
    ) as response:
        hf_raise_for_status(response)
        commit, digest, size = _stated(response)
        if commit is None or digest is None:
            return None
        require_small(asked, size, limit)
        content = _content(response, asked, limit)
    if _digest_like(digest, content) != digest:
        raise WrongBytesError
    return Delivery(commit, digest, content)


def beginning(api: HfApi, url: str, *, length: int) -> bytes:
    """The first ``length`` bytes of the file at ``url``, or all of a shorter one.

    One GET with a range, and one more for each place that the hub sends it on to. From a hub that
    knows no ranges no more is read than that either. Raises the client's errors.
    """
    headers = build_hf_headers(
        token=api.token,
        library_name=api.library_name,
        headers={"Accept-Encoding": "identity", "Range": f"bytes=0-{length - 1}"},
    )
    with get_session().stream(
        "GET",
        url,
        headers=headers,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        follow_redirects=True,
    ) as response:
        hf_raise_for_status(response)
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) >= length:
                break
    return bytes(content[:length])


def remember_missing(repository: Path, sha: str, path: str) -> None:
    """Keep, as the client does, that a commit has no such file: that never changes either."""
    note = repository / ".no_exist" / sha / path
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def require_small(asked: Asked, size: float | None, limit: int) -> None:
    """Raises SpecNotFoundError where ``size`` is known and more than ``limit`` bytes.

    It counts as missing: whoever publishes must be able to put the real one in its place.
    """
    if size is not None and size > limit:
        raise SpecNotFoundError(
            f"{asked.name}: {asked.path} has {size:,.0f} bytes, more than {limit:,}",
            hint="its author must publish it anew",
        )


def git_digest(size: int) -> Any:
    """A SHA-1 that has begun as git's of a file of so many bytes."""
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _stated(response: Any) -> tuple[str | None, str | None, int | None]:
    """Commit, digest and bytes, from the first answer on the way that speaks of a commit.

    That one is the hub's; what follows may be a storage's.
    """
    for answer in (*response.history, response):
        headers = answer.headers
        commit, etag = headers.get("X-Repo-Commit"), headers.get("ETag")
        etag = headers.get("X-Linked-Etag") or etag
        if commit is None or etag is None:
            continue
        name = etag.removeprefix("W/").strip('"')
        known = _SHA1.fullmatch(name) or _SHA256.fullmatch(name)
        size = headers.get("X-Linked-Size")
        if size is None and answer is response:
            size = headers.get("Content-Length")
        return commit, name if known else None, _number(size)
    return None, None, None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _content(response: Any, asked: Asked, limit: int) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        require_small(asked, len(content), limit)
    return bytes(content)


def _digest_like(stated: str, content: bytes) -> str:
    """The digest of ``content`` of the kind that ``stated`` is."""
    if _SHA256.fullmatch(stated):
        return hashlib.sha256(content).hexdigest()
    digest = git_digest(len(content))
    digest.update(content)
    return str(digest.hexdigest())


@contextmanager
def _scratch_of(target: Path) -> Iterator[Path]:
    """A name beside ``target`` that nobody else has, and that is gone afterwards."""
    scratch = target.with_name(f"{target.name}.{secrets.token_hex(4)}.incomplete")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)
