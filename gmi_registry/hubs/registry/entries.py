"""Where in the registry each specification lies, and what its last listing said.

::

    civitai/{model}/{version}/gmi/...            of a version of a Civitai model
    hf/{owner}/{name}/{weights-digest}/gmi/...   of a Hugging Face model with those weights
    verified.json                                the specifications that maintainers checked
    index/...                                    aggregated from the rest

A reference to an entry is pinned: on Civitai by the version, on Hugging Face by the digest of the
weights, 64 hex digits in the place of a revision. No commit looks like that, which has 40.

A listing is of one commit, so as long as the registry stands at that commit it need not be asked
for again. Of an entry that stays the same from commit to commit the oldest one is kept: there its
files, once downloaded, are found without a request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gmi_registry.errors import (
    HubError,
    InputError,
    SpecError,
    SpecFormatError,
    UnsupportedOperationError,
    upgrade_hint,
)
from gmi_registry.hubs.huggingface.download import COMMIT, git_name
from gmi_registry.hubs.huggingface.publishing import StoredFile
from gmi_registry.hubs.requests import ListingCache, read_note, write_note
from gmi_registry.hubs.selection import RepoFile, select_pipeline
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    DescribedModel,
    Manifest,
    ModelRef,
)
from gmi_registry.spec.canonical import MANIFEST_LIMIT, TENSORS_LIMIT, canonical_digest
from gmi_registry.spec.files import PREVIEW_LIMIT, SIGNATURE_LIMIT
from gmi_registry.spec.reference import HubName

ENTRY_FILES = {
    MANIFEST_NAME: MANIFEST_LIMIT,
    TENSORS_NAME: TENSORS_LIMIT,
    PREVIEW_NAME: PREVIEW_LIMIT,
    SIGNATURE_NAME: SIGNATURE_LIMIT,
}
"""The files of an entry, below its ``gmi``, and the most bytes that each may have."""

VERIFIED_NAME = "verified.json"
"""At the root, and the maintainers' alone."""

_HUBS: tuple[HubName, ...] = ("civitai", "hf")

_VERSION = 1
_INDEX = "index.json"
# In the order of ENTRY_FILES.
_NAMES = ("manifest", "tensors", "preview", "signature")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_log = logging.getLogger(__name__)


def entry_of(model: DescribedModel) -> ModelRef:
    """The entry of a model, by what a manifest says of it.

    On Hugging Face it is pinned to :attr:`~gmi_registry.spec.DescribedModel.weights_digest`, the
    SHA-256 of the canonical JSON list of [path, sha256] of the weight files, sorted by path. Raises
    InputError for a Civitai model without a version, and as :func:`entry_path`.
    """
    if model.hub == "civitai" and model.revision is None:
        raise InputError(
            f"{model.ref} names no version, and each has a specification of its own",
            hint=f"name one: {model.ref}@VERSION",
        )
    revision = model.weights_digest if model.hub == "hf" else model.revision
    ref = ModelRef(model.hub, model.id, revision)
    entry_path(ref)
    return ref


def weights_ids(own: Mapping[str, str | None]) -> set[str]:
    """The ids that a specification of a model may give its weights (SPEC.md section 2).

    ``own`` is path to SHA-256 (hex) of all weight files in its repository. A specification is of
    one file, of the shards in one folder, or of one set of the files in folders; other choices are
    not looked for.
    """
    files = [RepoFile(path, sha256=digest) for path, digest in own.items() if digest is not None]
    chosen: list[tuple[RepoFile, ...]] = [(file,) for file in files]
    by_folder: dict[str, list[RepoFile]] = {}
    for file in files:
        by_folder.setdefault(file.path.rpartition("/")[0], []).append(file)
    chosen += [tuple(sorted(each, key=lambda file: file.path)) for each in by_folder.values()]
    folders = {file.path.partition("/")[0] for file in files if file.path.count("/") == 1}
    if folders:
        index = {folder: ["", ""] for folder in folders}
        with contextlib.suppress(HubError):
            chosen.append(select_pipeline("", files, index).weights)
    return {canonical_digest([[file.path, file.sha256] for file in each]) for each in chosen}


def require_place(manifest: bytes, ref: ModelRef) -> None:
    """Raise SpecFormatError where the content of a ``spec.json`` belongs to another entry.

    What is wrong with it otherwise is for whoever reads it.
    """
    try:
        right = entry_of(Manifest.from_bytes(manifest).model)
    except SpecError:
        return
    except (InputError, UnsupportedOperationError) as error:
        raise SpecFormatError(f"{ref}: {error.message}", hint=error.hint) from error
    if right != ref:
        raise SpecFormatError(
            f"the specification describes {right}, but was found at {ref}",
            hint="a maintainer of the registry must remove it",
        )


def entry_path(ref: ModelRef) -> str:
    """The folder of an entry, which holds ``gmi``: the inverse of :func:`parse_entry`.

    Raises UnsupportedOperationError for a model of another hub, or without an owner, InputError for
    a reference that is not pinned.
    """
    folder = model_folder(ref)
    if not ref.is_entry:
        pin = "the version" if ref.hub == "civitai" else "the 64 digits of its weights' digest"
        raise InputError(
            f"{ref} does not say which of the model's specifications is meant",
            hint=f"name {pin} after an @",
        )
    return f"{folder}/{ref.revision}"


def model_folder(ref: ModelRef) -> str:
    """The folder of all entries of a model. Raises UnsupportedOperationError as entry_path does."""
    if ref.hub not in _HUBS:
        raise UnsupportedOperationError(
            f"{ref}: the registry holds models of Hugging Face and Civitai",
            hint=f"put the specification beside the model: gmi-publish {ref.without_revision}",
        )
    if ref.hub == "hf" and "/" not in ref.id:
        raise UnsupportedOperationError(
            f"{ref} has no owner in its name, and so no place in the registry",
            hint="write hf:owner/name",
        )
    return f"{ref.hub}/{ref.id}"


def hub_folder(hub: HubName) -> str | None:
    """The folder of all entries of a hub, or None where the registry has none for it."""
    return hub if hub in _HUBS else None


def parse_entry(path: str) -> ModelRef | None:
    """The entry whose folder ``path`` is; None for every other path, however odd."""
    hub, _, rest = path.partition("/")
    folder, slash, pin = rest.rpartition("/")
    if not slash or hub not in _HUBS:
        return None
    try:
        ref = ModelRef(hub, folder, pin)
        # Whatever was read too generously is not spelled the same again.
        return ref if entry_path(ref) == path else None
    except (InputError, UnsupportedOperationError):
        return None


def entry_file(ref: ModelRef, name: str) -> str:
    """The path of one of an entry's files. Raises as :func:`entry_path`."""
    return f"{entry_path(ref)}/{SPEC_DIR}/{name}"


def parse_file(path: str) -> tuple[ModelRef, str] | None:
    """The entry and the name of a file that an entry may hold; None for every other path."""
    folder, _, name = path.rpartition("/")
    parent, _, gmi = folder.rpartition("/")
    ref = parse_entry(parent) if gmi == SPEC_DIR and name in ENTRY_FILES else None
    return None if ref is None else (ref, name)


@dataclass(frozen=True)
class RegistryEntry:
    """One specification: ``ref`` is its entry, ``commit`` one at which it was as it is now.

    The rest are the hub's names of the files' contents, in hex: git's for a small file, the SHA-256
    for a large one; ``preview`` and ``signature`` are empty where there is none.
    """

    ref: ModelRef
    commit: str
    manifest: str
    tensors: str
    preview: str = ""
    signature: str = ""


@dataclass(frozen=True)
class RegistryListing:
    """All entries of a hub at ``commit``, in the order of their references.

    ``verified`` maps git's name of each manifest that is verified to its SHA-256, in hex.
    """

    commit: str
    entries: tuple[RegistryEntry, ...]
    verified: Mapping[str, str]

    @cached_property
    def by_ref(self) -> Mapping[ModelRef, RegistryEntry]:
        """The entries by their references."""
        return {entry.ref: entry for entry in self.entries}

    def digest(self, entry: RegistryEntry) -> str | None:
        """SHA-256 (hex) of the entry's manifest, where it is known without a download."""
        return entry.manifest if len(entry.manifest) == 64 else self.verified.get(entry.manifest)

    def is_verified(self, entry: RegistryEntry) -> bool:
        """Whether maintainers drew it again."""
        return self.digest(entry) in self._digests

    @cached_property
    def _digests(self) -> frozenset[str]:
        return frozenset(self.verified.values())


def entries_of(files: Mapping[str, StoredFile], commit: str) -> list[RegistryEntry]:
    """Those that have both files, in order; whatever else lies there is passed over."""
    found: dict[ModelRef, dict[str, StoredFile]] = {}
    for path, stored in files.items():
        known = parse_file(path)
        if known is None:
            _log.debug("%.200r is not a file of an entry, and is skipped", path)
            continue
        found.setdefault(known[0], {})[known[1]] = stored
    entries = (
        RegistryEntry(ref, commit, *(_name(names.get(name)) for name in ENTRY_FILES))
        for ref, names in sorted(found.items(), key=lambda item: _order(item[0]))
    )
    return [entry for entry in entries if entry.manifest and entry.tensors]


def _order(ref: ModelRef) -> tuple[str, int, str, int, str]:
    """By id and revision; Civitai's are numbers, which count as such."""
    number, version = (int(ref.id), int(ref.revision or 0)) if ref.hub == "civitai" else (0, 0)
    return ref.hub, number, ref.id, version, ref.revision or ""


class RegistryCache:
    """Listings of the dataset called ``repo_id``, one file a hub in ``directory``.

    Files are replaced whole. What is damaged counts as empty, and where nothing can be written
    nothing is remembered.
    """

    def __init__(self, directory: Path, repo_id: str) -> None:
        self._directory = directory / repo_id.replace("/", "--")

    def remember(self) -> None:
        """Let :meth:`others` know of the dataset, where nothing is kept about it otherwise."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            os.utime(self._directory)

    def others(self) -> list[str]:
        """The other datasets of which something was kept beside this one's, the latest first."""

        def when(folder: Path) -> float:
            try:
                return folder.stat().st_mtime
            except OSError:
                return 0.0

        try:
            folders = [item for item in self._directory.parent.iterdir() if item.is_dir()]
        except OSError:
            return []
        names = [
            folder.name.replace("--", "/") for folder in sorted(folders, key=when, reverse=True)
        ]
        own = self._directory.name.replace("--", "/")
        return [name for name in names if name != own and name.count("/") == 1]

    def listed(self, hub: HubName) -> RegistryListing | None:
        """The last listing of a hub, None where there was none."""
        document = self._cache(hub).read()
        try:
            if not COMMIT.fullmatch(document["commit"]):
                return None
            entries = tuple(_entry(row) for row in document["entries"])
            verified = {str(git): str(digest) for git, digest in document["verified"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return RegistryListing(document["commit"], entries, verified)

    def keep(self, hub: HubName, fresh: RegistryListing) -> RegistryListing:
        """Remember a listing; returned with the older commits of what has stayed the same."""
        before = self.listed(hub)
        known = {} if before is None else {entry.ref: entry for entry in before.entries}
        kept = replace(fresh, entries=tuple(_aged(fresh.entries, known)))
        self._cache(hub).keep(
            commit=kept.commit,
            entries=[
                [entry_path(entry.ref), entry.commit, *(getattr(entry, name) for name in _NAMES)]
                for entry in kept.entries
            ],
            verified=dict(kept.verified),
        )
        return kept

    def index_commits(self) -> tuple[str | None, dict[str, str]]:
        """The commit at which the index was last opened, and for each of its files one that has it.

        Files of an index carry their digests in their names: what was fetched at an older commit
        is the same at a newer one.
        """
        document = read_note(self._directory / _INDEX)
        try:
            last, files = document["commit"], dict(document["files"])
            commits = [last, *files.values()]
            if all(COMMIT.fullmatch(commit) for commit in commits) and all(map(str, files)):
                return str(last), files
        except (KeyError, TypeError, ValueError):
            pass
        return None, {}

    def keep_index_commits(self, commit: str, files: Mapping[str, str]) -> None:
        """Remember what :meth:`index_commits` gives."""
        write_note(self._directory / _INDEX, {"commit": commit, "files": dict(files)})

    def _cache(self, hub: HubName) -> ListingCache:
        return ListingCache(self._directory / f"{hub}.json", _VERSION)


def _aged(
    fresh: Iterable[RegistryEntry], known: Mapping[ModelRef, RegistryEntry]
) -> Iterable[RegistryEntry]:
    for entry in fresh:
        old = known.get(entry.ref)
        same = old is not None and replace(old, commit=entry.commit) == entry
        yield old if same and old is not None else entry


def _name(stored: StoredFile | None) -> str:
    name = "" if stored is None else stored.sha256 or stored.blob_id or ""
    return name if _DIGEST.fullmatch(name) else ""


def _entry(row: Any) -> RegistryEntry:
    path, commit, manifest, tensors, *others = row
    ref = parse_entry(path)
    if ref is None or not COMMIT.fullmatch(commit):
        raise ValueError("no entry")
    if not all(map(_DIGEST.fullmatch, (manifest, tensors, *filter(None, others)))):
        raise ValueError("no digest")
    return RegistryEntry(ref, commit, manifest, tensors, *others)


VERIFIED_LIMIT = 16 * 1024 * 1024
"""Bytes of ``verified.json``: room for 100,000 specifications."""


_VERIFIED_FORMAT, _VERIFIED_VERSION = "gmi-verified", 1


_SHA256, _SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


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
        if name != _VERIFIED_FORMAT or type(version) is not int or version < 1:
            raise _broken("is of another format")
        if version > _VERIFIED_VERSION:
            raise HubError(
                f"{VERIFIED_NAME} has version {version}; this program knows version "
                f"{_VERIFIED_VERSION}",
                hint=upgrade_hint(),
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
        head = json.dumps({"name": _VERIFIED_FORMAT, "version": _VERIFIED_VERSION})
        return f'{{"format": {head},\n"specs": [\n{lines}\n]}}\n'.encode()


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
