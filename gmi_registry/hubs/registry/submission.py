"""Specifications go into the registry, and into ``verified.json``, by a commit or a pull request.

``verified.json`` says for which specifications the maintainers generated images again, and found
them true::

    {"format": {"name": "gmi-verified", "version": 1},
     "specs": [{"digest": SHA-256 of spec.json, "git": git's name of the same bytes}, ...]}

The digest is what is verified. The other name follows from the same bytes, and is what a listing of
a repository knows of them without a download.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from gmi_registry.errors import HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.files import read_upload
from gmi_registry.hubs.huggingface.changes import (
    Change,
    ChangeStart,
    commit_or_propose,
    own_proposals,
)
from gmi_registry.hubs.huggingface.download import COMMIT, git_digest
from gmi_registry.hubs.huggingface.publishing import StoredFile, may_commit, writer
from gmi_registry.hubs.registry.dataset import Dataset
from gmi_registry.hubs.registry.entries import (
    ENTRY_FILES,
    VERIFIED_NAME,
    entry_file,
    entry_of,
    entry_path,
    is_entry,
)
from gmi_registry.sanitize import in_markdown
from gmi_registry.spec import MANIFEST_NAME, SIGNATURE_NAME, SPEC_DIR, ModelRef

VERIFIED_LIMIT = 16 * 1024 * 1024
"""Bytes of ``verified.json``: room for 100,000 specifications."""

_FORMAT, _VERSION = "gmi-verified", 1
_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def git_name(content: bytes) -> str:
    """What git calls a file with this content: SHA-1, 40 hex digits."""
    digest = git_digest(len(content))
    digest.update(content)
    return str(digest.hexdigest())


@dataclass(frozen=True)
class Verified:
    """``specs`` maps git's name of each verified ``spec.json`` to its SHA-256, both in hex."""

    specs: Mapping[str, str]

    @classmethod
    def from_bytes(cls, content: bytes) -> Verified:
        """Read ``verified.json``. Raises HubError where it is not what is described above.

        Fields that are not described are passed over, a newer version is refused.
        """
        if len(content) > VERIFIED_LIMIT:
            raise _broken(f"has {len(content):,} bytes, more than {VERIFIED_LIMIT:,}")
        try:
            document = json.loads(content, object_pairs_hook=_once)
            declared = document["format"]
            name, version = declared["name"], declared["version"]
            rows = document["specs"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise _broken("is not JSON with a format and specs") from None
        if name != _FORMAT or type(version) is not int or version < 1:
            raise _broken("is of another format")
        if version > _VERSION:
            raise HubError(
                f"{VERIFIED_NAME} has version {version}; this program knows version {_VERSION}",
                hint="pip install --upgrade gmi-registry",
            )
        if not isinstance(rows, list):
            raise _broken("has specs that are not a list")
        found: dict[str, str] = {}
        for row in rows:
            digest, git = (row.get("digest"), row.get("git")) if isinstance(row, dict) else (0, 0)
            if not _matches(_SHA256, digest) or not _matches(_SHA1, git):
                raise _broken("has a row without the two digests")
            if found.setdefault(str(git), str(digest)) != digest:
                raise _broken("gives one file two digests")
        return cls(found)

    def with_spec(self, manifest: bytes) -> Verified:
        """The same, and the specification whose ``spec.json`` has this content."""
        digest = hashlib.sha256(manifest).hexdigest()
        return Verified({**self.specs, git_name(manifest): digest})

    def to_bytes(self) -> bytes:
        """The content of ``verified.json``, by digest, a line a specification."""
        rows = sorted((digest, git) for git, digest in self.specs.items())
        lines = ",\n".join(json.dumps({"digest": digest, "git": git}) for digest, git in rows)
        head = json.dumps({"name": _FORMAT, "version": _VERSION})
        return f'{{"format": {head},\n"specs": [\n{lines}\n]}}\n'.encode()


def read_verified(dataset: Dataset, commit: str) -> Verified:
    """What ``verified.json`` says at a commit; nothing where there is none.

    Raises HubError where it cannot be understood, and every other error of the hub.
    """
    try:
        path = dataset.fetch(VERIFIED_NAME, commit, limit=VERIFIED_LIMIT)
    except SpecNotFoundError:
        return Verified({})
    return Verified.from_bytes(path.read_bytes())


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return found


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _broken(reason: str) -> HubError:
    return HubError(
        f"{VERIFIED_NAME} {reason}", hint="a maintainer of the registry must put it right"
    )


def submit(dataset: Dataset, ref: ModelRef, folder: Path, *, create_pr: bool) -> str:
    """Propose or commit ``folder`` as an entry, as :meth:`.Registry.push_spec` says."""
    manifest, contents = read_upload(folder, ref)
    entry = entry_of(manifest.model)
    if is_entry(ref) and ref.revision != entry.revision:
        raise InputError(
            f"{folder} describes {entry}, not {ref}", hint=f"gmi-publish {ref} --to registry"
        )
    wanted = {entry_file(entry, name): contents.get(name) for name in ENTRY_FILES}
    signature = contents.get(SIGNATURE_NAME)

    def missing(revision: str) -> Mapping[str, bytes | None]:
        files = dataset.stored(revision, list(wanted))
        found = {path: new for path, new in wanted.items() if not _is_so(files.get(path), new)}
        if entry_file(entry, MANIFEST_NAME) not in found and signature is None:
            # Of the same specification, so it holds.
            found.pop(entry_file(entry, SIGNATURE_NAME), None)
        return found

    tool = in_markdown(f"Made by {manifest.tool.name} {manifest.tool.version}.")
    replaces = "" if manifest.previous is None else f" It replaces {manifest.previous[:12]}."
    done = change_files(
        dataset,
        missing,
        title=f"Specification of {entry.repository}",
        text=f"`{entry_path(entry)}`: {in_markdown(manifest.model.title)}.{replaces} {tool}",
        create_pr=create_pr,
    )
    if isinstance(done, ChangeStart):
        return f"{dataset.url}/tree/{done.parent_commit}/{entry_path(entry)}/{SPEC_DIR}"
    return done


def mark_verified(
    dataset: Dataset, entry: ModelRef, manifest: bytes, *, create_pr: bool = False
) -> str:
    """Add the specification whose ``spec.json`` is ``manifest`` to ``verified.json``.

    Returns the address of the commit or the pull request, or of the file where it says so already.
    Raises HubError where what is there cannot be understood, and as :meth:`.Registry.push_spec`.
    """

    def missing(revision: str) -> Mapping[str, bytes | None]:
        commit = revision if COMMIT.fullmatch(revision) else dataset.head(revision)
        before = read_verified(dataset, commit)
        after = before.with_spec(manifest)
        return {} if before == after else {VERIFIED_NAME: after.to_bytes()}

    done = change_files(
        dataset,
        missing,
        title=f"Verified: {entry.repository}",
        text=f"Images of `{entry_path(entry)}` were generated again, and match their description.",
        create_pr=create_pr,
    )
    if isinstance(done, ChangeStart):
        return f"{dataset.url}/blob/{done.parent_commit}/{VERIFIED_NAME}"
    return done


def change_files(
    dataset: Dataset,
    missing: Callable[[str], Mapping[str, bytes | Path | None]],
    *,
    title: str,
    text: str,
    create_pr: bool,
) -> str | ChangeStart:
    """Commit or propose what is ``missing`` at a revision: path to new content, None to go.

    Returns the address, or where the head has all of it what was found there. Raises as
    :meth:`.Registry.push_spec`.
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
    return commit_or_propose(dataset.api, change, propose=create_pr)


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


def _is_so(stored: StoredFile | None, wanted: bytes | None) -> bool:
    return stored is None if wanted is None else stored is not None and stored.holds(wanted)
