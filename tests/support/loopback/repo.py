"""A repository: commits, references, discussions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

import yaml

from .blob import Blob, goes_to_lfs
from .reply import Refusal

__all__ = ["Commit", "Discussion", "Repo", "timestamp"]

Gated = Literal["auto", "manual", False]
# In C it is ten times as fast, where it was built.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHA = re.compile(r"[0-9a-f]{7,40}")
_FRONT = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)


def timestamp(moment: datetime) -> str:
    """As the Hub writes moments: UTC, milliseconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True)
class Commit:
    """``files`` is the whole tree at this commit; ``parents`` is empty for the first."""

    parents: tuple[str, ...]
    title: str
    message: str
    author: str
    date: datetime
    files: Mapping[str, Blob]

    @cached_property
    def oid(self) -> str:
        content = [self.parents, self.title, self.message, self.author, timestamp(self.date)]
        tree = sorted((path, blob.oid) for path, blob in self.files.items())
        return hashlib.sha1(json.dumps([content, tree]).encode()).hexdigest()

    @cached_property
    def card(self) -> dict[str, Any]:
        """The card's front matter; empty where it has none or cannot be read."""
        readme = self.files.get("README.md")
        found = _FRONT.search(readme.content) if readme else None
        try:
            fields = yaml.load(found[1], _LOADER) if found else None
        except (yaml.YAMLError, ValueError, UnicodeDecodeError):
            fields = None
        return json.loads(json.dumps(fields, default=str)) if isinstance(fields, dict) else {}

    @cached_property
    def folders(self) -> dict[str, str]:
        """For each folder an id that follows, as git's does, from what is in it alone."""
        found: dict[str, Any] = {}
        for path, blob in sorted(self.files.items()):
            parts = path.split("/")
            for depth in range(1, len(parts)):
                digest = found.setdefault("/".join(parts[:depth]), hashlib.sha1())
                digest.update(f"{'/'.join(parts[depth:])}\0{blob.oid}\n".encode())
        return {path: digest.hexdigest() for path, digest in found.items()}

    @property
    def attributes(self) -> bytes | None:
        blob = self.files.get(".gitattributes")
        return blob.content if blob else None


@dataclass
class Discussion:
    """A discussion, or a pull request where ``base`` (the commit it starts from) is not None."""

    num: int
    title: str
    author: str
    created: datetime
    status: Literal["draft", "open", "closed", "merged"]
    base: str | None = None
    merge_commit: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ref(self) -> str:
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    """``objects`` are large files that were uploaded, by SHA-256; ``granted`` may read if gated.

    ``discussions_disabled`` is the owner's setting, which switches pull requests off as well.
    """

    id: str
    type: str
    created: datetime
    private: bool = False
    gated: Gated = False
    downloads: int = 0
    likes: int = 0
    granted: set[str] = field(default_factory=set)
    discussions_disabled: bool = False
    disabled: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Blob] = field(default_factory=dict)
    discussions: dict[int, Discussion] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    def ref_of(self, revision: str) -> str | None:
        """The full name of a branch, tag or pull request; None for a commit or an unknown name."""
        names = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((name for name in names if name in self.refs), None)

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a pull request, or a SHA. Raises Refusal (404)."""
        ref = self.ref_of(revision)
        if ref:
            return self.commits[self.refs[ref]]
        if _SHA.fullmatch(revision):
            for oid, commit in self.commits.items():
                if oid.startswith(revision):
                    return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, commit: Commit) -> list[Commit]:
        """Newest first, along first parents."""
        found = [commit]
        while found[-1].parents:
            found.append(self.commits[found[-1].parents[0]])
        return found

    def blob(self, path: str, content: bytes, attributes: bytes | None) -> Blob:
        """``content`` as it would be stored under ``path``."""
        blob = Blob(content, lfs=goes_to_lfs(path, len(content), content[:512], attributes))
        if blob.lfs:
            return self.objects.setdefault(blob.sha256, blob)
        return blob

    def add(self, ref: str, commit: Commit) -> Commit:
        self.commits[commit.oid] = commit
        self.refs[ref] = commit.oid
        return commit
