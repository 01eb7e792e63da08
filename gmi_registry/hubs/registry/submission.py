"""A specification goes into the registry: one commit, or one pull request, with one entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gmi_registry.errors import AuthError, HubError, InputError
from gmi_registry.hubs.huggingface.change import Change, Start, make
from gmi_registry.hubs.huggingface.errors import Asked, explained
from gmi_registry.hubs.huggingface.patience import patiently
from gmi_registry.hubs.huggingface.preflight import StoredFile
from gmi_registry.hubs.registry.dataset import REPO_TYPE, Dataset
from gmi_registry.hubs.registry.layout import (
    ENTRY_FILES,
    entry_file,
    entry_of,
    entry_path,
    is_entry,
)
from gmi_registry.hubs.upload import read_upload
from gmi_registry.spec import MANIFEST_NAME, ModelRef

__all__ = ["change_files", "submit", "writer"]

_WRITES = frozenset({"repo.write", "discussion.write"})


def submit(dataset: Dataset, ref: ModelRef, folder: Path, *, create_pr: bool) -> str:
    """Propose or commit ``folder`` as an entry, as :meth:`.Registry.push_spec` says."""
    manifest, contents = read_upload(folder, ref)
    entry = entry_of(manifest.model)
    if is_entry(ref) and ref.revision != entry.revision:
        raise InputError(
            f"{folder} describes {entry}, not {ref}", hint=f"gmi-publish {ref} --to registry"
        )
    wanted = {entry_file(entry, name): contents.get(name) for name in ENTRY_FILES}
    tool = f"Made by {manifest.tool.name} {manifest.tool.version}."
    replaces = "" if manifest.previous is None else f" It replaces {manifest.previous[:12]}."
    return change_files(
        dataset,
        wanted,
        title=f"Specification of {entry.repository}",
        text=f"`{entry_path(entry)}`: {manifest.model.title}.{replaces} {tool}",
        create_pr=create_pr,
        marker=entry_file(entry, MANIFEST_NAME),
    )


def change_files(
    dataset: Dataset,
    wanted: Mapping[str, bytes | None],
    *,
    title: str,
    text: str,
    create_pr: bool,
    marker: str,
) -> str:
    """Let the dataset's files be ``wanted`` (None: not there), as one commit or pull request.

    Returns its address, or the one of ``marker``'s folder where all is so already. Raises as
    :func:`gmi_registry.hubs.huggingface.change.make`.
    """
    asked = replace(dataset.asked, writing=True)
    paths = list(wanted)

    def missing(revision: str) -> dict[str, bytes | None]:
        files = dataset.stored(revision, paths)
        return {path: new for path, new in wanted.items() if not _is_so(files.get(path), new)}

    def look() -> Start:
        user = writer(dataset)
        head = dataset.head()
        return Start(
            user=user,
            # What the hub says to a commit settles it, and a proposal is tried where it says no.
            can_write=True,
            branch="main",
            parent_commit=head,
            files=missing(head),
            title=title,
        )

    change = Change(asked, REPO_TYPE, look, lambda revision: not missing(revision), lambda _: text)
    done = make(dataset.api, change, propose=create_pr)
    if isinstance(done, Start):
        return f"{dataset.url}/tree/{done.parent_commit}/{marker.rpartition('/')[0]}".rstrip("/")
    return done


def writer(dataset: Dataset) -> str:
    """The name of the account whose token this is, which may at least propose something.

    One request a process. Raises AuthError without a token, and with one that is wrong, only reads,
    or is made for other repositories.
    """
    asked = replace(dataset.asked, writing=True)
    if not asked.has_token:
        raise AuthError(
            f"{asked.name}: publishing there needs a token, and there is none",
            hint=f"hf auth login, with one that may write: {_tokens(asked)}",
        )
    with explained(Asked(asked.endpoint, True, writing=True)):
        account = _mapping(patiently(lambda: dataset.api.whoami(cache=True)))
    user = account.get("name")
    if not isinstance(user, str):
        raise HubError(
            f"{asked.endpoint} does not say whose token this is", hint="check HF_ENDPOINT"
        )
    token = _mapping(_mapping(account.get("auth")).get("accessToken"))
    if token.get("role") == "read":
        raise AuthError(
            f"{asked.name}: this token may only read",
            hint=f"hf auth login, with a token with write access: {_tokens(asked)}",
        )
    rights = _mapping(token.get("fineGrained"))
    if token.get("role") == "fineGrained" and not _WRITES & set(_granted(rights, dataset.id)):
        raise AuthError(
            f"{asked.name}: this token is made for other repositories",
            hint=f"let it open discussions in {dataset.id} at {_tokens(asked)}, or hf auth login",
        )
    return user


def _is_so(stored: StoredFile | None, wanted: bytes | None) -> bool:
    return stored is None if wanted is None else stored is not None and stored.holds(wanted)


def _granted(rights: Mapping[str, Any], repo_id: str) -> Iterator[str]:
    yield from map(str, rights.get("global") or ())
    owner = repo_id.partition("/")[0].casefold()
    for scope in map(_mapping, rights.get("scoped") or ()):
        entity = _mapping(scope.get("entity"))
        covered = {"dataset": repo_id.casefold(), "user": owner, "org": owner}
        if covered.get(str(entity.get("type"))) == str(entity.get("name")).casefold():
            yield from map(str, scope.get("permissions") or ())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _tokens(asked: Asked) -> str:
    return f"{asked.endpoint}/settings/tokens"
