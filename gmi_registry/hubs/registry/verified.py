"""``verified.json``: which specifications the registry's maintainers drew again, and found true.

::

    {"format": {"name": "gmi-verified", "version": 1},
     "specs": [{"digest": SHA-256 of spec.json, "git": git's name of the same bytes}, ...]}

The digest is what is verified. The other name follows from the same bytes, and is what a listing of
a repository knows of them without a download.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from gmi_registry.errors import HubError, SpecNotFoundError
from gmi_registry.hubs.huggingface.delivery import git_digest
from gmi_registry.hubs.registry.dataset import Dataset
from gmi_registry.hubs.registry.layout import VERIFIED_NAME

__all__ = ["VERIFIED_LIMIT", "Verified", "git_name", "read_verified"]

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
            raise _broken("has specs that are no list")
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
        raise ValueError("a key stands twice in one object")
    return found


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _broken(reason: str) -> HubError:
    return HubError(
        f"{VERIFIED_NAME} {reason}", hint="a maintainer of the registry must put it right"
    )
