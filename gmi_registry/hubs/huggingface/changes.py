"""One commit to a repository, or one pull request, made once whatever happens on the way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, Discussion, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from gmi_registry.errors import GmiError, HubError
from gmi_registry.hubs.huggingface.client import (
    HubRequest,
    pause,
    retried,
    translated,
    translated_errors,
    wait_after,
)
from gmi_registry.sanitize import one_line
from gmi_registry.spec.reference import unprintable

_WAITS = (0.5, 1.0, 2.0, 4.0)
_PROPOSALS = 20
_NOTHING_IGNORED = "#\n"

_Step = Literal["again", "propose"]


@dataclass(frozen=True)
class ChangeStart:
    """What a change starts from: the head ``parent_commit`` (40 hex digits) of ``branch``.

    ``can_write`` says whether ``user`` may commit there; else the change can be proposed.
    ``files`` are what is to be different at that commit, by path: new content, or a file on this
    disk that holds it, or None for a file that is to go; empty where all is as it should be.
    """

    user: str
    can_write: bool
    branch: str
    parent_commit: str
    files: Mapping[str, bytes | Path | None]
    title: str


@dataclass(frozen=True)
class Change:
    """What is to be changed in the repository that ``asked`` names.

    ``look`` finds out what is there, and raises where the change has no place; it is called again
    before each attempt. ``is_made`` says whether a revision has all of it. ``describe`` is the text
    of the commit, or where its argument is true of the pull request.
    """

    asked: HubRequest
    look: Callable[[], ChangeStart]
    is_made: Callable[[str], bool]
    describe: Callable[[bool], str]


def commit_or_propose(api: HfApi, change: Change, *, propose: bool) -> str | ChangeStart:
    """Commit, or open a pull request; returns its address, or the Start where all is there already.

    Without the right to write, or with ``propose``, it is a pull request, unless one of this
    account's is open that has all of it. A commit that somebody else's overtook starts again from
    that one. After a failure that leaves open whether the hub did what it was asked, ``look`` is
    called before anything is sent again.

    Raises what ``look`` raises, AuthError for want of rights, HubError where the hub does not take
    it or does not answer; the repository then has nothing of the change, or all of it.
    """
    for attempt in itertools.count():
        start = change.look()
        propose = propose or not start.can_write
        if not start.files:
            return start
        if propose:
            known = _proposed(api, change, start)
            if known is not None:
                return known
        try:
            return _send(api, change, start, propose)
        except Exception as error:
            step = _after(error, propose)
            if step is None or attempt >= len(_WAITS):
                raise _explained(error, change.asked) from error
            if step == "propose":
                propose = True
                continue
            _wait(error, _WAITS[attempt], change.asked)
    raise AssertionError("unreachable")  # pragma: no cover


def own_proposals(api: HfApi, asked: HubRequest, user: str) -> Iterator[tuple[str, str]]:
    """Address and revision (``refs/pr/3``) of the newest open pull requests of ``user``.

    One request. Raises HubError where pull requests are switched off.
    """

    def ask() -> list[Discussion]:
        found = api.get_repo_discussions(
            str(asked.id),
            author=user,
            discussion_type="pull_request",
            discussion_status="open",
            repo_type=asked.repo_type,
        )
        return list(itertools.islice(found, _PROPOSALS))

    with translated_errors(asked):
        try:
            found = retried(ask)
        except HfHubHTTPError as error:
            said = error.server_message or ""
            if error.response.status_code == 403 and not isinstance(error, GatedRepoError):
                why = f" ({' '.join(said.split())[:200]})" if said else ""
                raise HubError(
                    f"{asked.name} takes no pull requests: they are switched off{why}",
                    hint="ask its owner to switch them on, or write to --output DIR",
                ) from error
            raise
    # The hub is asked to filter, and its answer is checked.
    for pull in found:
        if pull.is_pull_request and pull.author == user and pull.status in ("open", "draft"):
            number = int(pull.num)
            yield f"{asked.url}/discussions/{number}", f"refs/pr/{number}"


def _proposed(api: HfApi, change: Change, start: ChangeStart) -> str | None:
    """The address of an open pull request of this account's that has all of the change."""
    for address, revision in own_proposals(api, change.asked, start.user):
        with translated_errors(change.asked):
            if change.is_made(revision):
                return address
    return None


def _send(api: HfApi, change: Change, start: ChangeStart, propose: bool) -> str:
    repo_id = str(change.asked.id)
    added = [CommitOperationAdd(path, new) for path, new in start.files.items() if new is not None]
    removed = [CommitOperationDelete(path) for path, new in start.files.items() if new is None]
    # Without this, a .gitignore in the repository would leave files out of the commit, silently:
    # the client asks the hub which to skip, unless that is settled before.
    api.preupload_lfs_files(
        repo_id,
        added,
        repo_type=change.asked.repo_type,
        revision=start.branch,
        create_pr=propose,
        free_memory=False,
        gitignore_content=_NOTHING_IGNORED,
    )
    info = api.create_commit(
        repo_id,
        [*added, *removed],
        repo_type=change.asked.repo_type,
        commit_message=start.title,
        commit_description=change.describe(propose),
        revision=start.branch,
        parent_commit=start.parent_commit,
        create_pr=propose,
    )
    url = info.pr_url if propose else info.commit_url
    if not isinstance(url, str) or not url.startswith(f"{api.endpoint}/") or unprintable(url):
        return change.asked.url
    return str(url)


def _after(error: Exception, propose: bool) -> _Step | None:
    """What to do after a failed push; None where trying again cannot help."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if isinstance(error, RemoteEntryNotFoundError):
            return "again"  # a file that was to be removed is gone already
        if isinstance(error, GatedRepoError | RepositoryNotFoundError):
            return None
        if status == 403 and not propose:
            return "propose"
        return "again" if status in (408, 409, 412, 429) or status >= 500 else None
    if isinstance(error, GmiError):
        return None
    if isinstance(error, json.JSONDecodeError | KeyError | TypeError):
        return "again"  # an answer that was cut short, perhaps after the deed
    # A connection that broke; the upload of large files wraps that in a RuntimeError.
    broken = isinstance(error, (HfHubHTTPError.__bases__[0], RuntimeError))
    return "again" if broken else None


def _wait(error: Exception, otherwise: float, asked: HubRequest) -> None:
    wait: float | None = otherwise
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 429:
        wait = wait_after(error.response.headers, otherwise)
    if wait is None:
        raise _explained(error, asked) from error
    pause(wait)


def _explained(error: Exception, asked: HubRequest) -> Exception:
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (409, 412):
        return HubError(
            f"{asked.name}: others keep changing it, so the commit failed each time",
            hint="run the same command again when they are done",
        )
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        # The hub's own check of the card, or of an upload: the client says it in many lines.
        said = one_line(str(error))
        return HubError(
            f"{asked.name}: the hub does not accept it: {said}",
            hint="correct what it names, then run the same command again",
        )
    if isinstance(error, RuntimeError):
        cause = error.__cause__
        known = None if cause is None else translated(cause, asked)
        return known or HubError(
            f"{asked.name}: the upload failed", hint="run the same command again"
        )
    return translated(error, asked) or error
