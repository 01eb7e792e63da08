"""The registry's commits: where a proposal begins, and whose an entry is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import Any
from urllib.parse import quote

from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._pagination import paginate

from gmi_registry.errors import HubError
from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.hubs.registry.dataset import REPO_TYPE, Dataset
from gmi_registry.spec.fields import unprintable

__all__ = ["Commit", "author_of_pull", "authors_of", "beginning", "commits"]

# A proposal that is older than so many commits on either side is to be made anew.
_FARTHEST = 10_000
_PULL = re.compile(r"refs/pr/([1-9][0-9]{0,8})")
# The hub puts the pull request's number behind the title of the commit that merges it.
_MERGED = re.compile(r"\(#([1-9][0-9]{0,8})\)\s*")
_LONGEST_NAME = 100
# What the client says in place of somebody whose account is gone.
_NOBODY = "deleted"


@dataclass(frozen=True)
class Commit:
    """``id`` has 40 hex digits; ``authors`` are names of accounts."""

    id: str
    title: str
    authors: tuple[str, ...]


def commits(dataset: Dataset, revision: str) -> Iterator[Commit]:
    """The commits of a revision, the newest first; one request a page, when it is reached."""
    api = dataset.api
    with dataset.named_errors(revision):
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


def beginning(dataset: Dataset, revision: str, trunk: str = "main") -> str | None:
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
