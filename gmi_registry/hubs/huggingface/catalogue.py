"""What earlier listings said, kept on this disk: searches without a network start from it."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gmi_registry.filters import plain_tags
from gmi_registry.hubs.huggingface.download import COMMIT
from gmi_registry.sanitize import holds_secret
from gmi_registry.sealed import read_sealed, write_sealed

__all__ = ["Catalogue", "Entry", "read_note", "write_note"]

_VERSION = 1
# Commits of one model that are remembered: offline, the newest whose files are here is used.
_COMMITS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One model of a listing.

    ``commits`` are full shas, the newest first; ``seen`` is when it was listed last, in seconds
    since 1970; ``has_spec`` is as in :class:`~gmi_registry.hubs.protocol.Listing`.
    """

    id: str
    commits: tuple[str, ...]
    tags: tuple[str, ...]
    gated: bool
    downloads: int | None
    modified: str | None
    seen: float
    has_spec: bool = True

    @property
    def sha(self) -> str:
        """The commit of the last listing."""
        return self.commits[0]


_FIELDS = tuple(field.name for field in fields(Entry))


class Catalogue:
    """The last listing of one hub, in ``directory``; nothing there is needed for long.

    Files are replaced whole, so that a reader, or a crash, finds the old one or the new one. What
    is damaged counts as empty, and where nothing can be written nothing is remembered.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()

    @property
    def listed(self) -> float | None:
        """When the last complete listing was, in seconds since 1970; None where there was none."""
        listed = self._document().get("listed")
        return float(listed) if isinstance(listed, int | float) else None

    def entries(self) -> list[Entry]:
        """All models known, sorted by id."""
        models = self._document().get("models")
        found = (_entry(value) for value in models) if isinstance(models, list) else ()
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.id)

    def keep(self, listed: Iterable[Entry]) -> list[Entry]:
        """Keep a complete listing, and return it with the older commits that were known before.

        A model that it does not hold is gone from the hub, or has lost the tag, and is dropped.
        """
        with self._lock:
            known = {entry.id: entry for entry in self.entries()}
            fresh = []
            for entry in listed:
                before = known.get(entry.id)
                older = () if before is None else before.commits
                commits = tuple(dict.fromkeys((*entry.commits, *older)))[:_COMMITS]
                fresh.append(replace(entry, commits=commits))
            document = {
                "format": {"name": "gmi-catalogue", "version": _VERSION},
                "listed": time.time(),
                "models": [asdict(entry) for entry in sorted(fresh, key=lambda entry: entry.id)],
            }
            write_note(self.directory / "catalogue.json", document)
        return fresh

    def weights(self, model_id: str, sha: str) -> dict[str, str | None] | None:
        """Path to SHA-256 of the weight files at that commit, as :meth:`keep_weights` was told."""
        note = read_note(self._note(model_id))
        files = note.get("files")
        if note.get("commit") != sha or not isinstance(files, dict):
            return None
        usable = all(
            value is None or (isinstance(value, str) and _SHA256.fullmatch(value))
            for value in files.values()
        )
        return files if usable else None

    def keep_weights(self, model_id: str, sha: str, files: Mapping[str, str | None]) -> None:
        """Remember the weight files of a commit; those of the commit before are forgotten."""
        write_note(self._note(model_id), {"commit": sha, "files": dict(files)})

    def _note(self, model_id: str) -> Path:
        return self.directory / "weights" / f"{model_id.replace('/', '--')}.json"

    def _document(self) -> dict[str, Any]:
        document = read_note(self.directory / "catalogue.json")
        declared = document.get("format")
        known = isinstance(declared, dict) and declared.get("version") == _VERSION
        return document if known else {}


def _entry(value: Any) -> Entry | None:
    try:
        # Files of another version of this program may say more, or less.
        told = {name: value[name] for name in _FIELDS if name in value}
        lists = {"commits": tuple(value["commits"]), "tags": plain_tags(value["tags"])}
        entry = Entry(**told | lists)
        usable = all(COMMIT.fullmatch(commit) for commit in entry.commits) and entry.commits
    except (TypeError, KeyError):
        return None
    return entry if usable and isinstance(entry.id, str) else None


def read_note(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is none that can be read."""
    content = read_sealed(path)
    try:
        found = {} if content is None else json.loads(content)
    except (ValueError, RecursionError) as error:
        _log.debug("%s cannot be read, and counts as empty: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def write_note(path: Path, document: object) -> None:
    """Put a document into a file, whole or not at all; where that fails nothing is remembered."""
    text = json.dumps(document)
    if holds_secret(text):
        return  # which the hub has echoed
    try:
        write_sealed(path, text.encode())
    except OSError as error:
        _log.debug("%s cannot be written: %s", path, error)
