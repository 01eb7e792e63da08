"""Which models of the hub have a specification, and what they are called now; kept for offline use.

A repository that is renamed keeps answering to its former names, by redirects, until somebody takes
one of them. The Hub also redirects names written in another letter case.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

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
from gmi_registry.hubs.protocol import Listing, is_stale
from gmi_registry.hubs.requests import ListingCache, read_note, write_note
from gmi_registry.spec import MANIFEST_NAME, SPEC_DIR, TENSORS_NAME, ModelRef, WeightFile
from gmi_registry.spec.canonical import MANIFEST_LIMIT

KEPT_ELSEWHERE = {
    # Runway deleted its account in August 2024. The card of the first says that it is a mirror of
    # the deprecated repository; diffusers' own documentation names it since.
    "runwayml/stable-diffusion-v1-5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "runwayml/stable-diffusion-inpainting": "stable-diffusion-v1-5/stable-diffusion-inpainting",
    # Stability AI withdrew Stable Diffusion 2 in November 2025 (huggingface/diffusers#12874). The
    # cards of these say that they are mirrors of the deprecated repositories
    # (huggingface/optimum-habana#2363).
    **{
        f"stabilityai/stable-diffusion-{name}": f"sd2-community/stable-diffusion-{name}"
        for name in ("2", "2-base", "2-inpainting", "2-1", "2-1-base", "2-1-unclip", "2-depth")
    },
    # Its author deleted it; what people name in its stead is this copy.
    "andite/anything-v4.0": "xyn-ai/anything-v4.0",
}
"""Base models that their owners deleted, and where copies of them are kept: by former id. Owners
who delete leave no redirect behind, and cards of thousands of LoRAs still name these."""

_NAMES_VERSION = 1
# A chain of names; each rename is one link.
_LONGEST_CHAIN = 8
_MOST_NAMES = 10_000
_DAY = 24 * 3600.0
# How long what the hub said counts where it can be asked: somebody may take a former name.
_FRESH = 7 * _DAY
_HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co"})
_ADDRESS = re.compile(r"(?:https?://|(?=(?:www\.)?huggingface\.co/|hf\.co/))(.+)", re.I | re.S)


def kept_elsewhere(model_id: str) -> str | None:
    """Where a copy of a model is kept whose owner deleted it; None for every other."""
    return KEPT_ELSEWHERE.get(model_id.casefold())


def base_reference(text: str, endpoint: str) -> ModelRef:
    """The model that a card calls its base: ``owner/name``, ``hf:owner/name``, or its address.

    An address may be of Hugging Face or of the hub at ``endpoint``, and name a revision
    (``/tree/REVISION``). Raises InputError for anything else.
    """
    address = _ADDRESS.fullmatch(text.strip())
    if address is None:
        return ModelRef("hf", text.strip().removeprefix("hf:"))
    parts = urlsplit(f"//{address[1]}")
    segments = [unquote(part) for part in parts.path.strip("/").split("/")]
    known = {*_HOSTS, urlsplit(endpoint).netloc.casefold()}
    if parts.netloc.casefold() not in known or len(segments) not in (2, 4):
        raise InputError(f"{text[:120]!r} is not the address of a model")
    if len(segments) == 2:
        return ModelRef("hf", "/".join(segments))
    if segments[2] != "tree":
        raise InputError(f"{text[:120]!r} is the address of a file, and not of a model")
    return ModelRef("hf", "/".join(segments[:2]), segments[3])


class Names:
    """Present names of repositories by their former ones, as one hub said; kept in ``directory``.

    Only what the hub itself said is in it, by a redirect or in an answer about a former name.
    Letter case does not count. Nothing there is needed for long: without it the hub is asked again.
    """

    def __init__(self, directory: Path) -> None:
        self._place = directory / "names.json"
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, float]] | None = None

    def now(self, model_id: str) -> str:
        """What the hub is known to call the repository; ``model_id`` itself where nothing is."""
        known, name = self._names(), model_id
        for _ in range(_LONGEST_CHAIN):
            further, _time = known.get(name.casefold(), (name, 0.0))
            if further == name:
                break
            name = further
        return name

    def knows(self, model_id: str) -> bool:
        """Whether the hub has said of late what this repository is called."""
        _, told = self._names().get(model_id.casefold(), (model_id, 0.0))
        return time.time() - told < _FRESH

    def learn(self, asked: str, answered: str, *, keep: bool = False) -> None:
        """The hub was asked about ``asked``, and spoke of ``answered``, which may be the same.

        That it is the same is remembered with ``keep`` only.
        """
        key = asked.casefold()
        with self._lock:
            before, told = self._names().get(key, (asked, 0.0))
            kept = keep or asked != answered
            if before == answered and (not kept or time.time() - told < _DAY):
                return
            known = {name: told for name, told in self._names().items() if name != key}
            if kept:
                known[key] = answered, time.time()
            self._known = dict(list(known.items())[-_MOST_NAMES:])
            names = {old: list(new) for old, new in self._known.items()}
            write_note(self._place, {"version": _NAMES_VERSION, "names": names})

    def _names(self) -> dict[str, tuple[str, float]]:
        if self._known is None:
            note = read_note(self._place)
            names: Any = note.get("names") if note.get("version") == _NAMES_VERSION else None
            found = names.items() if isinstance(names, dict) else ()
            self._known = {old: (new[0], new[1]) for old, new in found if _is_entry(old, new)}
        return self._known


def _is_entry(old: object, new: Any) -> bool:
    shaped = isinstance(new, list) and len(new) == 2 and isinstance(new[1], int | float)
    return shaped and all(is_name(name) for name in (old, new[0]))


def is_name(text: object) -> bool:
    """Whether a text is the full name of a model, as the hub writes it."""
    try:
        return isinstance(text, str) and ModelRef("hf", text).id == text
    except InputError:
        return False


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
            modified=_when(model.modified),
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


def _when(text: str | None) -> datetime | None:
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
