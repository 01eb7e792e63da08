"""A model of the hub as files on this disk: what generation needs, checked, and no more."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from gmi_registry.bases import (
    BASE_HINT,
    QUANTIZED,
    base_of_file,
    claimed_family,
    pipeline_architectures,
    quantised_note,
    refuse_base,
    repository_of,
    require_made_for,
)
from gmi_registry.errors import (
    AuthError,
    GmiError,
    HubError,
    InputError,
    OfflineError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME, parse_card
from gmi_registry.hubs.files import FileDigests
from gmi_registry.hubs.huggingface.client import (
    HubRequest,
    offline_error,
    retried,
    translated_errors,
)
from gmi_registry.hubs.huggingface.download import COMMIT, Downloads, has_stated_digest
from gmi_registry.hubs.huggingface.listing import SPEC_TAG, Names, base_reference, kept_elsewhere
from gmi_registry.hubs.protocol import ModelOutline
from gmi_registry.hubs.selection import (
    INDEX_NAME,
    LORA_NAME,
    WEIGHT_SUFFIXES,
    FileSelection,
    RepoFile,
    select_pipeline,
    select_weights,
)
from gmi_registry.hubs.weights import (
    described_kind,
    header_from_ranges,
    is_embedding,
    needs_base_weights,
    require_no_circle,
    require_shards,
)
from gmi_registry.model import BaseOrigin, Kind, ModelCard, ModelFiles
from gmi_registry.sanitize import one_line
from gmi_registry.spec import ModelRef, WeightFile
from gmi_registry.weights import (
    Header,
    WeightsFile,
    WeightsFormatError,
    identify,
    identify_file,
    require_described,
)

T = TypeVar("T")

_CONFIG_LIMIT = 64 * 1024 * 1024
_INDEX_LIMIT = 1024 * 1024
# No weight file is larger; the hub states each one's size, and that is the limit then.
_WEIGHT_LIMIT = 500 * 10**9
# A merge names what it was made of, which may be much; each costs requests.
_MOST_BASES = 4
_TASK = "text-to-image"
_NETWORK_FOLDERS = ("unet/", "transformer/")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class _Found:
    """A model as the hub describes it: ``info`` is the client's, ``ref`` has its full commit.

    ``asked`` is the revision that was requested; ``index`` the content of ``model_index.json``, or
    None where one file is meant. ``header`` is that file's, None where the hub does not give it out
    before the whole file. ``beside`` are the files of the words that were taught with a LoRA.
    """

    info: Any
    ref: ModelRef
    asked: str | None
    card: ModelCard
    index: Mapping[str, object] | None
    base: _Found | None = None
    header: Header | None = None
    base_origin: BaseOrigin | None = None
    base_revision: str | None = None
    base_refusal: GmiError | None = None
    notes: tuple[str, ...] = ()
    beside: tuple[RepoFile, ...] = ()

    @cached_property
    def file(self) -> WeightsFile | None:
        """What the file is, where its header is known."""
        return None if self.header is None else identify(self.header)

    @property
    def architectures(self) -> frozenset[str]:
        """What its network may be, as far as that is known before anything is downloaded."""
        if self.index is not None:
            return pipeline_architectures(self.index)
        if self.file is not None and self.file.kind in ("checkpoint", "network"):
            known = () if self.file.architecture is None else (self.file.architecture,)
            return frozenset(known)
        return frozenset() if self.base is None else self.base.architectures

    @property
    def takes_base_weights(self) -> bool:
        """Whether the base's weights are needed, as far as that is known: else more may be."""
        if self.file is not None:
            return needs_base_weights(self.file)
        return self.choose(config_only=False).first.path == LORA_NAME

    def choose(self, *, config_only: bool) -> FileSelection:
        """The files that are fetched. Raises HubError where there are no usable weights."""
        name, files = f"hf:{self.ref.id}", _files(self.info)
        if self.index is not None:
            return select_pipeline(name, files, self.index, weights=not config_only)
        chosen = select_weights(dataclasses.replace(self.ref, revision=self.asked), files)
        return chosen.joined(self.beside)


def model_info(api: HfApi, asked: HubRequest) -> Any:
    """huggingface_hub's ``ModelInfo`` with the size and digest of every file: one request.

    Its ``sha`` is a full commit. Its ``id`` is what the hub calls the model now, which is another
    one than was asked for where it was renamed or the case is another. Raises every error of the
    hub.
    """
    with translated_errors(asked):
        info = retried(
            lambda: api.model_info(str(asked.id), revision=asked.revision, files_metadata=True)
        )
    if not isinstance(info.sha, str) or not COMMIT.fullmatch(info.sha):
        raise HubError(
            f"{asked.name}: the hub names no commit", hint="check HF_ENDPOINT, then try again"
        )
    try:
        ModelRef("hf", info.id)
    except (InputError, TypeError):
        raise HubError(f"{asked.name}: the hub gives it an impossible name") from None
    return info


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
        names: Names,
    ) -> None:
        self._api = api
        self._downloads = downloads
        self._digests = digests
        self._workers = workers
        self._names = names
        self._found: dict[tuple[ModelRef, ModelRef | None], _Found] = {}

    def fetch(self, ref: ModelRef, base: ModelRef | None = None) -> ModelFiles:
        """The model at its revision, with its base, as :meth:`.HuggingFaceHub.fetch_model` says."""
        return self._fetch(ref, base, config_only=False)

    def configuration(self, ref: ModelRef) -> ModelFiles:
        """The same without weights: what reads a single file that brings its own."""
        return self._fetch(ref, None, config_only=True)

    def info(self, model_id: str, revision: str | None) -> Any:
        """As :func:`model_info`; the hub's name for the model is remembered."""
        asked = self._downloads.asked(model_id, revision=revision)
        if self._downloads.offline:
            raise offline_error(asked)
        info = model_info(self._api, asked)
        self._names.learn(model_id, info.id)
        return info

    def outline(
        self, ref: ModelRef, base: ModelRef | None = None, *, config_only: bool = False
    ) -> ModelOutline:
        """The model and its base as they would be fetched: no weights are read.

        :meth:`fetch` of the reference in it costs no further request but downloads.
        """
        found = self._find(ref, (), base)
        self._found[found.ref, base] = found
        outline = self._outlined(found, config_only=config_only)
        self._require_free(found.ref.id, outline.missing_in_all)
        return outline

    def _fetch(self, ref: ModelRef, base: ModelRef | None, *, config_only: bool) -> ModelFiles:
        found = self._found.get((ref, base))
        if found is None:
            found = self._find(ref, (), base)
        return self._deliver(found, config_only=config_only)

    def _find(
        self,
        ref: ModelRef,
        above: tuple[str, ...],
        base: ModelRef | None = None,
        *,
        resolve: bool = False,
    ) -> _Found:
        """The model under its present name, and all that it is made from: every refusal that needs
        no weights.

        ``base`` is the base that was named by whoever publishes. With ``resolve`` a copy with fewer
        bits a weight is its original, which its card names.
        """
        info = self.info(ref.id, ref.revision)
        asked_for, ref = ref, dataclasses.replace(ref, id=info.id)
        # A file may stand on the pipeline that lies in the same repository.
        place = ref.id if ref.file is None else f"{ref.id}/{ref.file}"
        require_no_circle((*above, place), f"the model card of {asked_for.repository}")
        asked = self._downloads.asked(info.id, revision=ref.revision)
        if getattr(info, "disabled", False):
            raise HubError(f"{asked.name} was disabled by the hub", hint=f"see {asked.url}")
        paths = {file.path for file in _files(info)}
        pipeline = INDEX_NAME in paths and ref.file is None
        if info.gated and not pipeline and CARD_NAME not in paths:
            # Else the first small file tells.
            with translated_errors(asked):
                retried(lambda: self._api.auth_check(info.id))
        card = self._card(info, CARD_NAME in paths)
        copied = card.base_model if _is_quantised(info, card) and ref.file is None else None
        if resolve and copied is not None:
            original = self._base(info.id, copied, (*above, info.id), "card")
            note = quantised_note(f"hf:{above[-1]}", info.id, original.ref.id)
            return dataclasses.replace(original, notes=(*original.notes, note))
        index = self._index(info.id, info.sha) if pipeline else None
        if not pipeline:
            _require_text_to_image(info.id, info)
        found = _Found(info, ModelRef("hf", info.id, info.sha, ref.file), ref.revision, card, index)
        if not pipeline:
            chosen = found.choose(config_only=False)
            header = self._header(info.id, info.sha, chosen.first)
            found = dataclasses.replace(found, ref=_named(found.ref, chosen), header=header)
            if found.file is not None:
                kind = described_kind(found.file, f"hf:{info.id}/{one_line(chosen.first.path)}")
                if kind == "lora" and chosen.beside:
                    found = dataclasses.replace(found, beside=self._embeddings(found, chosen))
            found = self._with_base(found, (*above, place), base)
            if found.base is not None:
                found.base.choose(config_only=not found.takes_base_weights)
        elif base is not None:
            raise refuse_base(f"hf:{info.id}", base)
        else:
            self._require_no_image(found)
        return found

    def _embeddings(self, found: _Found, chosen: FileSelection) -> tuple[RepoFile, ...]:
        """The files beside a LoRA that hold the words which were taught with it.

        One whose header the hub does not give out counts by its name: left out it would change what
        is generated, without a word.
        """
        headers = ((it, self._header(found.ref.id, found.info.sha, it)) for it in chosen.beside)
        return tuple(
            file
            for file, header in headers
            if header is None or identify(header).kind == "textual-inversion"
        )

    def _require_no_image(self, found: _Found) -> None:
        """Raise HubError for a pipeline whose network reads an image beside the noise.

        Its class may be that of others which need none, and its weights may be many gigabytes.
        """
        weights = found.choose(config_only=False).weights
        network = next((it for it in weights if it.path.startswith(_NETWORK_FOLDERS)), None)
        if network is None:
            return
        try:
            header = self._header(found.ref.id, found.info.sha, network)
        except WeightsFormatError:
            return  # whoever loads it says what is wrong with it
        file = None if header is None else identify(header)
        if file is not None and file.kind == "network" and file.needs_image:
            require_described(file, f"hf:{found.ref.id}/{network.path}")

    def _with_base(self, found: _Found, above: tuple[str, ...], named: ModelRef | None) -> _Found:
        """``found`` with the base that was named, else its card's, else the one its file tells."""
        what, card = f"hf:{found.ref.id}", found.card
        notes: tuple[str, ...] = ()
        origin: BaseOrigin = "card"
        if named is not None:
            if named.hub != "hf":
                raise InputError(
                    f"{named} cannot be the base of {what}: a base there is on Hugging Face, too",
                    hint="write --base owner/name",
                )
            origin = "option"
            base = self._base(found.ref.id, named, above, origin)
        elif card.base_model is not None:
            base, notes = self._base_of_card(found, above)
        else:
            if found.file is None or found.header is None:
                return found
            try:
                stated = base_of_file(what, found.file, found.header.metadata)
                whole = not needs_base_weights(found.file)
                name = stated.repository or repository_of(stated, what, whole=whole)
            except HubError as error:
                return dataclasses.replace(found, base_refusal=error)
            origin = stated.origin
            base = self._base(found.ref.id, name, above, origin)
            guess = ", which is a guess" if origin == "architecture" else ""
            notes = (
                f"{what}: its model card names no base model, and {stated.words}: "
                f"{base.ref.id} is used{guess}; --base REPO names another",
            )
            if stated.family is not None and stated.family.caution is not None:
                notes = (*notes, stated.family.caution)
        if found.file is not None and found.header is not None:
            told = {"option": "--base names it", "card": "its model card names it"}.get(origin)
            words = f"its base model hf:{base.ref.id}{f' ({told})' if told else ''}"
            # Whoever names a base may know that the metadata are wrong; the layers are not.
            said = {} if origin == "option" else found.header.metadata
            require_made_for(what, found.file, said, words, base.architectures)
        revision = None if named is None else named.revision
        return dataclasses.replace(
            found, base=base, base_origin=origin, base_revision=revision, notes=notes
        )

    def _base_of_card(
        self, found: _Found, above: tuple[str, ...]
    ) -> tuple[_Found, tuple[str, ...]]:
        """Of the base models that a card names the first that is a whole diffusers model, else the
        first; a note where there are several."""
        names = [str(found.card.base_model), *found.card.other_bases]
        first: _Found | None = None
        errors: list[GmiError] = []
        gone: list[str] = []
        for name in names[:_MOST_BASES]:
            try:
                base = self._base(found.ref.id, name, above, "card")
            except (OfflineError, RateLimitError):
                raise
            except HubError as error:
                cause = error.__cause__
                known = isinstance(cause, GmiError) and not is_unknown(cause)
                if isinstance(error, AuthError) and known:
                    raise  # it is there, and only this account cannot read it
                errors.append(error)
                gone.append(one_line(name, 80))
                continue
            first = first or base
            if base.index is not None:
                first = base
                break
        if first is None:
            raise errors[0]
        if len(names) == 1:
            return first, ()
        why = f" ({', '.join(gone)} cannot be used)" if gone else ""
        return first, (
            f"hf:{found.ref.id}: its card names {len(names)} base models"
            f", and {first.ref.id} is used{why}; --base names another",
        )

    def _base(
        self, model_id: str, name: str | ModelRef, above: tuple[str, ...], origin: BaseOrigin
    ) -> _Found:
        called = name if isinstance(name, str) else str(name).removeprefix("hf:")
        what = f"the base model of hf:{model_id}, {one_line(called, 100)}"
        resolve = origin != "option"
        mend = "correct --base"
        if origin == "card":
            mend = "correct base_model in the model card, or name another one: --base REPO"
        elif origin != "option":
            mend = BASE_HINT
        try:
            if isinstance(name, ModelRef):
                ref = name
            else:
                ref = base_reference(name, self._downloads.asked(model_id).endpoint)
            elsewhere = kept_elsewhere(ref.id)
            try:
                return self._find(ref, above, resolve=resolve)
            except (SpecNotFoundError, AuthError) as error:
                if elsewhere is None or not is_unknown(error):
                    raise
            return self._find(ModelRef("hf", elsewhere), above, resolve=resolve)
        except InputError:
            family = claimed_family(called)
            if family is not None and family.repository is not None:
                mend = f"write --base {family.repository}, or correct base_model in the model card"
            raise HubError(
                f"{what}, is not the name of a model on Hugging Face", hint=mend
            ) from None
        except SpecNotFoundError as error:
            raise HubError(
                f"{what}, is not here: {error.message}",
                hint=f"{mend}; or use a token that can read it",
            ) from error
        except AuthError as error:
            # A name that is wrong looks like one that may not be seen.
            hint = f"{error.hint}; or {mend}" if is_unknown(error) else error.hint
            raise AuthError(f"{what}, is not open: {error.message}", hint=hint) from error

    def _deliver(self, found: _Found, *, config_only: bool) -> ModelFiles:
        chosen = found.choose(config_only=config_only)
        model_id, sha = found.ref.id, found.info.sha
        folder, weights = self._download(model_id, sha, chosen)
        kind: Kind = "checkpoint"
        path = folder
        base = None
        if found.index is None:
            # Other files of the repository may lie in the same folder, brought there before.
            place = folder / chosen.first.path
            file = identify_file(place)
            kind = described_kind(file, f"hf:{model_id}/{one_line(chosen.first.path)}")
            if kind == "lora" and found.header is None and chosen.beside:
                _, more = self._download(model_id, sha, FileSelection(chosen.beside, ()))
                taught = (it for it in more if is_embedding(folder / it.path))
                weights = tuple(sorted((*weights, *taught), key=lambda it: it.path))
            if chosen.network is not None:
                path = folder / chosen.network
            elif kind == "single-file":
                path = place
            if found.base is not None:
                base = self._deliver(found.base, config_only=not needs_base_weights(file))
        return ModelFiles(
            ref=found.ref,
            kind=kind,
            path=path,
            card=found.card,
            weights=weights,
            url=self._downloads.asked(model_id).url,
            base=base,
            base_origin=found.base_origin,
            base_revision=found.base_revision,
            base_refusal=found.base_refusal,
            notes=found.notes,
        )

    def _outlined(self, found: _Found, *, config_only: bool) -> ModelOutline:
        chosen = found.choose(config_only=config_only)
        model_id, sha = found.ref.id, found.info.sha
        kind: Kind | None = "checkpoint"
        base = None
        if found.index is None:
            kind = None if found.file is None else described_kind(found.file, str(found.ref))
            if kind is None and chosen.first.path == LORA_NAME:
                kind = "lora"
        if found.base is not None:
            base = self._outlined(found.base, config_only=not found.takes_base_weights)
        return ModelOutline(
            ref=found.ref,
            kind=kind,
            card=found.card,
            pipeline=found.index,
            weights={file.path: file.sha256 for file in chosen.weights},
            missing=self._missing(model_id, sha, chosen),
            url=self._downloads.asked(model_id).url,
            base=base,
            base_origin=found.base_origin,
            base_refusal=found.base_refusal,
            notes=found.notes,
        )

    def _header(self, model_id: str, sha: str, file: RepoFile) -> Header | None:
        """The header of a weight file, by a request for its beginning; None where that fails.

        Then the whole file tells, once it is here. Raises WeightsFormatError for a file that is
        none of weights, and what the hub says where it gives out nothing at all.
        """
        name = f"hf:{model_id}/{one_line(file.path)}"

        def read(length: int) -> bytes:
            return self._downloads.beginning(model_id, file.path, sha, length=length)

        return header_from_ranges(read, file.size, name)

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
        self, model_id: str, sha: str, chosen: FileSelection
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
        inside = (*chosen.others, *chosen.weights)[0].path
        up = len(PurePosixPath(inside).parts) - 1
        if places:
            # A shard that nobody uploaded is missed before the others arrive.
            require_shards(f"hf:{model_id}", places[0].parents[up], chosen, None)
        weights = self._at_once(fetch_weights, chosen.weights)
        place = places[0] if places else fetch(chosen.first)
        return place.parents[up], tuple(weights)

    def _checked(self, model_id: str, file: RepoFile, place: Path) -> WeightFile:
        """The file's identity, from the bytes on this disk; they are what the hub says they are."""
        size = place.stat().st_size
        sha256 = self._digests.sha256(place.resolve())
        right = has_stated_digest(place) if file.sha256 is None else sha256 == file.sha256
        if not right or file.size not in (None, size):
            self._downloads.discard(place)
            raise self._downloads.wrong_bytes(model_id, file.path)
        return WeightFile(path=file.path, size=size, sha256=sha256)

    def _require_room(self, model_id: str, sha: str, chosen: FileSelection) -> None:
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

    def _missing(self, model_id: str, sha: str, chosen: FileSelection) -> int:
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


def _named(ref: ModelRef, chosen: FileSelection) -> ModelRef:
    """The model under its file's own name, where a pattern was given."""
    return dataclasses.replace(ref, file=chosen.first.path) if ref.is_pattern else ref


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


def _is_quantised(info: Any, card: ModelCard) -> bool:
    """Whether a repository says, or the hub says of it, that it is a copy with fewer bits."""
    if card.base_model_relation is not None:
        return card.base_model_relation == QUANTIZED
    tags = [tag for tag in info.tags or () if isinstance(tag, str)]
    return any(tag.startswith(f"base_model:{QUANTIZED}:") for tag in tags)


def _require_text_to_image(model_id: str, info: Any) -> None:
    """Raise HubError for a model of another task, where no pipeline says what it takes.

    One tag is the hub's own guess at the task, and a model of several may have another first.
    """
    task = info.pipeline_tag
    if isinstance(task, str) and task != _TASK and _TASK not in (info.tags or ()):
        raise HubError(
            f"hf:{model_id} is not a text-to-image model: the hub lists it under "
            f"{one_line(task, 60)}",
            hint="name a model that generates images from texts; if this is one, its author can "
            f"add the tag {_TASK} to the model card",
        )
