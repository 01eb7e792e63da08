"""A repository with its commits and discussions, and how the API describes it."""

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

from .records import Blob, Refusal, goes_to_lfs

Gated = Literal["auto", "manual", False]
# In C it is ten times as fast, where it was built.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHA = re.compile(r"[0-9a-f]{7,40}")
_FRONT = re.compile(rb"\A(?:\xef\xbb\xbf)?\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)

_LISTED = [
    "likes",
    "private",
    "downloads",
    "tags",
    "pipeline_tag",
    "library_name",
    "createdAt",
    "modelId",
    "trendingScore",
]
_FULL = [*_LISTED, "author", "gated", "disabled", "lastModified", "sha", "siblings"]
_WHOLE = [*_FULL, "cardData", "config", "spaces", "usedStorage", "visibility"]
# What the client's ExpandModelProperty_T lists, and this server has nothing for.
_EMPTY = {
    "baseModels", "childrenModelCount", "downloadsAllTime", "evalResults", "gguf", "inference",
    "inferenceProviderMapping", "mask_token", "model-index", "resourceGroup", "safetensors",
    "securityRepoStatus", "transformersInfo", "trendingScore", "widgetData", "xetEnabled",
    "description", "citation", "paperswithcode_id", "mainSize",
}  # fmt: skip


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


def tags_of(commit: Commit) -> list[str]:
    """The card's tags, and those that the Hub derives from its other fields and from the files."""
    card = commit.card
    tags = [] if card.get("library_name") is None else [str(card["library_name"])]
    tags += ["safetensors"] if any(path.endswith(".safetensors") for path in commit.files) else []
    tags += _texts(card.get("tags"))
    if card.get("pipeline_tag"):
        tags.append(str(card["pipeline_tag"]))
    tags += _texts(card.get("language"))
    bases = _texts(card.get("base_model"))
    tags += [f"base_model:{base}" for base in bases]
    tags += [f"base_model:{_relation(commit)}:{base}" for base in bases]
    tags += [f"dataset:{name}" for name in _texts(card.get("datasets"))]
    pipeline = _index(commit).get("_class_name")
    tags += [f"diffusers:{pipeline}"] if pipeline else []
    tags += [f"license:{name}" for name in _texts(card.get("license"))]
    return list(dict.fromkeys([*tags, "region:us"]))


def describe(
    repo: Repo, commit: Commit, *, expand: list[str], blobs: bool = False, detail: str = "whole"
) -> dict[str, Any]:
    """The JSON of a repository at a commit. ``detail`` is ``listed``, ``full`` or ``whole``.

    With ``expand`` only those fields, and the id. Raises Refusal (400) for an unknown one.
    """
    names = expand or {"listed": _LISTED, "full": _FULL, "whole": _WHOLE}[detail]
    found: dict[str, Any] = {"_id": commit.oid[:24], "id": repo.id}
    for name in names:
        if name in _FIELDS:
            found[name] = _FIELDS[name](repo, commit)
        elif name in _EMPTY:
            pass
        else:
            raise Refusal(400, f'"expand" must be one of the known fields, not "{name}"')
    if blobs and "siblings" in found:
        found["siblings"] = [_sibling(path, blob) for path, blob in sorted(commit.files.items())]
    return found


def file_info(path: str, blob: Blob) -> dict[str, Any]:
    """A file in a tree or in a list of paths."""
    found = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
    if blob.lfs:
        found["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if blob.xet_hash:
        found["xetHash"] = blob.xet_hash
    return found


def _sibling(path: str, blob: Blob) -> dict[str, Any]:
    found = {"rfilename": path, "size": blob.size, "blobId": blob.oid}
    if blob.lfs:
        found["lfs"] = {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    return found


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [] if value is None else [value]
    return [str(item) for item in values if item is not None]


def _relation(commit: Commit) -> str:
    """How a model came from its base; the Hub guesses it from the files where no card says."""
    named = commit.card.get("base_model_relation")
    if named:
        return str(named)
    adapters = ("adapter_config.json", "pytorch_lora_weights.safetensors")
    adapter = any(path.rpartition("/")[2] in adapters for path in commit.files)
    return "adapter" if adapter or "lora" in _texts(commit.card.get("tags")) else "finetune"


def _index(commit: Commit) -> dict[str, Any]:
    blob = commit.files.get("model_index.json")
    try:
        found = json.loads(blob.content) if blob else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _config(repo: Repo, commit: Commit) -> dict[str, Any]:
    pipeline = _index(commit).get("_class_name")
    return {"diffusers": {"_class_name": pipeline}} if pipeline else {}


_FIELDS = {
    "author": lambda repo, commit: repo.namespace,
    "cardData": lambda repo, commit: commit.card,
    "config": _config,
    "createdAt": lambda repo, commit: timestamp(repo.created),
    "disabled": lambda repo, commit: repo.disabled,
    "downloads": lambda repo, commit: repo.downloads,
    "gated": lambda repo, commit: repo.gated,
    "lastModified": lambda repo, commit: timestamp(commit.date),
    "library_name": lambda repo, commit: commit.card.get("library_name"),
    "likes": lambda repo, commit: repo.likes,
    "modelId": lambda repo, commit: repo.id,
    "pipeline_tag": lambda repo, commit: commit.card.get("pipeline_tag"),
    "private": lambda repo, commit: repo.private,
    "sha": lambda repo, commit: commit.oid,
    "siblings": lambda repo, commit: [{"rfilename": path} for path in sorted(commit.files)],
    "spaces": lambda repo, commit: [],
    "tags": lambda repo, commit: tags_of(commit),
    "trendingScore": lambda repo, commit: repo.likes,
    "usedStorage": lambda repo, commit: sum(blob.size for blob in repo.objects.values()),
    "visibility": lambda repo, commit: "private" if repo.private else "public",
}
