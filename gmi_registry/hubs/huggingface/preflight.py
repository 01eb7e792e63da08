"""Whether publishing would work, asked before anything is generated."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_token

from gmi_registry.errors import AuthError, HubError, UnsupportedOperationError
from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME, parse_card
from gmi_registry.hubs.digest import FileDigests
from gmi_registry.hubs.huggingface.card_edit import check_card
from gmi_registry.hubs.huggingface.download import Downloads
from gmi_registry.hubs.huggingface.errors import Asked, explained
from gmi_registry.hubs.huggingface.models import Models
from gmi_registry.hubs.huggingface.patience import patiently
from gmi_registry.sanitize import add_secret
from gmi_registry.spec import ModelRef

__all__ = ["Preflight", "StoredFile", "asked_of", "check_writable", "read_file", "stored_files"]

_COMMIT_LIKE = re.compile(r"[0-9a-f]{7,40}")
_WRITERS = frozenset({"admin", "write"})
_PUSH, _PROPOSE = "repo.write", "discussion.write"


@dataclass(frozen=True)
class StoredFile:
    """A file as the hub describes it: git's object id, SHA-256 where stored apart, bytes."""

    blob_id: str | None
    sha256: str | None
    size: int

    def holds(self, content: bytes | Path) -> bool:
        """Whether the file has this content, or that of a file here, told without a download."""
        if isinstance(content, Path):
            if content.stat().st_size != self.size:
                return False
            if self.sha256 is not None:
                with content.open("rb") as stream:
                    return self.sha256 == hashlib.file_digest(stream, "sha256").hexdigest()
            content = content.read_bytes()
        if self.sha256 is not None:
            return self.sha256 == hashlib.sha256(content).hexdigest()
        return self.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class Preflight:
    """What a push to a model starts from.

    ``can_write`` is whether ``user`` may commit to ``branch``; else a change can be proposed.
    ``parent_commit`` is its head (40 hex digits), at which ``files`` (by path) and ``card`` (the
    README.md, or None where there is none) were read.
    """

    user: str
    can_write: bool
    parent_commit: str
    branch: str
    gated: bool
    private: bool
    licence: str | None
    card: bytes | None
    files: Mapping[str, StoredFile]

    def holds(self, path: str, content: bytes | None) -> bool:
        """Whether ``path`` has this content; None asks whether it is missing."""
        stored = self.files.get(path)
        return stored is None if content is None else stored is not None and stored.holds(content)


def check_writable(api: HfApi, ref: ModelRef) -> Preflight:
    """Look at the account, its token, the model and its card; nothing is changed.

    A push goes to ``main``, or to the branch that ``ref`` names; a commit in its place says only
    which weights are meant. A model of another owner is no error: a change can be proposed there.

    Costs whoami (asked once a process), one request for the model and two for its card. Raises
    AuthError without a token, with one that is wrong, only reads or is made for other
    repositories, and for a model that it may not read; SpecNotFoundError where there is no such
    model; HubError for a card that cannot be edited, or a hub that does not answer.
    """
    if ref.hub != "hf":
        raise UnsupportedOperationError(f"{ref} is not on this hub", hint="write hf:owner/name")
    asked = asked_of(api, ref)
    if not asked.has_token:
        raise AuthError(
            f"{asked.name}: publishing needs a token, and there is none",
            hint=f"hf auth login, with one that may write: {_tokens(asked)}",
        )
    with explained(asked):
        account = _mapping(patiently(lambda: api.whoami(cache=True)))
    user = account.get("name")
    if not isinstance(user, str):
        raise HubError(
            f"{asked.endpoint} does not say whose token this is", hint="check HF_ENDPOINT"
        )
    can_write = _may_push(account, asked)
    branch = constants.DEFAULT_REVISION
    if ref.revision is not None and not _COMMIT_LIKE.fullmatch(ref.revision):
        branch = ref.revision
    info = _info(api, ref.id, branch)
    files = dict(_files(info))
    card = None
    if CARD_NAME in files:
        card = read_file(api, ref.id, CARD_NAME, info.sha, CARD_LIMIT)
        if not files[CARD_NAME].holds(card):
            raise HubError(
                f"{asked.name}: {CARD_NAME} arrived with other bytes than the hub lists",
                hint="run the same command again",
            )
    check_card(card)
    described = parse_card(card or b"", ref.id, Path(CARD_NAME))
    return Preflight(
        user=user,
        can_write=can_write,
        parent_commit=info.sha,
        branch=branch,
        gated=bool(info.gated),
        private=bool(info.private),
        licence=described.licence,
        card=card,
        files=files,
    )


def asked_of(api: HfApi, ref: ModelRef) -> Asked:
    """For messages about a push to ``ref``."""
    token = api.token
    known = get_token() if token is None else token
    add_secret(known if isinstance(known, str) else None)
    has_token = bool(known)
    return Asked(api.endpoint, has_token, ref.id, ref.revision, writing=True)


def stored_files(api: HfApi, model_id: str, revision: str) -> dict[str, StoredFile]:
    """Every file at a revision, by path: one request. Raises every error of the hub."""
    return dict(_files(_info(api, model_id, revision)))


def read_file(api: HfApi, model_id: str, path: str, sha: str, limit: int) -> bytes:
    """A file's content at a commit, compared with the digest that the hub gives it.

    It does not go through the user's cache, which publishing has no business to fill.
    """
    with tempfile.TemporaryDirectory(prefix="gmi-") as scratch:
        place = _downloads(api, scratch).fetch_checked(model_id, path, sha, limit=limit)
        return place.read_bytes()


def _info(api: HfApi, model_id: str, revision: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="gmi-") as scratch:
        digests = FileDigests(Path(scratch))
        return Models(api, _downloads(api, scratch), digests, workers=1).info(model_id, revision)


def _downloads(api: HfApi, scratch: str) -> Downloads:
    asked = asked_of(api, ModelRef("hf", "any"))
    return Downloads(api, asked, Path(scratch).resolve(), offline=False)


def _files(info: Any) -> Iterator[tuple[str, StoredFile]]:
    for sibling in info.siblings or ():
        sha256 = None if sibling.lfs is None else sibling.lfs.sha256
        yield sibling.rfilename, StoredFile(sibling.blob_id, sha256, sibling.size or 0)


def _may_push(account: Mapping[str, Any], asked: Asked) -> bool:
    """Whether account and token may commit there. Raises AuthError where not even propose."""
    model_id = asked.id or ""
    owner = model_id.partition("/")[0].casefold() if "/" in model_id else None
    token = _mapping(_mapping(account.get("auth")).get("accessToken"))
    role = token.get("role")
    if role == "read":
        raise AuthError(
            f"{asked.name}: this token may only read",
            hint=f"hf auth login, with a token with write access: {_tokens(asked)}",
        )
    if role == "fineGrained":
        granted = set(_granted(_mapping(token.get("fineGrained")), owner, model_id))
        if not granted & {_PUSH, _PROPOSE}:
            raise AuthError(
                f"{asked.name}: this token is made for other repositories",
                hint=f"give it write access to {model_id} at {_tokens(asked)}, or hf auth login",
            )
        if _PUSH not in granted:
            return False
    if owner == str(account.get("name")).casefold():
        return True
    for org in map(_mapping, account.get("orgs") or ()):
        if str(org.get("name")).casefold() == owner:
            # Contributors may write only to what they made themselves, which nothing here tells.
            return org.get("roleInOrg", "write") in _WRITERS
    return False


def _granted(rights: Mapping[str, Any], owner: str | None, model_id: str) -> Iterator[str]:
    yield from map(str, rights.get("global") or ())
    for scope in map(_mapping, rights.get("scoped") or ()):
        entity = _mapping(scope.get("entity"))
        name, kind = str(entity.get("name")).casefold(), entity.get("type")
        if name == (model_id.casefold() if kind == "model" else owner):
            yield from map(str, scope.get("permissions") or ())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _tokens(asked: Asked) -> str:
    return f"{asked.endpoint}/settings/tokens"
