"""What the API says of a repository, of its files and of its tags."""

from __future__ import annotations

import json
from typing import Any

from .blob import Blob
from .reply import Refusal
from .repo import Commit, Repo, timestamp

__all__ = ["describe", "file_info", "tags_of"]

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
