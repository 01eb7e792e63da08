"""Proposals to the registry: a pull request, or a folder beside another; and whose an entry is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._pagination import paginate

from gmi_registry.errors import HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.files import opened_plain
from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.hubs.huggingface.publishing import StoredFile
from gmi_registry.hubs.registry.dataset import REPO_TYPE, Dataset
from gmi_registry.hubs.registry.entries import ENTRY_FILES, entry_file, entry_path
from gmi_registry.hubs.registry.review import Proposal
from gmi_registry.spec import MANIFEST_NAME, ModelRef
from gmi_registry.spec.reference import unprintable

# A proposal that is older than so many commits on either side is to be made anew.
_FARTHEST = 10_000
_PULL = re.compile(r"refs/pr/([1-9][0-9]{0,8})")
# The hub puts the pull request's number behind the title of the commit that merges it.
_MERGED = re.compile(r"\(#([1-9][0-9]{0,8})\)\s*")
_LONGEST_NAME = 100
# What the client says in place of somebody whose account is gone.
_NOBODY = "deleted"

_FOLDERS = 24
_GIT = ".git"
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Commit:
    """``id`` has 40 hex digits; ``authors`` are names of accounts."""

    id: str
    title: str
    authors: tuple[str, ...]


def commits(dataset: Dataset, revision: str) -> Iterator[Commit]:
    """The commits of a revision, the newest first; one request a page, when it is reached."""
    api = dataset.api
    with dataset.translated_errors(revision):
        for item in paginate(
            f"{api.endpoint}/api/{REPO_TYPE}s/{dataset.id}/commits/{quote(revision, safe='')}",
            params={},
            headers=build_hf_headers(token=api.token, library_name=api.library_name),
        ):
            name = item["id"]
            if not isinstance(name, str) or not COMMIT.fullmatch(name):
                raise HubError(f"{dataset.asked.name}: the hub gives a commit an impossible name")
            authors = (author.get("user") for author in item.get("authors") or ())
            title = item.get("title")
            yield Commit(
                name,
                title if isinstance(title, str) else "",
                tuple(found for found in map(_account, authors) if found is not None),
            )


def merge_base(dataset: Dataset, revision: str, trunk: str = "main") -> str | None:
    """The newest commit of ``trunk`` that ``revision`` is built on; None where there is none."""
    ours: set[str] = set()
    theirs: set[str] = set()
    walk = zip_longest(commits(dataset, revision), commits(dataset, trunk))
    for mine, other in islice(walk, _FARTHEST):
        if mine is not None:
            ours.add(mine.id)
            if mine.id in theirs:
                return mine.id
        if other is not None:
            theirs.add(other.id)
            if other.id in ours:
                return other.id
    return None


def author_of_pull(dataset: Dataset, revision: str) -> str | None:
    """Who opened the pull request ``refs/pr/N``; None for another revision, or nobody known."""
    found = _PULL.fullmatch(revision)
    if found is None:
        return None
    return _account(_details(dataset, int(found.group(1))).author)


def authors_of(dataset: Dataset, path: str, commit: str) -> frozenset[str]:
    """Whose the content is that a file has at a commit: three requests.

    Of one that came by a pull request it is who opened that, not who merged it.
    """
    infos: Any = dataset.ask(
        lambda: dataset.api.get_paths_info(
            dataset.id, [path], expand=True, revision=commit, repo_type=REPO_TYPE
        ),
        commit,
    )
    last = infos[0].last_commit.oid if infos and infos[0].last_commit is not None else ""
    if not COMMIT.fullmatch(last):
        return frozenset()
    newest = next(commits(dataset, last), None)
    if newest is None:
        return frozenset()
    numbers = _MERGED.findall(newest.title)
    if numbers:
        # Anybody may write a number into a title; the pull request knows its own commit.
        pull = _details(dataset, int(numbers[-1]))
        if pull.is_pull_request and pull.merge_commit_oid == newest.id:
            author = _account(pull.author)
            return frozenset() if author is None else frozenset({author})
    return frozenset(newest.authors)


def _details(dataset: Dataset, number: int) -> Any:
    return dataset.ask(
        lambda: dataset.api.get_discussion_details(dataset.id, number, repo_type=REPO_TYPE),
        f"refs/pr/{number}",
    )


def _account(name: object) -> str | None:
    usable = isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and not unprintable(name)
    return str(name) if usable and name != _NOBODY else None


def read_pull(dataset: Dataset, revision: str, scratch: Path) -> Proposal:
    """What a pull request (``refs/pr/3``), or a branch, changes since it left ``main``.

    Its files are kept in ``scratch``, an empty folder, and nowhere else. Costs about twenty
    requests, and one for each further page of a listing. Raises SpecNotFoundError for an unknown
    revision, or one that is not built on ``main``, and every other error of the hub.
    """
    commit = dataset.head(revision)
    start = merge_base(dataset, commit)
    if start is None:
        raise SpecNotFoundError(
            f"{dataset.asked.name}: {revision} is not built on main",
            hint="propose it again: gmi-publish --to registry",
        )
    kept = dataset.in_cache(scratch)

    def unpack(entry: ModelRef) -> Path:
        limits = {entry_file(entry, name): limit for name, limit in ENTRY_FILES.items()}
        there = dataset.stored(commit, list(limits))
        places = [kept.fetch(path, commit, limit=limits[path]) for path in there]
        return places[0].parents[1] if places else scratch

    def owners(entry: ModelRef) -> frozenset[str] | None:
        # Of today's main: somebody else's may have come there since the proposal left it.
        path, head = entry_file(entry, MANIFEST_NAME), dataset.head()
        return authors_of(dataset, path, head) if dataset.stored(head, [path]) else None

    return Proposal(
        changed=_changes(dataset, start, commit),
        author=author_of_pull(dataset, revision),
        commit=commit,
        owners=owners,
        unpack=unpack,
        linked=True,
    )


def _changes(dataset: Dataset, start: str, commit: str) -> dict[str, int | None]:
    """Paths that differ: the bytes that they have at ``commit``, None for those that are gone."""
    try:
        return dict(_differing(dataset, start, commit, None, [0]))
    except _TooManyError:
        before, after = dataset.tree(start), dataset.tree(commit)
        return dict(_compared(before, after))


def _differing(
    dataset: Dataset, start: str, commit: str, folder: str | None, looked: list[int]
) -> Iterator[tuple[str, int | None]]:
    """Only folders that differ are looked into, which of a large registry are few."""
    looked[0] += 1
    if looked[0] > _FOLDERS:
        raise _TooManyError
    before, after = dataset.level(start, folder), dataset.level(commit, folder)
    files = [
        {path: item for path, item in side.items() if not isinstance(item, str)}
        for side in (before, after)
    ]
    yield from _compared(*files)
    for path in sorted(before.keys() | after.keys()):
        sides = before.get(path), after.get(path)
        if sides[0] != sides[1] and any(isinstance(side, str) for side in sides):
            yield from _differing(dataset, start, commit, path, looked)


def _compared(
    before: Mapping[str, StoredFile], after: Mapping[str, StoredFile]
) -> Iterator[tuple[str, int | None]]:
    for path, stored in after.items():
        if before.get(path) != stored:
            yield path, stored.size
    for path in before:
        if path not in after:
            yield path, None


class _TooManyError(Exception):
    """So many folders differ that it is cheaper to list everything."""


def compare_folders(base: Path, folder: Path) -> Proposal:
    """What ``folder`` changes of ``base``; git's own folder at the root of either is left out.

    Links are not followed. Whose an entry is no folder knows, so that replacing one is for a
    maintainer. Raises InputError where one of them is no folder, or cannot be read.
    """
    try:
        before, after = dict(_files(base)), dict(_files(folder))
        changed = {
            path: after[path].lstat().st_size
            for path in after
            if path not in before or not _same(before[path], after[path])
        }
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror or error}") from error
    return Proposal(
        changed={**changed, **{path: None for path in before if path not in after}},
        author=None,
        commit=None,
        owners=lambda entry: _nobody(base, entry),
        unpack=lambda entry: folder / entry_path(entry),
        linked=False,
    )


def _nobody(base: Path, entry: ModelRef) -> frozenset[str] | None:
    return frozenset() if os.path.lexists(base / entry_file(entry, MANIFEST_NAME)) else None


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    if not root.is_dir():
        raise InputError(f"{root} is not a folder", hint="name a folder with the registry's files")
    for place, folders, names in os.walk(root, onerror=_raise):
        here = Path(place)
        if here == root and _GIT in folders:
            folders.remove(_GIT)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*names, *links):
            path = here / name
            yield path.relative_to(root).as_posix(), path


def _same(first: Path, second: Path) -> bool:
    try:
        with opened_plain(first) as before, opened_plain(second) as after:
            while True:
                pieces = before.read(_CHUNK), after.read(_CHUNK)
                if pieces[0] != pieces[1]:
                    return False
                if not pieces[0]:
                    return True
    except HubError:  # a link, or no regular file
        return False


def _raise(error: OSError) -> None:
    raise error
