"""The dataset that is the registry: files at commits, and changes by a commit or a pull request."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
)

from gmi_registry.errors import (
    AuthError,
    GmiError,
    HubError,
    InputError,
    SpecNotFoundError,
)
from gmi_registry.hubs.huggingface.changes import (
    Change,
    ChangeStart,
    commit_or_propose,
    own_proposals,
)
from gmi_registry.hubs.huggingface.client import (
    HubRequest,
    offline_error,
    retried,
    translated_errors,
)
from gmi_registry.hubs.huggingface.download import COMMIT, Downloads
from gmi_registry.hubs.huggingface.publishing import StoredFile, may_commit, writer
from gmi_registry.hubs.registry.entries import (
    VERIFIED_LIMIT,
    VERIFIED_NAME,
    RegistryCache,
    Verified,
)
from gmi_registry.spec import (
    ModelRef,
)
from gmi_registry.spec.address import dataset_name

REPO_TYPE: Literal["dataset"] = "dataset"
"""What the hub calls the kind of its repository."""

_log = logging.getLogger(__name__)

# One request; the hub takes 1,000 paths.
_PATHS_AT_ONCE = 500

_MOMENT = 10.0


class Dataset:
    """The dataset ``asked`` names, read through ``api``; files are kept in ``cache_dir``.

    Every method raises errors of this package: AuthError and SpecNotFoundError for a dataset that
    is not there or may not be read, OfflineError where ``offline`` stands in the way,
    RateLimitError and HubError.
    """

    def __init__(self, api: HfApi, asked: HubRequest, cache_dir: Path, *, offline: bool) -> None:
        self.api = api
        self.asked = asked
        self.id = str(asked.id)
        self.offline = offline
        self._told = ""
        self._downloads = Downloads(api, asked, cache_dir, offline=offline, repo_type=REPO_TYPE)

    @property
    def url(self) -> str:
        """Its page."""
        return self.asked.url

    def in_cache(self, cache_dir: Path) -> Dataset:
        """The same dataset, its files kept elsewhere."""
        return Dataset(self.api, self.asked, cache_dir, offline=self.offline)

    def head(self, revision: str = "main") -> str:
        """The full commit that a branch or a pull request has now: one request."""
        info: Any = self.ask(
            lambda: self.api.dataset_info(self.id, revision=revision, expand=["sha"]), revision
        )
        if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
            raise HubError(f"{self.asked.name}: the hub names no commit", hint="check HF_ENDPOINT")
        try:
            actual = ModelRef("hf", info.id).id
        except (InputError, TypeError):
            raise HubError(f"{self.asked.name}: the hub gives it an impossible name") from None
        if actual.casefold() not in (self.id.casefold(), self._told):
            # The hub says that it is the same one; who names it in a setting is to know.
            _log.warning(
                "%s is now called %s, and is used under that name", self.asked.name, actual
            )
            self._told = actual.casefold()
        return str(info.sha)

    def tree(self, sha: str, folder: str | None = None) -> dict[str, StoredFile]:
        """Every file at a commit, or in a folder of it, by path: one request a page.

        Empty where there is no such folder.
        """
        return {
            info.path: _stored(info)
            for info in self._walk(sha, folder, recursive=True)
            if _is_file(info)
        }

    def level(self, sha: str, folder: str | None) -> dict[str, StoredFile | str]:
        """What lies in a folder at a commit, by path: files, and of folders git's name of what is
        in them. One request a page; empty where there is no such folder.
        """
        return {
            info.path: _stored(info) if _is_file(info) else str(info.tree_id)
            for info in self._walk(sha, folder, recursive=False)
        }

    def stored(self, sha: str, paths: list[str]) -> dict[str, StoredFile]:
        """Those of ``paths`` that are files at a commit: one request for 500 of them."""
        found: dict[str, StoredFile] = {}
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            some = paths[start : start + _PATHS_AT_ONCE]
            infos: Any = self.ask(
                lambda some=some: self.api.get_paths_info(
                    self.id, some, revision=sha, repo_type=REPO_TYPE
                ),
                sha,
            )
            found |= {info.path: _stored(info) for info in infos if _is_file(info)}
        return {path: found[path] for path in paths if path in found}

    def fetch(self, path: str, sha: str, *, limit: int) -> Path:
        """A file at a full commit, of at most ``limit`` bytes, its content as the hub digests it.

        A link within the cache; no request where it is there. Raises SpecNotFoundError where the
        commit has no such file.
        """
        with self.translated_errors(sha):
            return self._downloads.fetch_checked(self.id, path, sha, limit=limit)

    def cached(self, path: str, sha: str) -> Path | None:
        """The file where it is on this disk, without a request."""
        return self._downloads.cached(self.id, path, sha)

    def ask(self, call: Any, revision: str) -> Any:
        """What ``call`` returns, asked again while the hub is busy; errors name ``revision``."""
        if self.offline:
            raise offline_error(self.asked)
        with self.translated_errors(revision):
            return retried(call)

    def translated_errors(self, revision: str) -> AbstractContextManager[None]:
        """As :func:`.translated_errors`, about the dataset at ``revision``."""
        return translated_errors(replace(self.asked, revision=revision))

    def _walk(self, sha: str, folder: str | None, *, recursive: bool) -> list[Any]:
        """Files and folders as the client gives them; none where there is no such folder."""
        try:
            found: list[Any] = self.ask(lambda: list(self._pages(sha, folder, recursive)), sha)
        except SpecNotFoundError as error:
            if isinstance(error.__cause__, RemoteEntryNotFoundError):
                return []
            raise
        return found

    def _pages(self, sha: str, folder: str | None, recursive: bool) -> Iterator[Any]:
        seen: set[str] = set()
        for info in self.api.list_repo_tree(
            self.id, folder, recursive=recursive, revision=sha, repo_type=REPO_TYPE
        ):
            if info.path in seen:
                raise HubError(
                    f"{self.asked.name}: the hub lists the same files without end",
                    hint="check HF_ENDPOINT, or run the same command again later",
                )
            seen.add(info.path)
            yield info


def dataset_named(text: str | None, address: str) -> str | None:
    """The dataset that ``text`` names, else GMI_REGISTRY, on the hub at ``address``; None for none.

    Raises InputError for a name that is no dataset's.
    """
    name = text or os.environ.get("GMI_REGISTRY")
    if not name:
        return None
    name = dataset_name(name, [("hf", address)])
    try:
        usable = "/" in ModelRef("hf", name).id
    except InputError:
        usable = False
    if not usable:
        raise InputError(
            f"{name[:120]!r} is not the name of a dataset",
            hint="write owner/name after --registry, or in GMI_REGISTRY",
        )
    return name


def _is_file(info: Any) -> bool:
    return hasattr(info, "blob_id")


def _stored(info: Any) -> StoredFile:
    lfs: Mapping[str, Any] | None = info.lfs
    sha256 = None if lfs is None else lfs["sha256"]
    return StoredFile(info.blob_id, sha256, int(info.size or 0))


class RecentHead:
    """The head of ``dataset``, of which one search that asks for it twice is told once."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._known: tuple[float, str | GmiError] | None = None

    def glance(self) -> str:
        """The commit as it was in the last ten seconds, as :meth:`.Dataset.head` gives it.

        That there is no such dataset is remembered for as long, and raised again.
        """
        now = time.monotonic()
        if self._known is None or now - self._known[0] > _MOMENT:
            try:
                self._known = now, self._dataset.head()
            except (SpecNotFoundError, AuthError) as error:
                self._known = now, error
        commit = self._known[1]
        if isinstance(commit, str):
            return commit
        raise commit


def read_verified(dataset: Dataset, commit: str) -> Verified:
    """What ``verified.json`` says at a commit; nothing where there is none.

    Raises HubError where it cannot be understood, and every other error of the hub.
    """
    try:
        path = dataset.fetch(VERIFIED_NAME, commit, limit=VERIFIED_LIMIT)
    except SpecNotFoundError:
        return Verified({})
    return Verified.from_bytes(path.read_bytes())


def change_files(
    dataset: Dataset,
    missing: Callable[[str], Mapping[str, bytes | Path | None]],
    *,
    title: str,
    text: str,
    there: str,
    create_pr: bool,
) -> str:
    """Commit or propose what is ``missing`` at a revision: path to new content, None to go.

    Returns the address, or where the head has all of it that of ``there``, such as
    ``tree/{commit}/FOLDER``. Raises as :meth:`.Registry.push_spec`.
    """

    asked = replace(dataset.asked, writing=True)

    def look() -> ChangeStart:
        user, _ = writer(dataset.api, asked)
        head = dataset.head()
        return ChangeStart(
            user=user,
            # What the hub says to a commit settles it, and a proposal is tried where it says no.
            can_write=True,
            branch="main",
            parent_commit=head,
            files=missing(head),
            title=title,
        )

    change = Change(
        asked,
        look,
        is_made=lambda revision: not missing(revision),
        describe=lambda _: text,
    )
    done = commit_or_propose(dataset.api, change, propose=create_pr)
    if isinstance(done, ChangeStart):
        return f"{dataset.url}/{there.replace('{commit}', done.parent_commit)}"
    return done


def may_submit(dataset: Dataset, *, create_pr: bool) -> Literal["commit", "pull request"]:
    """How :func:`change_files` would change the registry.

    Raises what :func:`writer` and :meth:`.Dataset.head` raise, and HubError where a change can only
    be proposed and pull requests are switched off.
    """
    asked = replace(dataset.asked, writing=True)
    user, _ = writer(dataset.api, asked)
    dataset.head()
    if not create_pr and may_commit(dataset.api, asked):
        return "commit"
    list(own_proposals(dataset.api, asked, user))
    return "pull request"


def own_pulls(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Address and revision of each open pull request of this account's, newest first."""
    asked = replace(dataset.asked, writing=True)
    return own_proposals(dataset.api, asked, writer(dataset.api, asked)[0])


_FOLDER = "encoders"


_MOST = 8
"""Weights of one name that are looked at: more than were ever published under one."""


INDEX_FOLDER = "index/v1"
"""Where the index lies, below the root of the dataset."""


_LARGEST = 2 * 1024**3
"""Bytes of a file whose size nothing has told yet."""


def fetch_encoder_files(
    dataset: Dataset,
    name: str,
    pretrained: str,
    target: Path,
    *,
    limits: Mapping[str, int],
    accepts: Callable[[Path], bool],
) -> Path | None:
    """Put an export of the encoder ``name/pretrained`` into ``target``, all files or none.

    ``limits`` are the files and the most bytes of each. The first file of every export is shown to
    ``accepts`` in a folder of its own; the rest are fetched of the first that it accepts. None
    where there is no such export; the target where it is there already. Two requests, two or more
    a file, and nothing is sent but the name.

    Raises InputError where the target cannot be written, and as :class:`.Dataset`.
    """
    if target.exists():
        return target
    commit = dataset.head()
    folders = sorted(
        path
        for path, held in dataset.level(commit, f"{_FOLDER}/{name}/{pretrained}").items()
        if isinstance(held, str)
    )
    first = next(iter(limits))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a rename is all that is left to do.
        with tempfile.TemporaryDirectory(prefix=".gmi-", dir=target.parent) as place:
            scratch = Path(place)
            source = dataset.in_cache(scratch / "hub")
            for folder in folders[:_MOST]:
                there = dataset.stored(commit, [f"{folder}/{name}" for name in limits])
                if len(there) < len(limits):
                    continue
                fresh = scratch / Path(folder).name
                fresh.mkdir()
                _take(source, f"{folder}/{first}", commit, fresh / first, limits[first])
                if not accepts(fresh):
                    continue
                for file in [file for file in limits if file != first]:
                    _take(source, f"{folder}/{file}", commit, fresh / file, limits[file])
                try:
                    fresh.rename(target)
                except OSError:
                    if not target.exists():  # else another search was quicker
                        raise
                return target
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="name another place: --cache-dir DIR",
        ) from error
    return None


def _take(dataset: Dataset, path: str, commit: str, target: Path, limit: int) -> None:
    # What is fetched is a link within the cache, which goes away: the file itself is moved.
    shutil.move(dataset.fetch(path, commit, limit=limit).resolve(), target)


class AggregateFiles:
    """The files of the index at one commit, each fetched when it is asked for, and kept.

    ``cache`` remembers at which commit each was fetched, so that one that stays the same is never
    asked for again.
    """

    def __init__(self, dataset: Dataset, commit: str, cache: RegistryCache) -> None:
        self.name = f"{dataset.id}@{commit[:7]}"
        self._dataset = dataset
        self._commit = commit
        self._cache = cache
        self._known = cache.index_commits()[1]

    def fetch(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """The file called ``name`` below :data:`INDEX_FOLDER`, of at most ``size`` bytes.

        With ``sha256`` the name stands for one content; who asks checks it. Raises
        SpecNotFoundError where the commit has no such file, and as :meth:`.Dataset.fetch`.
        """
        path = f"{INDEX_FOLDER}/{name}"
        limit = _LARGEST if size is None else size
        older = self._known.get(name) if sha256 is not None else None
        if older is not None:
            kept = self._dataset.cached(path, older)
            if kept is not None:
                return kept
        found = self._dataset.fetch(path, self._commit, limit=limit)
        self._known = self._known | ({} if sha256 is None else {name: self._commit})
        self._cache.keep_index_commits(self._commit, self._known)
        return found

    def has(self, name: str) -> bool:
        """Whether the file is on this disk, at this commit or an older one."""
        path = f"{INDEX_FOLDER}/{name}"
        commits = {self._commit, self._known.get(name, self._commit)}
        return any(self._dataset.cached(path, commit) is not None for commit in commits)


def push_aggregate(dataset: Dataset, files: Mapping[str, Path], *, create_pr: bool = False) -> str:
    """Make the index folder of the registry hold ``files``, by name, and nothing else.

    One commit, or one pull request; returns its address, or that of the folder where all is there
    already. Only what differs is sent. Raises as :meth:`.Registry.push_spec`.
    """

    def missing(revision: str) -> dict[str, bytes | Path | None]:
        there = dataset.tree(revision, INDEX_FOLDER)
        wanted = {f"{INDEX_FOLDER}/{name}": path for name, path in files.items()}
        gone: dict[str, bytes | Path | None] = {path: None for path in there if path not in wanted}
        new = {
            path: place
            for path, place in wanted.items()
            if path not in there or not there[path].holds(place)
        }
        return gone | new

    return change_files(
        dataset,
        missing,
        title=f"Index: {len(files)} files",
        text="The aggregated index, by which a search asks for no model one by one.",
        there=f"tree/{{commit}}/{INDEX_FOLDER}",
        create_pr=create_pr,
    )
