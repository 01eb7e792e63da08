"""A model of the hub as files on this disk: what generation needs, checked, and no more."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from gmi_registry.errors import AuthError, GmiError, HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME, parse_card
from gmi_registry.hubs.digest import FileDigests
from gmi_registry.hubs.huggingface.download import COMMIT, Downloads, has_stated_digest
from gmi_registry.hubs.huggingface.errors import explained, offline_error
from gmi_registry.hubs.huggingface.listing import SPEC_TAG
from gmi_registry.hubs.huggingface.names import Names, base_reference, kept_elsewhere
from gmi_registry.hubs.huggingface.patience import patiently
from gmi_registry.hubs.protocol import ModelOutline
from gmi_registry.hubs.selection import (
    INDEX_NAME,
    LORA_NAME,
    WEIGHT_SUFFIXES,
    RepoFile,
    Selection,
    select_pipeline,
    select_weights,
)
from gmi_registry.hubs.weights import kind_of_file
from gmi_registry.model import Kind, ModelCard, ModelFiles
from gmi_registry.spec import ModelRef, WeightFile

__all__ = ["Models", "is_unknown", "weight_files"]

T = TypeVar("T")

_CONFIG_LIMIT = 64 * 1024 * 1024
_INDEX_LIMIT = 1024 * 1024
# No weight file is larger; the hub states each one's size, and that is the limit then.
_WEIGHT_LIMIT = 500 * 10**9
# A LoRA on a LoRA is odd already; a chain this long is a mistake or a trap.
_LONGEST_CHAIN = 8
_PICTURES = frozenset({"text-to-image", "image-to-image", "unconditional-image-generation"})
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class _Found:
    """A model as the hub describes it: ``info`` is the client's, ``ref`` has its full commit.

    ``asked`` is the revision that was asked for; ``index`` the content of ``model_index.json``, or
    None where a file at the root is meant.
    """

    info: Any
    ref: ModelRef
    asked: str | None
    card: ModelCard
    index: Mapping[str, object] | None
    base: _Found | None = None

    def choose(self, *, config_only: bool) -> Selection:
        """The files that are fetched. Raises HubError where there are no usable weights."""
        name, files = f"hf:{self.ref.id}", _files(self.info)
        if self.index is not None:
            return select_pipeline(name, files, self.index, weights=not config_only)
        return select_weights(dataclasses.replace(self.ref, revision=self.asked), files)


class Models:
    """Fetches whole models through ``downloads``, ``workers`` files at once.

    ``digests`` remembers what was hashed, ``names`` what the hub calls the models.
    """

    def __init__(
        self,
        api: HfApi,
        downloads: Downloads,
        digests: FileDigests,
        *,
        workers: int,
        names: Names | None = None,
    ) -> None:
        self._api = api
        self._downloads = downloads
        self._digests = digests
        self._workers = workers
        self._names = names
        self._found: dict[ModelRef, _Found] = {}

    def fetch(self, ref: ModelRef) -> ModelFiles:
        """The model at its revision, with its base, as :meth:`.HuggingFaceHub.fetch_model` says."""
        return self._fetch(ref, config_only=False)

    def configuration(self, ref: ModelRef) -> ModelFiles:
        """The same without weights: what reads a single file that brings its own."""
        return self._fetch(ref, config_only=True)

    def info(self, model_id: str, revision: str | None) -> Any:
        """huggingface_hub's ``ModelInfo`` with the size and digest of every file: one request.

        Its ``sha`` is a full commit. Its ``id`` is what the hub calls the model now, which is
        another one than was asked for where it was renamed or the case is another. Raises every
        error of the hub.
        """
        asked = self._downloads.asked(model_id, revision=revision)
        if self._downloads.offline:
            raise offline_error(asked)
        with explained(asked):
            info = patiently(
                lambda: self._api.model_info(model_id, revision=revision, files_metadata=True)
            )
        if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
            raise HubError(
                f"{asked.name}: the hub names no commit", hint="check HF_ENDPOINT, then try again"
            )
        try:
            actual = ModelRef("hf", info.id)
        except (InputError, TypeError):
            raise HubError(f"{asked.name}: the hub gives it an impossible name") from None
        if self._names is not None:
            self._names.learn(model_id, actual.id)
        return info

    def outline(self, ref: ModelRef) -> ModelOutline:
        """The model and its base as they would be fetched: no weights are read.

        :meth:`fetch` of the reference in it costs no further request but downloads.
        """
        found = self._find(ref, ())
        self._found[found.ref] = found
        outline = self._outlined(found, config_only=False)
        self._require_free(found.ref.id, outline.missing_in_all)
        return outline

    def _fetch(self, ref: ModelRef, *, config_only: bool) -> ModelFiles:
        found = self._found.get(ref)
        if found is None:
            found = self._find(ref, ())
        return self._deliver(found, config_only=config_only)

    def _find(self, ref: ModelRef, above: tuple[str, ...]) -> _Found:
        """The model under its present name, and all that it is made from: every refusal that needs
        no weights."""
        info = self.info(ref.id, ref.revision)
        named, ref = ref, dataclasses.replace(ref, id=info.id)
        if ref.id in above or len(above) >= _LONGEST_CHAIN:
            chain = " -> ".join((*above, ref.id))
            raise HubError(
                f"the base models go round in a circle, or on for too long: {chain}",
                hint=f"mend base_model in the model card of {named.repository}",
            )
        asked = self._downloads.asked(info.id, revision=ref.revision)
        if getattr(info, "disabled", False):
            raise HubError(f"{asked.name} was disabled by the hub", hint=f"see {asked.url}")
        paths = {file.path for file in _files(info)}
        pipeline = INDEX_NAME in paths and ref.file is None
        if info.gated and not pipeline and CARD_NAME not in paths:
            # Else the first small file tells.
            with explained(asked):
                patiently(lambda: self._api.auth_check(info.id))
        card = self._card(info, CARD_NAME in paths)
        index = self._index(info.id, info.sha) if pipeline else None
        if not pipeline:
            _require_pictures(info.id, info)
        found = _Found(info, ModelRef("hf", info.id, info.sha, ref.file), ref.revision, card, index)
        if not pipeline:
            chosen = found.choose(config_only=False)
            if card.base_model is not None:
                base = self._base(info.id, card.base_model, (*above, info.id))
                found = dataclasses.replace(found, base=base)
                # Of a file that may be a whole model, too, the configuration alone may be wanted.
                base.choose(config_only=chosen.weights[0].path != LORA_NAME)
        return found

    def _base(self, model_id: str, name: str, above: tuple[str, ...]) -> _Found:
        what = f"the base model of hf:{model_id}, {name[:100]}"
        try:
            ref = base_reference(name, self._downloads.asked(model_id).endpoint)
            elsewhere = kept_elsewhere(ref.id)
            try:
                return self._find(ref, above)
            except (SpecNotFoundError, AuthError) as error:
                if elsewhere is None or not is_unknown(error):
                    raise
            return self._find(ModelRef("hf", elsewhere), above)
        except InputError:
            raise HubError(
                f"{what}, is not the name of a model on Hugging Face",
                hint="correct base_model in the model card",
            ) from None
        except SpecNotFoundError as error:
            raise HubError(
                f"{what}, is not at hand: {error.message}",
                hint="correct base_model in the model card, or use a token that may read it",
            ) from error
        except AuthError as error:
            raise AuthError(f"{what}, is not open: {error.message}", hint=error.hint) from error

    def _deliver(self, found: _Found, *, config_only: bool) -> ModelFiles:
        chosen = found.choose(config_only=config_only)
        model_id, sha = found.ref.id, found.info.sha
        folder, weights = self._download(model_id, sha, chosen)
        kind, path = _kind(folder, chosen, found.index is not None)
        base = None
        if found.base is not None:
            base = self._deliver(found.base, config_only=kind == "single-file")
        return ModelFiles(
            ref=found.ref,
            kind=kind,
            path=path,
            card=found.card,
            weights=weights,
            url=self._downloads.asked(model_id).url,
            base=base,
        )

    def _outlined(self, found: _Found, *, config_only: bool) -> ModelOutline:
        chosen = found.choose(config_only=config_only)
        model_id, sha = found.ref.id, found.info.sha
        kind: Kind | None = "checkpoint"
        if found.index is None:
            # Of another file only its tensors tell.
            kind = "lora" if chosen.weights[0].path == LORA_NAME else None
        base = None
        if found.base is not None:
            base = self._outlined(found.base, config_only=kind is None)
        return ModelOutline(
            ref=found.ref,
            kind=kind,
            card=found.card,
            pipeline=found.index,
            weights={file.path: file.sha256 for file in chosen.weights},
            missing=self._missing(model_id, sha, chosen),
            url=self._downloads.asked(model_id).url,
            base=base,
        )

    def _card(self, info: Any, there: bool) -> ModelCard:
        content = b""
        if there:
            place = self._downloads.fetch_checked(info.id, CARD_NAME, info.sha, limit=CARD_LIMIT)
            content = place.read_bytes()
        card = parse_card(content, info.id.rpartition("/")[2], Path(info.id) / CARD_NAME)
        downloads = info.downloads if type(info.downloads) is int and info.downloads >= 0 else None
        # The tag says that there is a specification, and nothing of the model: with it, publishing
        # would change what the next publication describes.
        tags = tuple(tag for tag in card.tags if tag.casefold() != SPEC_TAG)
        return dataclasses.replace(card, tags=tags, downloads=downloads)

    def _index(self, model_id: str, sha: str) -> Mapping[str, object]:
        place = self._downloads.fetch_checked(model_id, INDEX_NAME, sha, limit=_INDEX_LIMIT)
        try:
            index = json.loads(place.read_bytes())
        except (ValueError, RecursionError):
            index = None
        if not isinstance(index, dict):
            raise HubError(
                f"hf:{model_id}: {INDEX_NAME} is not a JSON object",
                hint="its author must save it again: pipeline.save_pretrained(folder)",
            )
        return index

    def _download(
        self, model_id: str, sha: str, chosen: Selection
    ) -> tuple[Path, tuple[WeightFile, ...]]:
        """The model's folder in the cache, and its weights, checked."""
        self._require_room(model_id, sha, chosen)

        def fetch(file: RepoFile) -> Path:
            limit = _CONFIG_LIMIT
            if file in chosen.weights:
                limit = _WEIGHT_LIMIT if file.size is None else file.size
            return self._downloads.fetch(model_id, file.path, sha, limit=limit, shown=True)

        def fetch_weights(file: RepoFile) -> WeightFile:
            return self._checked(model_id, file, fetch(file))

        places = self._at_once(fetch, chosen.others)
        weights = self._at_once(fetch_weights, chosen.weights)
        inside = (*chosen.others, *chosen.weights)[0].path
        place = places[0] if places else fetch(chosen.weights[0])
        return place.parents[len(PurePosixPath(inside).parts) - 1], tuple(weights)

    def _checked(self, model_id: str, file: RepoFile, place: Path) -> WeightFile:
        """The file's identity, from the bytes on this disk; they are what the hub says they are."""
        size = place.stat().st_size
        sha256 = self._digests.sha256(place.resolve())
        right = has_stated_digest(place) if file.sha256 is None else sha256 == file.sha256
        if not right or file.size not in (None, size):
            self._downloads.discard(place)
            raise self._downloads.wrong_bytes(model_id, file.path)
        return WeightFile(path=file.path, size=size, sha256=sha256)

    def _require_room(self, model_id: str, sha: str, chosen: Selection) -> None:
        self._require_free(model_id, self._missing(model_id, sha, chosen))

    def _require_free(self, model_id: str, missing: int) -> None:
        place = self._downloads.cache_dir
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if missing > free:
            raise HubError(
                f"hf:{model_id} needs {missing:,} bytes in {self._downloads.cache_dir}, and "
                f"{free:,} are free",
                hint="free some space: hf cache ls, hf cache rm; or set HF_HOME to another disk",
            )

    def _missing(self, model_id: str, sha: str, chosen: Selection) -> int:
        """Bytes that are not on this disk yet."""
        return sum(
            file.size or 0
            for file in (*chosen.weights, *chosen.others)
            if self._downloads.cached(model_id, file.path, sha) is None
        )

    def _at_once(self, work: Callable[[RepoFile], T], files: tuple[RepoFile, ...]) -> list[T]:
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(work, file) for file in files]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def is_unknown(error: GmiError) -> bool:
    """Whether the hub said that there is no such repository, or none that this account may know."""
    cause = error.__cause__
    return isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError)


def weight_files(info: Any) -> dict[str, str | None]:
    """Path to SHA-256 (None where the hub does not say) of every safetensors file of a model."""
    return {file.path: file.sha256 for file in _files(info) if file.path.endswith(WEIGHT_SUFFIXES)}


def _kind(folder: Path, chosen: Selection, pipeline: bool) -> tuple[Kind, Path]:
    if pipeline:
        return "checkpoint", folder
    # Other files of the repository may lie in the same folder, brought there for something else.
    place = folder / chosen.weights[0].path
    kind = kind_of_file(place)
    return kind, place if kind == "single-file" else folder


def _files(info: Any) -> list[RepoFile]:
    found = []
    for item in info.siblings or ():
        path, size, sha256 = item.rfilename, item.size, item.lfs and item.lfs.sha256
        if not isinstance(path, str):
            continue
        found.append(
            RepoFile(
                path,
                size if type(size) is int and size >= 0 else None,
                sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None,
            )
        )
    return found


def _require_pictures(model_id: str, info: Any) -> None:
    task = info.pipeline_tag
    if isinstance(task, str) and task not in _PICTURES:
        raise HubError(
            f"hf:{model_id} is not a text-to-image model: the hub files it under {task[:60]}",
            hint="name a model that draws pictures from texts",
        )
