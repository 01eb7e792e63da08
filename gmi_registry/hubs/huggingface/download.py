"""Single files of a repository, in huggingface_hub's own cache.

The client asks for a file's headers before it asks for the file. A small file at a commit is
fetched by one request here: the answer holds the same headers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import (
    HfApi,
    cached_assets_path,
    constants,
    get_session,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils.tqdm import tqdm

from gmi_registry.atomic import write_file
from gmi_registry.errors import (
    HubError,
    SpecNotFoundError,
)
from gmi_registry.hubs.files import require_inside
from gmi_registry.hubs.huggingface.client import (
    LIBRARY,
    HubRequest,
    offline_error,
    retried,
    translated_errors,
)

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A full commit sha, under which a file never changes."""
_SHA1, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")
_CHUNK = 1024 * 1024


class WrongBytesError(Exception):
    """What arrived has another digest than the hub stated."""


@dataclass(frozen=True)
class FetchedFile:
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
        write_file(blob, self.content, flush=False)
        with _scratch_of(place) as scratch:
            try:
                scratch.symlink_to(os.path.relpath(blob, place.parent))
            except OSError:
                blob.replace(place)
            else:
                scratch.replace(place)
        return place


def fetch_small(api: HfApi, url: str, asked: HubRequest, *, limit: int) -> FetchedFile | None:
    """The file at ``url``, which is the one that ``asked`` names, held in memory.

    One GET, and one more for each place that the hub sends it on to. Returns None where the hub
    states no commit, or no digest by which a blob could be named: then the client must fetch the
    file its own way. Raises SpecNotFoundError for more than ``limit`` bytes, judged before any
    content is read where the size is stated, :class:`WrongBytesError`, and the client's errors.
    """
    with _streamed(api, url) as response:
        commit, digest, size = _stated(response)
        if commit is None or digest is None:
            return None
        require_small(asked, size, limit)
        content = _content(response, asked, limit)
    large = _SHA256.fullmatch(digest)
    if (hashlib.sha256(content).hexdigest() if large else git_name(content)) != digest:
        raise WrongBytesError
    return FetchedFile(commit, digest, content)


def fetch_beginning(api: HfApi, url: str, *, length: int) -> bytes:
    """The first ``length`` bytes of the file at ``url``, or all of a shorter one.

    One GET with a range, and one more for each place that the hub sends it on to. From a hub that
    knows no ranges no more is read than that either. Raises the client's errors.
    """
    with _streamed(api, url, Range=f"bytes=0-{length - 1}") as response:
        content = bytearray()
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) >= length:
                break
    return bytes(content[:length])


@contextmanager
def _streamed(api: HfApi, url: str, **headers: str) -> Iterator[Any]:
    """The answer for the file at ``url``, unread. Raises the client's errors."""
    # Compressed on the way it would have no stated size.
    sent = build_hf_headers(
        token=api.token,
        library_name=api.library_name,
        headers={"Accept-Encoding": "identity", **headers},
    )
    with get_session().stream(
        "GET",
        url,
        headers=sent,
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        follow_redirects=True,
    ) as response:
        hf_raise_for_status(response)
        yield response


def remember_missing(repository: Path, sha: str, path: str) -> None:
    """Keep, as the client does, that a commit has no such file: that never changes either."""
    note = repository / ".no_exist" / sha / path
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()


def require_small(asked: HubRequest, size: float | None, limit: int) -> None:
    """Raises SpecNotFoundError where ``size`` is known and more than ``limit`` bytes.

    It counts as missing: whoever publishes must be able to put the real one in its place.
    """
    if size is not None and size > limit:
        raise SpecNotFoundError(
            f"{asked.name}: {asked.path} has {size:,.0f} bytes, more than {limit:,}",
            hint="its author must publish it again",
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


def _content(response: Any, asked: HubRequest, limit: int) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        require_small(asked, len(content), limit)
    return bytes(content)


def git_name(content: bytes) -> str:
    """What git calls a file with this content: SHA-1, 40 hex digits."""
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


class Downloads:
    """Files of repositories on this disk, downloaded where they are not there yet.

    ``repo_type`` is the kind of all of them, ``model`` or ``dataset``. They lie where every program
    that uses huggingface_hub finds them again: in ``cache_dir``. A file asked for at a full
    commit sha that is there costs no request. Any other costs a HEAD and, unless its content is
    known, a GET; a small one at a full commit sha the GET alone.
    """

    def __init__(
        self,
        api: HfApi,
        asked: HubRequest,
        cache_dir: Path,
        *,
        offline: bool,
        repo_type: str = "model",
    ) -> None:
        self._api = api
        self._asked = asked
        self._repo_type = repo_type
        self.cache_dir = cache_dir
        self.offline = offline

    def asked(
        self, model_id: str, path: str | None = None, revision: str | None = None
    ) -> HubRequest:
        """Of the hub and the token of these downloads."""
        return dataclasses.replace(
            self._asked, id=model_id, revision=revision, path=path, writing=False
        )

    def fetch(
        self, model_id: str, path: str, revision: str, *, limit: int, shown: bool = False
    ) -> Path:
        """The file's place below ``snapshots/<sha>``: a link into ``blobs`` where links work.

        ``limit`` is in bytes, judged by what the hub states before any content is read, and again
        by what arrives. ``shown`` lets huggingface_hub draw its progress bar. Raises
        SpecNotFoundError for a file that is not in the repository, or is too large to be what was
        asked for, HubError for one that leads out of the cache, OfflineError, and every other
        error of the hub.
        """
        asked = self.asked(model_id, path, revision)
        if self.known_missing(model_id, path, revision):
            raise SpecNotFoundError(
                f"{asked.name} holds no {path}", hint=f"see what it has: {asked.url}/tree/main"
            )

        def download() -> str:
            # Of its overloads one returns something else, for dry runs.
            found: Any = self._api.hf_hub_download(
                model_id,
                path,
                revision=revision,
                repo_type=self._repo_type,
                cache_dir=self.cache_dir,
                local_files_only=self.offline,
                tqdm_class=_bar(limit, asked, shown),
            )
            return str(found)

        with translated_errors(asked):
            place = Path(retried(download, limited=False))
        require_inside(place, self.cache_dir)
        return place

    def fetch_checked(self, model_id: str, path: str, revision: str, *, limit: int) -> Path:
        """Like :meth:`fetch`, the content compared with the digest that the hub gave it.

        For small files, which are held in memory and hashed. One that lies in the cache and
        differs is removed and downloaded once more; HubError where what arrives differs twice.
        """
        for _ in range(2):
            try:
                place = self._fetch_small(model_id, path, revision, limit=limit)
            except WrongBytesError:
                continue
            if has_stated_digest(place):
                return place
            self.discard(place)
            if self.offline:
                raise offline_error(self.asked(model_id, path, revision))
        raise self.wrong_bytes(model_id, path)

    def _fetch_small(self, model_id: str, path: str, revision: str, *, limit: int) -> Path:
        """With one request where it is at a full commit sha, and nothing like it is here.

        Where another commit's is here it most often is the same, and a HEAD tells.
        """
        place = None
        if not self.offline and COMMIT.fullmatch(revision):
            place = self.cached(model_id, path, revision)
            if place is None and not self._may_be_here(model_id, path, revision):
                place = self._delivered(model_id, path, revision, limit=limit)
        if place is None:
            return self.fetch(model_id, path, revision, limit=limit)
        require_inside(place, self.cache_dir)
        return place

    def _may_be_here(self, model_id: str, path: str, sha: str) -> bool:
        if self.known_missing(model_id, path, sha):
            return True
        snapshots = self._folder(model_id) / "snapshots"
        return any(place.is_file() for place in snapshots.glob(f"*/{path}"))

    def _delivered(self, model_id: str, path: str, sha: str, *, limit: int) -> Path | None:
        asked = self.asked(model_id, path, sha)
        repository = self._folder(model_id)
        url = hf_hub_url(
            model_id, path, revision=sha, endpoint=asked.endpoint, repo_type=self._repo_type
        )
        with translated_errors(asked):
            try:
                arrived = retried(lambda: fetch_small(self._api, url, asked, limit=limit))
            except RemoteEntryNotFoundError:
                remember_missing(repository, sha, path)
                raise
            if arrived is None or arrived.commit != sha:
                return None
            return arrived.put(repository, path)

    def beginning(self, model_id: str, path: str, sha: str, *, length: int) -> bytes:
        """The first ``length`` bytes of a file at a full commit sha, or all of a shorter one.

        From this disk where it is here, else by one request, which keeps nothing. Raises
        OfflineError, and every other error of the hub.
        """
        asked = self.asked(model_id, path, sha)
        place = self.cached(model_id, path, sha)
        if place is not None:
            require_inside(place, self.cache_dir)
            with place.open("rb") as stream:
                return stream.read(length)
        if self.offline:
            raise offline_error(asked)
        url = hf_hub_url(
            model_id, path, revision=sha, endpoint=asked.endpoint, repo_type=self._repo_type
        )
        with translated_errors(asked):
            return retried(lambda: fetch_beginning(self._api, url, length=length))

    def cached(self, model_id: str, path: str, sha: str) -> Path | None:
        """The file at a full commit sha where it is on this disk, without a request."""
        place = self._folder(model_id) / "snapshots" / sha / path
        return place if place.is_file() else None

    def holds(self, model_id: str) -> bool:
        """Whether anything of the repository is on this disk under this name."""
        return (self._folder(model_id) / "snapshots").is_dir()

    def known_missing(self, model_id: str, path: str, revision: str) -> bool:
        """Whether an earlier answer said that there is no such file at this commit."""
        if not COMMIT.fullmatch(revision):
            return False
        found = try_to_load_from_cache(
            model_id, path, self.cache_dir, revision, repo_type=self._repo_type
        )
        return found is not None and not isinstance(found, str)

    def discard(self, place: Path) -> None:
        """Remove a file with the wrong content from the cache, so that it is downloaded again."""
        require_inside(place, self.cache_dir)
        for path in (*_links(place), place):
            path.unlink(missing_ok=True)

    def wrong_bytes(self, model_id: str, path: str) -> HubError:
        """For a file whose content is not what the hub says it is."""
        asked = self.asked(model_id)
        return HubError(
            f"{asked.name}: the download of {path} is not what {asked.endpoint} says it is",
            hint="run the same command again; the wrong file was removed from the cache",
        )

    def _folder(self, model_id: str) -> Path:
        return self.cache_dir / repo_folder_name(repo_id=model_id, repo_type=self._repo_type)


def has_stated_digest(place: Path) -> bool:
    """Whether a cached file has the digest that its blob is named by, where that can be told.

    The cache names a blob by the hub's ETag: SHA-256 for large files, git's SHA-1 for others.
    """
    blob = next(_links(place), None)
    if blob is None:  # a copy, where the file system has no links
        return True
    if _SHA256.fullmatch(blob.name):
        digest = hashlib.sha256()
    elif _SHA1.fullmatch(blob.name):
        digest = git_digest(place.stat().st_size)
    else:
        return True
    with place.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == blob.name


def _links(place: Path) -> Iterator[Path]:
    """What ``place`` points to, step by step: the blob, and behind it perhaps a shared one."""
    seen = 0
    while place.is_symlink() and seen < 4:
        place = place.parent / place.readlink()
        seen += 1
        yield place


def _bar(limit: int, asked: HubRequest, shown: bool) -> type[Any]:
    """A progress bar that also stops what is too large.

    The client makes it when it knows the size and has read no content yet, and this is the only
    place where it lets others look.
    """

    def judge(size: float | None) -> None:
        require_small(asked, size, limit)

    class LimitedBar(tqdm):
        # Else tqdm starts a thread for every class that draws, and this is one for every file.
        monitor_interval = 0

        def __init__(self, *args: Any, **settings: Any) -> None:
            judge(settings.get("total"))
            self._arrived = 0.0
            # hf_xet has a second bar for what it moves, which can be more than the file.
            self._of_file = not str(settings.get("name")).endswith(".transfer")
            hidden = {} if shown else {"disable": True}
            super().__init__(*args, **settings | hidden)  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            self._arrived += n or 0
            if self._of_file:
                judge(self._arrived)
            drawn: bool | None = super().update(n)
            return drawn

    return LimitedBar


def download_folder(home: Path | None) -> Path:
    """Where the client keeps downloads, with ``home`` in place of HF_HOME."""
    return Path(constants.HF_HUB_CACHE) if home is None else home / "hub"


def assets_folder(asked: HubRequest, kind: str, home: Path | None) -> Path:
    """Where is kept what was learnt of a hub, in a folder ``kind`` of its own."""
    with translated_errors(asked):
        return cached_assets_path(
            LIBRARY,
            namespace=re.sub(r"[^A-Za-z0-9.]+", "-", asked.endpoint.partition("://")[2]),
            subfolder=kind,
            assets_dir=None if home is None else home / "assets",
        )
