"""What the last listing of the registry said, kept on this disk; nothing there is needed for long.

A listing is of one commit, so as long as the registry stands at that commit it need not be asked
for again. Of an entry that stays the same from commit to commit the oldest one is kept: there its
files, once downloaded, are found without a request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.hubs.huggingface.preflight import StoredFile
from gmi_registry.hubs.registry.layout import ENTRY_FILES, entry_path, parse_entry, parse_file
from gmi_registry.sanitize import holds_secret
from gmi_registry.sealed import read_sealed, write_sealed
from gmi_registry.spec import ModelRef
from gmi_registry.spec.reference import HubName

__all__ = ["Entry", "Listed", "Shelf", "entries_of"]

_VERSION = 1
_INDEX = "index.json"
# In the order of ENTRY_FILES.
_NAMES = ("manifest", "tensors", "preview", "signature")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
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
class Listed:
    """All entries of a hub at ``commit``, in the order of their references.

    ``verified`` maps git's name of each manifest that is verified to its SHA-256, in hex.
    """

    commit: str
    entries: tuple[Entry, ...]
    verified: Mapping[str, str]

    @cached_property
    def by_ref(self) -> Mapping[ModelRef, Entry]:
        """The entries by their references."""
        return {entry.ref: entry for entry in self.entries}

    def digest(self, entry: Entry) -> str | None:
        """SHA-256 (hex) of the entry's manifest, where it is known without a download."""
        return entry.manifest if len(entry.manifest) == 64 else self.verified.get(entry.manifest)

    def is_verified(self, entry: Entry) -> bool:
        """Whether maintainers drew it again."""
        return self.digest(entry) in self._digests

    @cached_property
    def _digests(self) -> frozenset[str]:
        return frozenset(self.verified.values())


def entries_of(files: Mapping[str, StoredFile], commit: str) -> list[Entry]:
    """Those that have both files, in order; whatever else lies there is passed over."""
    found: dict[ModelRef, dict[str, StoredFile]] = {}
    for path, stored in files.items():
        known = parse_file(path)
        if known is None:
            _log.debug("%.200r is no file of an entry, and is passed over", path)
            continue
        found.setdefault(known[0], {})[known[1]] = stored
    entries = (
        Entry(ref, commit, *(_name(names.get(name)) for name in ENTRY_FILES))
        for ref, names in sorted(found.items(), key=lambda item: _order(item[0]))
    )
    return [entry for entry in entries if entry.manifest and entry.tensors]


def _order(ref: ModelRef) -> tuple[str, int, str, int, str]:
    """By id and revision; Civitai's are numbers, which count as such."""
    number, version = (int(ref.id), int(ref.revision or 0)) if ref.hub == "civitai" else (0, 0)
    return ref.hub, number, ref.id, version, ref.revision or ""


class Shelf:
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

    def listed(self, hub: HubName) -> Listed | None:
        """The last listing of a hub, None where there was none."""
        document = _read(self._directory / f"{hub}.json")
        try:
            if document["format"]["version"] != _VERSION or not COMMIT.fullmatch(
                document["commit"]
            ):
                return None
            entries = tuple(_entry(row) for row in document["entries"])
            verified = {str(git): str(digest) for git, digest in document["verified"].items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return Listed(document["commit"], entries, verified)

    def keep(self, hub: HubName, fresh: Listed) -> Listed:
        """Remember a listing; returned with the older commits of what has stayed the same."""
        before = self.listed(hub)
        known = {} if before is None else {entry.ref: entry for entry in before.entries}
        kept = replace(fresh, entries=tuple(_aged(fresh.entries, known)))
        document = {
            "format": {"name": "gmi-registry-listing", "version": _VERSION},
            "listed": time.time(),
            "commit": kept.commit,
            "entries": [
                [entry_path(entry.ref), entry.commit, *(getattr(entry, name) for name in _NAMES)]
                for entry in kept.entries
            ],
            "verified": dict(kept.verified),
        }
        _write(self._directory / f"{hub}.json", document)
        return kept

    def index_commits(self) -> tuple[str | None, dict[str, str]]:
        """The commit at which the index was last opened, and for each of its files one that has it.

        Files of an index carry their digests in their names: what was fetched at an older commit
        is the same at a newer one.
        """
        document = _read(self._directory / _INDEX)
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
        _write(self._directory / _INDEX, {"commit": commit, "files": dict(files)})


def _aged(fresh: Iterable[Entry], known: Mapping[ModelRef, Entry]) -> Iterable[Entry]:
    for entry in fresh:
        old = known.get(entry.ref)
        same = old is not None and replace(old, commit=entry.commit) == entry
        yield old if same and old is not None else entry


def _name(stored: StoredFile | None) -> str:
    name = "" if stored is None else stored.sha256 or stored.blob_id or ""
    return name if _DIGEST.fullmatch(name) else ""


def _entry(row: Any) -> Entry:
    path, commit, manifest, tensors, *others = row
    ref = parse_entry(path)
    if ref is None or not COMMIT.fullmatch(commit):
        raise ValueError("no entry")
    if not all(map(_DIGEST.fullmatch, (manifest, tensors, *filter(None, others)))):
        raise ValueError("no digest")
    return Entry(ref, commit, manifest, tensors, *others)


def _read(path: Path) -> dict[str, Any]:
    content = read_sealed(path)
    try:
        found = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        _log.debug("%s cannot be read, and counts as empty: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def _write(path: Path, document: object) -> None:
    text = json.dumps(document)
    if holds_secret(text):
        return  # which the hub has echoed
    try:
        write_sealed(path, text.encode())
    except OSError as error:
        _log.debug("%s cannot be written: %s", path, error)
