"""A specification goes beside its model by a commit or a pull request, and is checked before."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, get_session
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status

from gmi_registry.errors import AuthError, HubError, SpecNotFoundError
from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME, parse_card
from gmi_registry.hubs.files import read_upload
from gmi_registry.hubs.huggingface.card_edit import check_card, edit_card
from gmi_registry.hubs.huggingface.changes import (
    Change,
    ChangeStart,
    commit_or_propose,
    own_proposals,
)
from gmi_registry.hubs.huggingface.client import HubRequest, has_token, retried, translated_errors
from gmi_registry.hubs.huggingface.download import COMMIT, Downloads, git_name
from gmi_registry.hubs.huggingface.models import model_info
from gmi_registry.hubs.protocol import Destination
from gmi_registry.hubs.selection import WEIGHT_SUFFIXES
from gmi_registry.sanitize import in_markdown
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    Manifest,
    ModelRef,
)

_COMMIT_LIKE = re.compile(r"[0-9a-f]{7,40}")
_WRITERS = frozenset({"admin", "write"})
_PUSH, _PROPOSE = "repo.write", "discussion.write"
_OPEN_DISCUSSIONS = "let it open discussions in"
_HEADS, _TAGS, _PULLS = "refs/heads/", "refs/tags/", "refs/pr/"
_AT_LINE = re.compile(r"\((\d+):\d+\)")
_ELSEWHERE = "do not write to this repository: --to registry, or --output DIR"

_MANIFEST = f"{SPEC_DIR}/{MANIFEST_NAME}"
_SIGNATURE = f"{SPEC_DIR}/{SIGNATURE_NAME}"
# git itself holds no larger file at the hub.
_REGULAR_LIMIT = 10 * 1024 * 1024


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
        return self.blob_id == git_name(content)


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
    card: bytes | None
    files: Mapping[str, StoredFile]

    def holds(self, path: str, content: bytes | None) -> bool:
        """Whether ``path`` has this content; None asks whether it is missing."""
        stored = self.files.get(path)
        return stored is None if content is None else stored is not None and stored.holds(content)


def check_push(api: HfApi, ref: ModelRef, *, create_pr: bool = False) -> Destination:
    """Everything that a push to ``ref`` can be refused for, and where it would go.

    Beside what :func:`check_writable` asks: whether the hub lets this account commit there, whether
    it takes the card with what would be added, and where a change would be proposed, whether pull
    requests are open. At most three requests more; nothing is changed. Raises as that does, and
    HubError for a card or a pull request that the hub would not take.
    """
    now = check_writable(api, ref, create_pr=create_pr)
    asked = asked_of(api, ref)
    propose = create_pr or not now.can_write or not may_commit(api, asked)
    validate_card(api, asked, now.card, check_card(now.card))
    if propose:
        list(own_proposals(api, asked, now.user))
    return Destination(
        where=f"{asked.url}/tree/{now.branch}/{SPEC_DIR}",
        way="pull request" if propose else "commit",
        branch=now.branch,
        weights={
            path: file.sha256 for path, file in now.files.items() if path.endswith(WEIGHT_SUFFIXES)
        },
    )


def check_writable(api: HfApi, ref: ModelRef, *, create_pr: bool = False) -> Preflight:
    """Look at the account, its token, the model and its card; nothing is changed.

    A push goes to ``main``, or to the branch that ``ref`` names; a commit in its place says only
    which weights are meant, and so does a tag where the change is proposed. A model of another
    owner is no error: a change can be proposed there.

    Costs whoami (asked once a process), one request for the model and two for its card, and where
    ``ref`` names a revision one for the repository's branches. Raises AuthError without a token,
    with one that is wrong, only reads or is made for other repositories, and for a model that it
    may not read; SpecNotFoundError where there is no such model or revision; HubError for a tag, a
    name that means two things, a card that cannot be edited, or a hub that does not answer.
    """
    asked = asked_of(api, ref)
    user, can_write = writer(api, asked)
    branch = _branch(api, ref, asked, propose=create_pr or not can_write)
    info = _model(api, asked, branch)
    if getattr(info, "disabled", False):
        raise HubError(f"{asked.name} was disabled by the hub", hint=f"see {asked.url}")
    files = dict(_files(info))
    card = None
    if CARD_NAME in files:
        card = read_file(api, ref.id, CARD_NAME, info.sha, CARD_LIMIT)
        if not files[CARD_NAME].holds(card):
            raise HubError(
                f"{asked.name}: {CARD_NAME} arrived with other bytes than those that the hub lists",
                hint="run the same command again",
            )
    check_card(card)
    parse_card(card or b"", ref.id, Path(CARD_NAME))
    return Preflight(
        user=user,
        can_write=can_write,
        parent_commit=info.sha,
        branch=branch,
        card=card,
        files=files,
    )


def may_commit(api: HfApi, asked: HubRequest) -> bool:
    """Whether the hub says that this account may commit there; True where it does not say."""
    with translated_errors(asked):
        try:
            retried(lambda: api.auth_check(str(asked.id), repo_type=asked.repo_type, write=True))
        except HfHubHTTPError as error:
            return error.response.status_code != 403
        except TypeError:  # an older client
            return True
    return True


def validate_card(api: HfApi, asked: HubRequest, before: bytes | None, after: bytes) -> None:
    """Raise HubError for a card that the hub's own check refuses, as it would in a commit.

    ``after`` is the card as it would be, ``before`` as it lies there now, whose lines its author
    knows. A hub without such a check refuses nothing.
    """
    said = _faults(api, asked, after)
    if said is None:
        return
    own = None if before is None else _faults(api, asked, before)
    told = own or said
    line = _AT_LINE.search(told)
    where = CARD_NAME if line is None else f"{CARD_NAME} line {line[1]}"
    raise HubError(
        f"{asked.name}: the hub would not accept its model card: {where}: {told[:200]}",
        hint=f"correct the model card: {asked.url}/blob/main/{CARD_NAME}; or {_ELSEWHERE}",
    )


def _faults(api: HfApi, asked: HubRequest, content: bytes) -> str | None:
    """What the hub finds wrong with a card, on one line, or None."""

    def ask() -> Any:
        response = get_session().post(
            f"{api.endpoint}/api/validate-yaml",
            json={"content": content.decode("utf-8-sig"), "repoType": "model"},
            headers=build_hf_headers(token=api.token, library_name=api.library_name),
        )
        if response.status_code not in (400, 404, 405):
            hf_raise_for_status(response)
        return response

    with translated_errors(asked):
        response = retried(ask)
    if response.status_code != 400:
        return None
    try:
        errors = _mapping(response.json()).get("errors")
    except ValueError:
        errors = None
    listed = errors if isinstance(errors, list) else []
    found = [str(_mapping(error).get("message")) for error in listed]
    return " ".join("; ".join(found).split()) or "it does not say why"


def _branch(api: HfApi, ref: ModelRef, asked: HubRequest, *, propose: bool) -> str:
    """The branch that a push goes to. Raises where ``ref`` names none, and no commit either."""
    revision = ref.revision
    if revision is None:
        return constants.DEFAULT_REVISION
    with translated_errors(asked):
        try:
            refs = retried(lambda: api.list_repo_refs(ref.id))
        except RepositoryNotFoundError as error:
            raise _not_a_model(api, asked) or error from error
        heads = {item.name for item in refs.branches} | {item.name for item in refs.converts}
        tags = {item.name for item in refs.tags}
    name = revision.removeprefix(_HEADS).removeprefix(_TAGS)
    is_branch = name in heads and not revision.startswith(_TAGS)
    is_tag = name in tags and not revision.startswith(_HEADS)
    if (is_branch or is_tag) and COMMIT.fullmatch(name):
        raise HubError(
            f"{asked.name}: {name} is the name of a {'branch' if is_branch else 'tag'}, and "
            f"looks like a commit, so it is unclear which weights are meant",
            hint="name its commit, or rename it",
        )
    if is_branch and is_tag:
        raise HubError(
            f"{asked.name}: {name} is a branch and a tag",
            hint=f"say which is meant: --revision {_HEADS}{name} or --revision {_TAGS}{name}",
        )
    if is_branch:
        return name
    if is_tag:
        if propose:
            return constants.DEFAULT_REVISION
        raise HubError(
            f"{asked.name}: {name} is a tag, and nothing can be committed to a tag",
            hint="name a branch: --revision BRANCH; or propose it to main: --create-pr; or "
            + _ELSEWHERE,
        )
    if revision.startswith(_PULLS):
        return revision
    if _COMMIT_LIKE.fullmatch(revision):
        return constants.DEFAULT_REVISION
    raise SpecNotFoundError(
        f"{asked.name} has no branch, tag or commit {revision}",
        hint=f"see what it has: {asked.url}/tree/main",
    )


def _model(api: HfApi, asked: HubRequest, branch: str) -> Any:
    try:
        return _info(api, str(asked.id), branch)
    except SpecNotFoundError as error:
        if not isinstance(error.__cause__, RepositoryNotFoundError):
            raise
        raise _not_a_model(api, asked) or error from error


def _not_a_model(api: HfApi, asked: HubRequest) -> HubError | None:
    """The error for a repository of another kind under the same name, or None."""
    for kind in ("dataset", "space"):
        with translated_errors(asked):
            there = retried(partial(api.repo_exists, str(asked.id), repo_type=kind))
        if there:
            return HubError(
                f"{asked.id} is a {kind}, and no model",
                hint=f"name a model: {asked.endpoint}/models",
            )
    return None


def asked_of(api: HfApi, ref: ModelRef) -> HubRequest:
    """For messages about a push to ``ref``."""
    return HubRequest(api.endpoint, has_token(api.token), ref.id, ref.revision, writing=True)


def stored_files(api: HfApi, model_id: str, revision: str) -> dict[str, StoredFile]:
    """Every file at a revision, by path: one request. Raises every error of the hub."""
    return dict(_files(_info(api, model_id, revision)))


def read_file(api: HfApi, model_id: str, path: str, sha: str, limit: int) -> bytes:
    """A file's content at a commit, compared with the digest that the hub gives it.

    It does not go through the user's cache, which publishing has no business to fill.
    """
    asked = HubRequest(api.endpoint, has_token(api.token))
    with tempfile.TemporaryDirectory(prefix="gmi-") as scratch:
        downloads = Downloads(api, asked, Path(scratch).resolve(), offline=False)
        return downloads.fetch_checked(model_id, path, sha, limit=limit).read_bytes()


def _info(api: HfApi, model_id: str, revision: str) -> Any:
    return model_info(api, HubRequest(api.endpoint, has_token(api.token), model_id, revision))


def _files(info: Any) -> Iterator[tuple[str, StoredFile]]:
    for sibling in info.siblings or ():
        sha256 = None if sibling.lfs is None else sibling.lfs.sha256
        yield sibling.rfilename, StoredFile(sibling.blob_id, sha256, sibling.size or 0)


def writer(api: HfApi, asked: HubRequest) -> tuple[str, bool]:
    """The account whose token this is, and whether it may commit there as far as it tells.

    One request a process. Raises AuthError without a token, and with one that is wrong, only reads,
    or is made for other repositories, so that not even a proposal is possible.
    """
    if not asked.has_token:
        there = "" if asked.repo_type == "model" else " there"
        raise AuthError(
            f"{asked.name}: publishing{there} needs a token, and you have none",
            hint=f"hf auth login, with a token that can write: {_tokens(asked)}",
        )
    # About the account, and not about the repository.
    with translated_errors(HubRequest(asked.endpoint, True, writing=True)):
        account = _mapping(retried(lambda: api.whoami(cache=True)))
    user = account.get("name")
    if not isinstance(user, str):
        raise HubError(
            f"{asked.endpoint} does not say whose token this is", hint="check HF_ENDPOINT"
        )
    token = _mapping(_mapping(account.get("auth")).get("accessToken"))
    if token.get("role") == "read":
        raise AuthError(
            f"{asked.name}: this token can only read",
            hint=f"hf auth login, with a token with write access: {_tokens(asked)}",
        )
    repository = str(asked.id).casefold()
    owner = repository.partition("/")[0] if "/" in repository else None
    if token.get("role") == "fineGrained":
        rights = _mapping(token.get("fineGrained"))
        granted = set(_granted(rights, asked.repo_type, repository, owner))
        if not granted & {_PUSH, _PROPOSE}:
            give = "give it write access to" if asked.repo_type == "model" else _OPEN_DISCUSSIONS
            raise AuthError(
                f"{asked.name}: this token is made for other repositories",
                hint=f"{give} {asked.id} at {_tokens(asked)}, or hf auth login",
            )
        if _PUSH not in granted:
            return user, False
    if owner == user.casefold():
        return user, True
    for org in map(_mapping, account.get("orgs") or ()):
        if str(org.get("name")).casefold() == owner:
            # Contributors may write only to what they made themselves, which nothing here tells.
            return user, org.get("roleInOrg", "write") in _WRITERS
    return user, False


def _granted(
    rights: Mapping[str, Any], kind: str, repository: str, owner: str | None
) -> Iterator[str]:
    yield from map(str, rights.get("global") or ())
    covered = {kind: repository, "user": owner, "org": owner}
    for scope in map(_mapping, rights.get("scoped") or ()):
        entity = _mapping(scope.get("entity"))
        if covered.get(str(entity.get("type"))) == str(entity.get("name")).casefold():
            yield from map(str, scope.get("permissions") or ())


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _tokens(asked: HubRequest) -> str:
    return f"{asked.endpoint}/settings/tokens"


def push_spec(api: HfApi, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
    """Commit the specification in ``folder`` to the model, with the edit of its card.

    The files of a specification go together: an old preview or signature does not outlive its
    specification. Without the right to write, or with ``create_pr``, a pull request is opened,
    unless one of this account's is open with the same specification. A push that somebody else's
    commit overtook starts again from that commit. After a failure that leaves open whether the
    hub did what it was asked, the model is looked at before anything is sent again.

    Returns the address of the commit or of the pull request; where the model holds all of it
    already, nothing is sent, and it is the address of ``gmi`` at the current commit.

    Raises InputError or SpecError for files that are no specification of ``ref``, AuthError for
    want of rights, HubError where the model now has other weights, its card cannot be edited, or
    the hub does not answer; the model then holds its old specification or the whole new one.
    """
    manifest, contents = read_upload(folder, ref)
    names = (MANIFEST_NAME, TENSORS_NAME, PREVIEW_NAME, SIGNATURE_NAME)
    ours = {f"{SPEC_DIR}/{name}": contents.get(name) for name in names}
    beside = _Beside(api, ref, manifest, ours, create_pr)
    change = Change(asked_of(api, ref), beside.look, beside.is_made, beside.describe)
    done = commit_or_propose(api, change, propose=create_pr)
    if isinstance(done, ChangeStart):
        return f"{change.asked.url}/tree/{done.parent_commit}/{SPEC_DIR}"
    return done


@dataclass(frozen=True)
class _Beside:
    """The change of one model: the files of its specification, and its card."""

    api: HfApi
    ref: ModelRef
    manifest: Manifest
    ours: Mapping[str, bytes | None]
    create_pr: bool

    def look(self) -> ChangeStart:
        now = check_writable(self.api, self.ref, create_pr=self.create_pr)
        self._require_same_weights(now)
        preview = self.ours[f"{SPEC_DIR}/{PREVIEW_NAME}"] is not None
        wanted = {**self.ours, CARD_NAME: edit_card(now.card, self.manifest, preview=preview)}
        if wanted[_SIGNATURE] is None and now.holds(_MANIFEST, self.ours[_MANIFEST]):
            del wanted[_SIGNATURE]  # of the same specification, so it holds
        new = _MANIFEST not in now.files
        return ChangeStart(
            user=now.user,
            can_write=now.can_write,
            branch=now.branch,
            parent_commit=now.parent_commit,
            files={path: file for path, file in wanted.items() if not now.holds(path, file)},
            title=f"{'Add' if new else 'Update'} the specification for search by picture",
        )

    def is_made(self, revision: str) -> bool:
        files = stored_files(self.api, self.ref.id, revision)
        return all(
            path not in files if new is None else path in files and files[path].holds(new)
            for path, new in self.ours.items()
        )

    def describe(self, propose: bool) -> str:
        made_by = self.manifest.tool
        tool = in_markdown(f"Made by {made_by.name} {made_by.version}.")
        if not propose:
            return tool
        return (
            f"Adds `{SPEC_DIR}/`, two small files (and a contact sheet) that describe what this "
            f"model generates, so that people can find it by a picture, and says so in the model "
            f"card. "
            f"No weights are touched. {tool}"
        )

    def _require_same_weights(self, now: Preflight) -> None:
        for weight in self.manifest.model.weights:
            stored = now.files.get(weight.path)
            found = None if stored is None else stored.sha256
            if stored is not None and found is None and stored.size == weight.size:
                limit = min(stored.size, _REGULAR_LIMIT)
                content = read_file(self.api, self.ref.id, weight.path, now.parent_commit, limit)
                found = hashlib.sha256(content).hexdigest()
            if found != weight.sha256:
                what = "is gone" if stored is None else "is another file now"
                model = self.ref.without_revision
                raise HubError(
                    f"{model}: {weight.path}, which the specification describes, {what}",
                    hint=f"the model changed meanwhile: gmi-publish {model}",
                )
