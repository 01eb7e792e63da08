"""Models, versions and files, and how Civitai describes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

__all__ = ["File", "Model", "Version"]

_AIR_TYPES = {"Checkpoint": "checkpoint", "LORA": "lora", "LoCon": "lycoris", "DoRA": "dora"}


@dataclass
class File:
    """One file of a version. ``sha256`` stands in for the digest of ``content`` where it is set."""

    id: int
    content: bytes
    name: str = "model.safetensors"
    type: str = "Model"
    format: str | None = "SafeTensor"
    primary: bool = True
    pickle_scan: str = "Success"
    virus_scan: str = "Success"
    sha256: str | None = None
    size_kb: float | None = None
    hashed: bool = True
    fp: str | None = None

    @property
    def digest(self) -> str:
        return (self.sha256 or hashlib.sha256(self.content).hexdigest()).upper()

    def shown(self, endpoint: str, version: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "type": self.type,
            "sizeKB": len(self.content) / 1024 if self.size_kb is None else self.size_kb,
            "pickleScanResult": self.pickle_scan,
            "pickleScanMessage": "No Pickle imports",
            "virusScanResult": self.virus_scan,
            "virusScanMessage": None,
            "scannedAt": "2025-01-02T00:00:00.000Z",
            "metadata": {"format": self.format, "size": None, "fp": self.fp},
            "hashes": {"AutoV2": self.digest[:10], "SHA256": self.digest} if self.hashed else {},
            "downloadUrl": f"{endpoint}/api/download/models/{version}",
        }
        return found | ({"primary": True} if self.primary else {})


@dataclass
class Version:
    """One version. ``login``, ``early`` (the day until which it is) and ``usage`` bar downloads."""

    id: int
    name: str = "v1.0"
    base_model: str = "SD 1.5"
    files: list[File] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    level: int = 1
    published: str = "2025-01-02T00:00:00.000Z"
    status: str = "Published"
    downloads: int = 7
    login: bool = False
    early: str | None = None
    usage: str = "Download"

    def shown(self, endpoint: str, model: Model) -> dict[str, Any]:
        """As inside a model."""
        files = [] if model.archived else self.files
        return {
            "id": self.id,
            "index": 0,
            "name": self.name,
            "baseModel": self.base_model,
            "baseModelType": "Standard",
            "createdAt": self.published,
            "publishedAt": self.published,
            "status": self.status,
            "availability": "EarlyAccess" if self.early else "Public",
            "nsfwLevel": self.level,
            "description": "<p>A version</p>",
            "trainedWords": self.words,
            "covered": True,
            "stats": {"downloadCount": self.downloads, "thumbsUpCount": 1, "thumbsDownCount": 0},
            "files": [file.shown(endpoint, self.id) for file in files],
            "images": [],
            "downloadUrl": f"{endpoint}/api/download/models/{self.id}",
        }

    def alone(self, endpoint: str, model: Model) -> dict[str, Any]:
        """As it is when it is asked for by itself."""
        word = _AIR_TYPES.get(model.type, "other")
        return self.shown(endpoint, model) | {
            "modelId": model.id,
            "air": f"urn:air:{model.ecosystem}:{word}:civitai:{model.id}@{self.id}",
            "earlyAccessEndsAt": self.early,
            "usageControl": self.usage,
            "model": {"name": model.name, "type": model.type, "nsfw": model.nsfw, "poi": False},
        }


@dataclass
class Model:
    """One model. ``level`` has a bit for each rating that a picture of it has, 1 being PG."""

    id: int
    name: str = "A model"
    type: str = "LORA"
    tags: list[str] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    nsfw: bool = False
    level: int = 1
    archived: bool = False
    ecosystem: str = "sd1"
    uses: Any = "{Image,RentCivit}"

    def shown(self, endpoint: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "description": "<p>What its author says</p>",
            "type": self.type,
            "nsfw": self.nsfw,
            "nsfwLevel": self.level,
            "availability": "Public",
            "mode": "Archived" if self.archived else None,
            "allowNoCredit": True,
            "allowCommercialUse": self.uses,
            "allowDerivatives": True,
            "allowDifferentLicense": False,
            "minor": False,
            "poi": False,
            "stats": {"downloadCount": sum(version.downloads for version in self.versions)},
            "creator": {"username": "somebody", "image": None},
            "tags": self.tags,
            "modelVersions": [
                version.shown(endpoint, self)
                for version in self.versions
                if version.status == "Published"
            ],
        }
