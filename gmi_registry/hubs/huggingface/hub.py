"""Hugging Face as a hub: reading models and specifications, and where publishing begins."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants, is_offline_mode
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    OfflineError,
    SpecNotFoundError,
)
from gmi_registry.filters import Filters
from gmi_registry.hubs.card import CARD_LIMIT, CARD_NAME, parse_card
from gmi_registry.hubs.files import FileDigests
from gmi_registry.hubs.huggingface.client import (
    ClientRequestCounter,
    CountsRequests,
    HubRequest,
    connect,
    offline_error,
    translated_errors,
)
from gmi_registry.hubs.huggingface.download import COMMIT, Downloads, assets_folder, download_folder
from gmi_registry.hubs.huggingface.listing import (
    MANIFEST,
    TENSORS,
    KnownModels,
    Names,
    base_reference,
    is_name,
    kept_elsewhere,
    list_models,
)
from gmi_registry.hubs.huggingface.models import Models, is_unknown, weight_files
from gmi_registry.hubs.protocol import (
    Destination,
    Listing,
    ModelOutline,
    bases_in,
    require_on_hub,
    with_base_names,
)
from gmi_registry.hubs.requests import OnWait
from gmi_registry.model import ModelCard, ModelFiles
from gmi_registry.spec import PREVIEW_NAME, SIGNATURE_NAME, SPEC_DIR, ModelRef
from gmi_registry.spec.canonical import MANIFEST_LIMIT, TENSORS_LIMIT
from gmi_registry.spec.files import PREVIEW_LIMIT, SIGNATURE_LIMIT

_log = logging.getLogger(__name__)

_MOST_ASKED = 64
_PREVIEW = f"{SPEC_DIR}/{PREVIEW_NAME}"
_SIGNATURE = f"{SPEC_DIR}/{SIGNATURE_NAME}"


class HuggingFaceHub(CountsRequests):
    """The hub at ``endpoint`` (None: HF_ENDPOINT, else Hugging Face), its models ``hf:owner/name``.

    ``token`` is by default the one that ``hf auth login`` or HF_TOKEN left. ``cache_dir`` stands in
    for HF_HOME: downloads lie in ``hub`` in it, the catalogue of listings in ``assets``; with None
    both are where huggingface_hub keeps its own. ``offline`` (None: HF_HUB_OFFLINE) makes no
    request: it lists what earlier listings named and this disk holds. ``workers`` are downloads at
    once. ``on_wait`` is told the seconds of every wait that the hub asks for.

    Its ``traffic`` counts requests from the first call until :meth:`close`. Costs: a listing is one
    request a page; a specification at a commit is two GET, and one more for each file that the hub
    keeps in a storage of its own, later none; a model's current weights are one request a commit,
    later none. Raises InputError for an endpoint that is no address, or fewer than one worker.
    """

    name = "hf"

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        offline: bool | None = None,
        workers: int = 8,
        *,
        on_wait: OnWait | None = None,
    ) -> None:
        if workers < 1:
            raise InputError(f"{workers} downloads at a time are too few", hint="use at least 1")
        self._api, self._asked = connect(endpoint, token)
        self.endpoint = self._asked.endpoint
        self.offline = is_offline_mode() if offline is None else offline
        self.traffic = ClientRequestCounter(on_wait)
        home = None if cache_dir is None else Path(cache_dir).expanduser().absolute()
        hub_cache = download_folder(home)
        assets = assets_folder(self._asked, "hf", home)
        self._downloads = Downloads(self._api, self._asked, hub_cache, offline=self.offline)
        self._known = KnownModels(self.endpoint, self._downloads, assets)
        self._names = Names(assets)
        self._models = Models(
            self._api,
            self._downloads,
            FileDigests(assets / "digests"),
            workers=workers,
            names=self._names,
        )
        self._workers = workers

    @property
    def catalogue_age(self) -> float | None:
        """Seconds since the last complete listing, on which an offline one rests; None: never."""
        return self._known.cache.age

    def list_specs(self, wanted: Filters) -> Iterator[Listing]:
        """The models tagged ``gmi-spec`` that pass the filter, by id, each at its current commit.

        All of them are listed, and the filter is applied here. What a tag does not tell, such as
        the kind, passes and is for the manifest. The whole listing is read before the first
        model is given, and kept; offline the kept one is given, at the newest commits whose two
        files are on this disk. ``has_spec`` is told from the names of the files, ``spec_digest`` is
        set where they are here, ``stale`` where :meth:`weight_digests` was asked at that commit
        before.
        """
        if self.offline:
            here = map(self._known.on_disk, self._known.models())
            entries = [entry for entry in here if entry is not None]
        else:
            self.traffic.open()
            entries = self._known.keep(list_models(self._api, self._asked))
            for entry in entries:
                self._names.learn(entry.id, entry.id)  # in case that it took a former name
        listings = [self._known.listing(entry) for entry in entries]
        named = with_base_names(wanted, self, lambda: bases_in(listings))
        return (listing for listing in listings if named.admits(listing.traits))

    def fetch_spec(self, ref: ModelRef) -> Path:
        """The folder ``gmi`` in huggingface_hub's cache, with the two files at one commit.

        They are links there, so read them with ``follow_links``; they lie in the cache, and are as
        large as a specification may be and as the hub says, before anything reads them. Costs at
        most four requests, and nothing where they are at hand. Raises SpecNotFoundError
        where the model, its revision or one of the files is not there, AuthError for a gated or
        private model, OfflineError, RateLimitError and HubError.
        """
        ref = self._begin(ref)
        revision = self._revision(ref)
        fetch = self._downloads.fetch_checked
        try:
            manifest = fetch(ref.id, MANIFEST, revision, limit=MANIFEST_LIMIT)
            # Both at the commit of the first, whatever is pushed in between.
            sha = manifest.parents[1].name
            fetch(ref.id, TENSORS, sha, limit=TENSORS_LIMIT)
        except SpecNotFoundError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
                raise
            raise SpecNotFoundError(
                f"{ref} has no specification: {error.message}",
                hint=f"gmi-publish {ref.without_revision}",
            ) from error
        return manifest.parent

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """The contact sheet; None where the model has none, or offline where it is not here."""
        ref = self._begin(ref)
        try:
            return self._downloads.fetch_checked(
                ref.id, _PREVIEW, self._revision(ref), limit=PREVIEW_LIMIT
            )
        except (SpecNotFoundError, OfflineError):
            return None

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """``gmi/spec.sig`` at the revision of ``ref``; None where there is none, or a larger file.

        Nothing in it is checked. Costs at most two requests. Raises as :meth:`fetch_spec`, and
        OfflineError where it is not here.
        """
        ref = self._begin(ref)
        fetch = self._downloads.fetch_checked
        try:
            return fetch(ref.id, _SIGNATURE, self._revision(ref), limit=SIGNATURE_LIMIT)
        except SpecNotFoundError as error:
            if isinstance(error.__cause__, RepositoryNotFoundError | RevisionNotFoundError):
                raise
            return None

    def fetch_card(self, ref: ModelRef) -> ModelCard:
        """The model's card, one that says nothing where there is none; no weights are read.

        Costs at most two requests. Raises HubError for a broken card, and otherwise as
        :meth:`fetch_spec`.
        """
        ref = self._begin(ref)
        try:
            place = self._downloads.fetch_checked(
                ref.id, CARD_NAME, self._revision(ref), limit=CARD_LIMIT
            )
        except SpecNotFoundError:
            content = b""
        else:
            content = place.read_bytes()
        return parse_card(content, ref.id.rpartition("/")[2], Path(ref.id) / CARD_NAME)

    def fetch_model(self, ref: ModelRef, base: ModelRef | None = None) -> ModelFiles:
        """What generation needs of the model, with its base model's where it needs one.

        A repository with ``model_index.json`` is a checkpoint: the configuration and one set of
        safetensors files of each component that it names. Another has one safetensors file at its
        root, or several of which ``ref`` names one: a LoRA or a whole model. Its base is ``base``
        where one is given, else ``base_model`` of the card (of several the first that is a
        diffusers folder, and for a quantised copy its original), else what the file's metadata say,
        else the usual one of such networks. Of a whole model's base only the configuration is
        fetched.
        Pickles, other variants and ``gmi`` are not.

        ``ref`` of the result has the full commit. Weights are hashed, and have the sizes and
        digests that the hub states. Raises SpecNotFoundError for an unknown model or revision,
        AuthError where it or its base may not be read, HubError for a broken card, no usable
        weights, too little room on the disk, a base that the file was not made for, or other bytes
        than the hub promised; InputError for a ``base`` of a model that is whole.
        """
        self._begin(ref)
        return self._models.fetch(ref, base)

    def fetch_configuration(self, ref: ModelRef) -> ModelFiles:
        """Like :meth:`fetch_model`, without weights: for a single file that brings its own."""
        self._begin(ref)
        return self._models.configuration(ref)

    def fetch_encoder(self, name: str, pretrained: str) -> Path | None:
        """None: this hub carries no encoders of its own, and open_clip knows where they are."""
        return None

    def weight_digests(self, ref: ModelRef) -> Mapping[str, str | None] | None:
        """Path to SHA-256 of the safetensors files that the model has at its revision.

        One request, and none for a commit that was requested before: a commit's files never
        change, so the answer is kept in the catalogue. A digest is None where the hub stores the
        file without one; the whole is None offline where it is not known.
        """
        self._begin(ref)
        revision = ref.revision
        if revision is not None and COMMIT.fullmatch(revision):
            for name in dict.fromkeys((ref.id, self._names.now(ref.id))):
                known = self._known.weights(name, revision)
                if known is not None:
                    return known
        if self.offline:
            return None
        info = self._models.info(ref.id, revision)
        files = weight_files(info)
        self._known.keep_weights(info.id, info.sha, files)
        return files

    def weights_beside(self, ref: ModelRef, folder: Path) -> Mapping[str, str | None] | None:
        """:meth:`weight_digests` at the commit of ``folder``, which :meth:`fetch_spec` gave."""
        commit = folder.parent.name
        pinned = replace(ref, revision=commit) if COMMIT.fullmatch(commit) else ref
        return self.weight_digests(pinned)

    def name_now(self, ref: ModelRef) -> ModelRef:
        """``ref`` under the name that the hub is known to have for it, without a request.

        It is known where the hub said so when it was asked about the model, this time or within a
        week; without a network, whenever that was.
        """
        self._begin(ref)
        told = self.traffic.moved(self.endpoint, "models", ref.id)
        if told is not None and is_name(told):
            self._names.learn(ref.id, told)
        if not (self.offline or self._names.knows(ref.id)):
            return ref
        now = self._names.now(ref.id)
        return ref if now == ref.id else replace(ref, id=now)

    def current(self, ref: ModelRef) -> ModelRef:
        """Likewise, asked of the hub: one request. Offline as :meth:`name_now`.

        Raises every error of the hub, SpecNotFoundError for a model that is not there.
        """
        self._begin(ref)
        if self.offline:
            return self.name_now(ref)
        return replace(ref, id=self._models.info(ref.id, None).id)

    def names_of_base(self, base: str, others: Iterable[str]) -> tuple[str, ...]:
        """What ``base``, a full name, is called now, and those of ``others`` that mean the same.

        A name that was renamed, or that is written in another case, means the present one; that of
        a base which its owner deleted means the copy. What is not known is asked, a request for a
        name, 64 names at most, and remembered for a week; where the hub cannot be asked the names
        that are known have to do, and the log says so.
        """
        wanted = self._named(base)
        if wanted is None:
            return ()
        answers = self._ask_names([wanted])
        wanted = self._meant(wanted)
        # Who renames keeps the owner, who transfers keeps the name; most others are other models.
        parts = {part.casefold() for part in (*base.split("/"), *wanted.split("/"))}
        others = sorted(
            set(others), key=lambda it: (parts.isdisjoint(it.casefold().split("/")), it)
        )
        ids = {other: self._named(other) or other for other in others}
        if answers:
            self._ask_names([name for name in ids.values() if is_name(name)])
        alike = [it for it in others if self._meant(ids[it]).casefold() == wanted.casefold()]
        return tuple(dict.fromkeys((wanted, *alike)))

    def _named(self, base: str) -> str | None:
        """The id in what a card calls a base, which may be an address; None for other words."""
        try:
            return base_reference(base, self.endpoint).id
        except InputError:
            return None

    def _meant(self, name: str) -> str:
        now = self._names.now(name)
        return kept_elsewhere(now) or now

    def _ask_names(self, names: list[str]) -> bool:
        """Whether the hub told, as far as it was asked, what it calls these now."""
        missing = [name for name in names if "/" in name and not self._names.knows(name)]
        if self.offline or not missing:
            return True
        self.traffic.open()

        def ask(name: str) -> None:
            try:
                found = str(self._models.info(name, None).id)
            except (SpecNotFoundError, AuthError):
                found = name
            self._names.learn(name, found, keep=True)

        if len(missing) > _MOST_ASKED:
            _log.warning(
                "%d base models were not checked for another present name",
                len(missing) - _MOST_ASKED,
            )
        try:
            with ThreadPoolExecutor(self._workers) as pool:
                for done in [pool.submit(ask, name) for name in missing[:_MOST_ASKED]]:
                    done.result()
        except HubError as error:
            _log.warning("base models are compared by their known names: %s", error.message)
            return False
        return True

    def base_weights(self, name: str) -> tuple[ModelRef, Mapping[str, str | None] | None]:
        """The base model that a card calls ``name``, as it is called now, and its weights.

        One request, and one more for a base that its owner deleted. Raises InputError for what is
        no name, and otherwise as :meth:`weight_digests`.
        """
        ref = base_reference(name, self.endpoint)
        elsewhere = kept_elsewhere(ref.id)
        try:
            weights = self.weight_digests(ref)
        except (SpecNotFoundError, AuthError) as error:
            if elsewhere is None or not is_unknown(error):
                raise
            ref = ModelRef("hf", elsewhere)
            weights = self.weight_digests(ref)
        return self.name_now(ref), weights

    def outline(self, ref: ModelRef, base: ModelRef | None = None) -> ModelOutline:
        """What :meth:`fetch_model` would give, with the base model's, before a weight is read.

        Raises all that it raises but for want of room or for other bytes. Costs one request for
        each model, one for each of its small files, and one or two for the beginning of a weight
        file; what is fetched afterwards at the commit that it states is not asked for again.
        """
        self._begin(ref)
        return self._models.outline(ref, base)

    def outline_configuration(self, ref: ModelRef) -> ModelOutline:
        """What :meth:`fetch_configuration` would give, in the same way."""
        self._begin(ref)
        return self._models.outline(ref, config_only=True)

    def check_writable(self, ref: ModelRef, *, create_pr: bool = False) -> Destination:
        """Where :meth:`push_spec` would put a specification, and how.

        Raises AuthError or HubError where it could not even propose one, or the hub would refuse
        the card; OfflineError without a network.
        """
        from gmi_registry.hubs.huggingface.publishing import check_push

        self._require_network(ref)
        return check_push(self._api, self.name_now(ref), create_pr=create_pr)

    def open_proposals(self, ref: ModelRef) -> Iterator[tuple[str, Path]]:
        """The specifications in this account's open pull requests to the model, newest first.

        Addresses and folders as of :meth:`fetch_spec`, which costs as much for each.
        """
        from gmi_registry.hubs.huggingface.changes import own_proposals

        self._require_network(ref)
        ref = self.name_now(ref)
        asked = self._writing(ref)
        with translated_errors(asked):
            user = self._api.whoami(cache=True).get("name")
        for address, revision in own_proposals(self._api, asked, str(user)):
            proposed = ModelRef("hf", ref.id, revision)
            with contextlib.suppress(SpecNotFoundError):
                folder = self.fetch_spec(proposed)
                self.fetch_preview(proposed)  # which then lies beside the two files
                yield address, folder

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
        """Commit the files of ``folder`` beside the model, or propose it; returns the address."""
        from gmi_registry.hubs.huggingface.publishing import push_spec

        self._require_network(ref)
        return push_spec(self._api, self.name_now(ref), folder, create_pr=create_pr)

    def _begin(self, ref: ModelRef) -> ModelRef:
        """``ref``, or without a network the name under which the model lies on this disk."""
        require_on_hub(ref, self.name)
        if not self.offline:
            self.traffic.open()
        elif not self._downloads.holds(ref.id):
            return replace(ref, id=self._names.now(ref.id))
        return ref

    def _require_network(self, ref: ModelRef) -> None:
        self._begin(ref)
        if self.offline:
            raise offline_error(self._writing(ref))

    def _writing(self, ref: ModelRef) -> HubRequest:
        return HubRequest(self.endpoint, self._asked.has_token, ref.id, ref.revision, writing=True)

    def _revision(self, ref: ModelRef) -> str:
        if ref.revision is None and self.offline:
            # Only what was requested by a branch's name is found under it in the cache.
            known = {entry.id: entry for entry in self._known.models()}.get(ref.id)
            here = None if known is None else self._known.on_disk(known)
            if here is not None:
                return here.sha
        return ref.revision or constants.DEFAULT_REVISION
