"""Which models of the hub have a specification, and what this disk keeps of it for offline use."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from gmi_registry.errors import HubError, InputError, OfflineError
from gmi_registry.filters import Traits, plain_tags
from gmi_registry.hubs.card import CARD_NAME
from gmi_registry.hubs.huggingface.client import (
    HubRequest,
    connect,
    offline_error,
    retried,
    translated_errors,
)
from gmi_registry.hubs.huggingface.download import COMMIT, Downloads
from gmi_registry.hubs.listing_cache import ListingCache, read_note, write_note
from gmi_registry.hubs.protocol import Listing, is_stale
from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, TENSORS_NAME, ModelRef, WeightFile
from gmi_registry.spec.canonical import MANIFEST_LIMIT

_VERSION = 1
# Commits of one model that are remembered: offline, the newest whose files are here is used.
_COMMITS = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")

_log = logging.getLogger(__name__)

SPEC_TAG = "gmi-spec"
"""The tag in a model card by which a model with a specification is found."""
_INDEX = "model_index.json"
_WEIGHTS = ".safetensors"
# A list of files that is as long as this may go on where it ends.
_LONG_LIST = 1_000
# The same models again and again: a listing whose pages lead back into themselves.
_MOST_REPEATS = 10_000
MANIFEST = f"{SPEC_DIR}/{MANIFEST_NAME}"
"""The manifest's path in a repository."""
TENSORS = f"{SPEC_DIR}/{TENSORS_NAME}"
"""Likewise the tensor file's."""
_MOST_LOOKS = 60


@dataclass(frozen=True)
class ListedModel:
    """One model of a listing.

    ``commits`` are full shas, the newest first; ``has_spec`` is as in :class:`.Listing`, and
    ``modified`` the time that the hub states, in ISO 8601.
    """

    id: str
    commits: tuple[str, ...]
    tags: tuple[str, ...]
    modified: str | None
    has_spec: bool = True

    @property
    def sha(self) -> str:
        """The commit of the last listing."""
        return self.commits[0]

    @classmethod
    def kept(cls, value: Any) -> ListedModel | None:
        """As :func:`dataclasses.asdict` has it; None for what makes no sense."""
        try:
            # Files of another version of this program may say more, or less.
            told = {it.name: value[it.name] for it in fields(cls) if it.name in value}
            lists = {"commits": tuple(value["commits"]), "tags": plain_tags(value["tags"])}
            model = cls(**told | lists)
            usable = all(COMMIT.fullmatch(commit) for commit in model.commits) and model.commits
        except (TypeError, KeyError):
            return None
        return model if usable and isinstance(model.id, str) else None


class KnownModels:
    """What the hub at ``endpoint`` listed last, and what of it ``downloads`` has on this disk.

    It is kept in ``directory``; nothing there is needed for long.
    """

    def __init__(self, endpoint: str, downloads: Downloads, directory: Path) -> None:
        self.cache = ListingCache(directory / "catalogue.json", _VERSION)
        self._directory = directory
        self._endpoint = endpoint
        self._downloads = downloads
        self._lock = threading.Lock()

    def models(self) -> list[ListedModel]:
        """All models known, sorted by id."""
        rows = self.cache.read().get("models")
        found = map(ListedModel.kept, rows) if isinstance(rows, list) else ()
        return sorted((model for model in found if model is not None), key=lambda it: it.id)

    def keep(self, listed: Iterable[ListedModel]) -> list[ListedModel]:
        """Keep a complete listing, and return it with the older commits that were known before.

        A model that it does not hold is gone from the hub, or has lost the tag, and is dropped.
        """
        with self._lock:
            older = {model.id: model.commits for model in self.models()}
            fresh = []
            for model in listed:
                commits = dict.fromkeys((*model.commits, *older.get(model.id, ())))
                fresh.append(replace(model, commits=tuple(commits)[:_COMMITS]))
            self.cache.keep(models=[asdict(model) for model in sorted(fresh, key=lambda it: it.id)])
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

    def on_disk(self, model: ListedModel) -> ListedModel | None:
        """The model at its newest commit of which both files are here; None where there is none, or
        the hub says that it has none any more."""
        if not model.has_spec:
            return None
        for position, sha in enumerate(model.commits):
            if all(self._downloads.cached(model.id, path, sha) for path in (MANIFEST, TENSORS)):
                return replace(model, commits=model.commits[position:])
        return None

    def listing(self, model: ListedModel) -> Listing:
        """The model for a search, with what is known of its specification at that commit."""
        digest = stale = None
        manifest = self._downloads.cached(model.id, MANIFEST, model.sha)
        if manifest is not None:
            with manifest.open("rb") as stream:
                content = stream.read(MANIFEST_LIMIT + 1)
            digest = hashlib.sha256(content).hexdigest()
            current = self.weights(model.id, model.sha)
            if current is not None:
                stale = is_stale(_described(content), current)
        return Listing(
            ModelRef("hf", model.id, model.sha),
            model.tags,
            spec_digest=digest,
            url=f"{self._endpoint}/{model.id}",
            stale=stale,
            modified=_time(model.modified),
            traits=Traits.listed("hf", model.tags),
            has_spec=model.has_spec,
        )

    def _note(self, model_id: str) -> Path:
        return self._directory / "weights" / f"{model_id.replace('/', '--')}.json"


def list_models(api: HfApi, asked: HubRequest) -> list[ListedModel]:
    """Every model with :data:`SPEC_TAG`, sorted by id, each at the commit it has now.

    One request a page. By no other tag is the hub asked to filter: it knows each in the spelling of
    the card alone, and would keep back models that pass. What it says of a model is checked; a
    model whose name or commit makes no sense is left out with a warning in the log. Raises every
    error of the hub.
    """
    found: dict[str, ListedModel] = {}
    repeats = 0
    with translated_errors(asked):
        for info in api.list_models(
            filter=[SPEC_TAG],
            expand=["sha", "siblings", "tags", "lastModified", "gated"],
        ):
            entry = _listed_model(info)
            if entry is None:
                continue
            repeats += entry.id in found
            if repeats > _MOST_REPEATS:
                raise HubError(
                    f"{asked.endpoint} lists the same models without end",
                    hint="check HF_ENDPOINT, or run the same command again later",
                )
            found[entry.id] = entry
    return [found[name] for name in sorted(found)]


def _listed_model(info: Any) -> ListedModel | None:
    try:
        ModelRef("hf", info.id)
    except (InputError, TypeError):
        _log.warning("%.80r is not a name for a model, and is skipped", info.id)
        return None
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        _log.warning("hf:%s is listed without a commit, and is passed over", info.id)
        return None
    return ListedModel(
        id=info.id,
        commits=(info.sha,),
        tags=plain_tags(info.tags),
        modified=None if info.last_modified is None else info.last_modified.isoformat(),
        # Of a gated one whether it may be read shows when it is asked for.
        has_spec=info.gated not in (None, False) or not _lacks_spec(info.siblings, info.tags or ()),
    )


def _lacks_spec(siblings: Any, tags: Iterable[Any]) -> bool:
    """Whether a model holds no specification, as far as its list of files can be believed.

    Only a list that looks whole is: one that has the card, from which the tag comes by which the
    model was found, and the files from which the hub derived its own tags, and that is not so long
    that a hub may have cut it off. Of any other model the files are asked for.
    """
    if not isinstance(siblings, list):
        return False
    names = {getattr(item, "rfilename", None) for item in siblings}
    if any(not isinstance(name, str) or name.startswith(f"{SPEC_DIR}/") for name in names):
        # With some of its files it is half done, or cut off; whoever asks is told what is missing.
        return False
    whole = CARD_NAME in names and len(siblings) < _LONG_LIST
    for tag in tags:
        if tag == "safetensors":
            whole = whole and any(str(name).endswith(_WEIGHTS) for name in names)
        elif isinstance(tag, str) and tag.startswith("diffusers:"):
            whole = whole and _INDEX in names
    return whole


def _described(content: bytes) -> list[WeightFile]:
    """The weights that a manifest names; none where it is broken, as whoever loads it will say."""
    try:
        return [WeightFile(**weight) for weight in json.loads(content)["model"]["weights"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _time(text: str | None) -> datetime | None:
    try:
        found = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


def earlier_commits(
    endpoint: str, ref: ModelRef, *, token: str | bool | None, offline: bool
) -> Iterator[str]:
    """Commits that gave the model another ``spec.json``, the newest first, as they are wanted.

    A request a page of commits, and one for each that is looked at, 60 at most. Raises OfflineError
    where ``offline``, and HubError, AuthError or RateLimitError where the hub says no.
    """
    api, asked = connect(endpoint, token)
    asked = replace(asked, id=ref.id)
    if offline:
        error = offline_error(asked)
        raise OfflineError(
            f"older commits of hf:{ref.id} would have to be requested, and the network is "
            f"switched off",
            hint=error.hint,
        )
    with translated_errors(asked):
        listed = retried(lambda: api.list_repo_commits(ref.id))
    commits = [it.commit_id for it in listed if COMMIT.fullmatch(it.commit_id)]
    position = {commit: number for number, commit in enumerate(commits)}
    at = 0
    for _ in range(_MOST_LOOKS):
        if at >= len(commits):
            return
        commit = commits[at]

        def look(commit: str = commit) -> list[Any]:
            return list(api.get_paths_info(ref.id, MANIFEST, revision=commit, expand=True))

        with translated_errors(asked):
            files = retried(look)
        if not files:
            at += 1
            continue
        # The same file lies in all commits from its last change up to this one.
        last = getattr(files[0].last_commit, "oid", None)
        changed = position.get(str(last), at)
        if (getattr(files[0], "size", None) or 0) <= MANIFEST_LIMIT:
            yield commits[max(at, changed)]
        at = max(at, changed) + 1
