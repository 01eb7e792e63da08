"""The dataset that is the registry: files at commits, and what is said where there are none."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    RemoteEntryNotFoundError,
)

from gmi_registry.errors import AuthError, GmiError, HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.huggingface.client import (
    HubRequest,
    assets_folder,
    connect,
    download_folder,
    offline_error,
    retried,
    translated_errors,
)
from gmi_registry.hubs.huggingface.download import COMMIT, Downloads
from gmi_registry.hubs.huggingface.publishing import StoredFile
from gmi_registry.spec import ModelRef
from gmi_registry.spec.address import dataset_name

DEFAULT_REGISTRY = "gmi-registry/specs"
"""The dataset that is meant where neither the caller nor GMI_REGISTRY names one."""

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

    @classmethod
    def named(
        cls,
        repo_id: str | None,
        *,
        endpoint: str | None,
        token: str | bool | None,
        home: Path | None,
        offline: bool,
    ) -> Dataset:
        """The dataset called ``repo_id``, with the arguments of :class:`.Registry`."""
        api, asked = connect(endpoint, token)
        name = _checked_id(repo_id, asked.endpoint)
        asked = dataclasses.replace(asked, id=name, repo_type=REPO_TYPE)
        return cls(api, asked, download_folder(home), offline=offline)

    @property
    def url(self) -> str:
        """Its page."""
        return self.asked.url

    def assets(self, home: Path | None) -> Path:
        """Where is kept what was learnt of this hub's datasets, below ``home`` or in HF_HOME."""
        return assets_folder(self.asked, "registry", home)

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
        return translated_errors(dataclasses.replace(self.asked, revision=revision))

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


def _checked_id(text: str | None, address: str) -> str:
    name = text or os.environ.get("GMI_REGISTRY") or DEFAULT_REGISTRY
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
