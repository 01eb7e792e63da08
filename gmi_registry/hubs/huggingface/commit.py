"""A specification goes beside its model in one commit, or is proposed as one pull request."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from gmi_registry.errors import GmiError, HubError
from gmi_registry.hubs.card import CARD_NAME
from gmi_registry.hubs.huggingface.card_edit import edit_card
from gmi_registry.hubs.huggingface.errors import Asked, explained, translate
from gmi_registry.hubs.huggingface.limit import wait_after
from gmi_registry.hubs.huggingface.patience import pause
from gmi_registry.hubs.huggingface.preflight import (
    Preflight,
    asked_of,
    check_writable,
    read_file,
    stored_files,
)
from gmi_registry.hubs.upload import read_upload
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    Manifest,
    ModelRef,
)
from gmi_registry.spec.fields import unprintable

__all__ = ["push_spec"]

_WAITS = (0.5, 1.0, 2.0, 4.0)
# git itself holds no larger file at the hub.
_REGULAR_LIMIT = 10 * 1024 * 1024
_PROPOSALS = 20
_NOTHING_IGNORED = "#\n"

_Step = Literal["again", "propose"]


def push_spec(api: HfApi, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
    """Commit the specification in ``folder`` to the model, with the edit of its card.

    The three files of a specification go together: an old preview does not outlive its
    specification. Without the right to write, or with ``create_pr``, a pull request is opened,
    unless one of this account's is open with the same specification. A push that somebody else's
    commit overtook starts again from that commit. After a failure that leaves open whether the
    hub did what it was asked, the model is looked at before anything is sent again.

    Returns the address of the commit or of the pull request; where the model holds all of it
    already, nothing is sent, and it is the address of ``gmi`` at the current commit.

    Raises InputError or SpecError for files that are no specification of ``ref``, AuthError for
    want of rights, HubError where the model now has other weights, its card cannot be edited, or
    the hub does not answer; the model then holds its old specification or the whole new one.
    """
    manifest, contents = read_upload(folder, ref)
    names = (MANIFEST_NAME, TENSORS_NAME, PREVIEW_NAME)
    ours = {f"{SPEC_DIR}/{name}": contents.get(name) for name in names}
    asked = asked_of(api, ref)
    propose = create_pr
    for attempt in itertools.count():
        now = check_writable(api, ref)
        _require_same_weights(api, ref, manifest, now)
        propose = propose or not now.can_write
        card = edit_card(now.card, manifest, preview=PREVIEW_NAME in contents)
        wanted = {**ours, CARD_NAME: card}
        changes = {path: new for path, new in wanted.items() if not now.holds(path, new)}
        if not changes:
            return f"{asked.url}/tree/{now.parent_commit}/{SPEC_DIR}"
        if propose:
            known = _proposed(api, ref, now, ours, asked)
            if known is not None:
                return known
        try:
            return _send(api, ref, now, manifest, changes, propose)
        except Exception as error:
            step = _after(error, propose)
            if step is None or attempt >= len(_WAITS):
                raise _explained(error, asked) from error
            if step == "propose":
                propose = True
                continue
            _wait(error, _WAITS[attempt], asked)
    raise AssertionError("unreachable")  # pragma: no cover


def _require_same_weights(api: HfApi, ref: ModelRef, manifest: Manifest, now: Preflight) -> None:
    for weight in manifest.model.weights:
        stored = now.files.get(weight.path)
        found = None if stored is None else stored.sha256
        if stored is not None and found is None and stored.size == weight.size:
            limit = min(stored.size, _REGULAR_LIMIT)
            content = read_file(api, ref.id, weight.path, now.parent_commit, limit)
            found = hashlib.sha256(content).hexdigest()
        if found != weight.sha256:
            what = "is gone" if stored is None else "is another file now"
            raise HubError(
                f"{ref.without_revision}: {weight.path}, which the specification describes, {what}",
                hint=f"the model changed meanwhile: gmi-publish {ref.without_revision}",
            )


def _proposed(
    api: HfApi,
    ref: ModelRef,
    now: Preflight,
    ours: Mapping[str, bytes | None],
    asked: Asked,
) -> str | None:
    """The address of an open pull request of this account's with these very files."""
    with explained(asked):
        found = api.get_repo_discussions(
            ref.id, author=now.user, discussion_type="pull_request", discussion_status="open"
        )
        # The hub is asked to filter, and its answer is checked.
        for pull in itertools.islice(found, _PROPOSALS):
            mine = pull.is_pull_request and pull.author == now.user
            if not mine or pull.status not in ("open", "draft"):
                continue
            files = stored_files(api, ref.id, f"refs/pr/{int(pull.num)}")
            if all(
                path not in files if new is None else path in files and files[path].holds(new)
                for path, new in ours.items()
            ):
                return f"{asked.url}/discussions/{int(pull.num)}"
    return None


def _send(
    api: HfApi,
    ref: ModelRef,
    now: Preflight,
    manifest: Manifest,
    changes: Mapping[str, bytes | None],
    propose: bool,
) -> str:
    added = [CommitOperationAdd(path, new) for path, new in changes.items() if new is not None]
    removed = [CommitOperationDelete(path) for path, new in changes.items() if new is None]
    # Without this, a .gitignore in the model would leave files out of the commit, silently: the
    # client asks the hub which to skip, unless that is settled before.
    api.preupload_lfs_files(
        ref.id,
        added,
        revision=now.branch,
        create_pr=propose,
        free_memory=False,
        gitignore_content=_NOTHING_IGNORED,
    )
    new = f"{SPEC_DIR}/{MANIFEST_NAME}" not in now.files
    info = api.create_commit(
        ref.id,
        [*added, *removed],
        commit_message=f"{'Add' if new else 'Update'} the specification for search by picture",
        commit_description=_description(manifest, propose),
        revision=now.branch,
        parent_commit=now.parent_commit,
        create_pr=propose,
    )
    url = info.pr_url if propose else info.commit_url
    if not isinstance(url, str) or not url.startswith(f"{api.endpoint}/") or unprintable(url):
        return f"{api.endpoint}/{ref.id}"
    return str(url)


def _description(manifest: Manifest, propose: bool) -> str:
    tool = f"Made by {manifest.tool.name} {manifest.tool.version}."
    if not propose:
        return tool
    return (
        f"Adds `{SPEC_DIR}/`, two small files (and a contact sheet) that describe what this model "
        "draws, so that people can find it by a picture, and says so in the model card. "
        f"No weights are touched. {tool}"
    )


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


def _wait(error: Exception, otherwise: float, asked: Asked) -> None:
    wait: float | None = otherwise
    if isinstance(error, HfHubHTTPError) and error.response.status_code == 429:
        wait = wait_after(error.response.headers, otherwise)
    if wait is None:
        raise _explained(error, asked) from error
    pause(wait)


def _explained(error: Exception, asked: Asked) -> Exception:
    if isinstance(error, HfHubHTTPError) and error.response.status_code in (409, 412):
        return HubError(
            f"{asked.name}: others keep changing it, so the commit never fitted",
            hint="run the same command again when they are done",
        )
    if isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        # The hub's own check of the card, or of an upload: the client says it in many lines.
        said = " ".join(str(error).split())[:200]
        return HubError(
            f"{asked.name}: the hub does not take it: {said}",
            hint="mend what it names, then run the same command again",
        )
    if isinstance(error, RuntimeError):
        cause = error.__cause__
        known = None if cause is None else translate(cause, asked)
        return known or HubError(
            f"{asked.name}: the upload failed", hint="run the same command again"
        )
    return translate(error, asked) or error
