"""The registry: specifications that do not lie beside their models, in one dataset.

Beside the entries it holds an aggregated index and exported encoders, so that who only searches
needs neither torch nor weights::

    index/v1/...
    encoders/{architecture}/{weights tag}/{first 16 digits of the weights' SHA-256}/...

Only its maintainers write there: a proposal may change an entry, and nothing else.

Hugging Face together with a registry: what owners have not put beside their models.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import (
    RevisionNotFoundError,
)

from gmi_registry.errors import (
    GmiError,
    HubError,
    InputError,
    OfflineError,
    SpecNotFoundError,
)
from gmi_registry.filters import Filters
from gmi_registry.hubs.files import read_upload
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.huggingface.client import (
    ClientRequestCounter,
    CountsRequests,
    connect,
    offline_error,
)
from gmi_registry.hubs.huggingface.download import COMMIT, assets_folder, download_folder
from gmi_registry.hubs.huggingface.publishing import StoredFile
from gmi_registry.hubs.protocol import (
    Destination,
    Listing,
    bases_in,
    with_base_names,
)
from gmi_registry.hubs.registry.dataset import (
    REPO_TYPE,
    AggregateFiles,
    Dataset,
    RecentHead,
    change_files,
    dataset_named,
    may_submit,
    own_pulls,
    read_verified,
)
from gmi_registry.hubs.registry.entries import (
    ENTRY_FILES,
    VERIFIED_NAME,
    RegistryCache,
    RegistryEntry,
    RegistryListing,
    entries_of,
    entry_file,
    entry_of,
    entry_path,
    hub_folder,
    model_folder,
    require_place,
    weights_ids,
)
from gmi_registry.hubs.requests import OnWait
from gmi_registry.model import ModelFiles
from gmi_registry.sanitize import in_markdown
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    SPEC_DIR,
    TENSORS_NAME,
    ModelRef,
    read_manifest,
)
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.reference import HubName

_MOST_OTHERS = 8
_log = logging.getLogger(__name__)


class Registry(CountsRequests):
    """The dataset ``repo_id`` (None: the one that GMI_REGISTRY names) at ``endpoint``.

    Where nobody names one, ``id`` is None, and whatever asks the registry raises InputError.
    The rest is as for :class:`~gmi_registry.hubs.huggingface.HuggingFaceHub`. References to entries
    are pinned as :mod:`~gmi_registry.hubs.registry.entries` says: ``civitai:123@456``, and
    ``hf:owner/name@`` with the digest of the weights that are described, 64 hex digits, which is
    no revision of the model: ask a hub about ``ref.without_revision``.

    Costs: a listing is one request for the registry's commit, and where that has changed one a
    page and up to two for ``verified.json``; a specification is two GET, and one more for each file
    that the hub keeps in a storage of its own, later none; without a listing before it one or two
    more. Raises InputError for a name that is no dataset's, or an endpoint that is no address.
    """

    name = "registry"

    def __init__(
        self,
        repo_id: str | None = None,
        *,
        endpoint: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        offline: bool | None = None,
        on_wait: OnWait | None = None,
    ) -> None:
        self.offline = is_offline_mode() if offline is None else offline
        self.traffic = ClientRequestCounter(on_wait)
        self._home = None if cache_dir is None else Path(cache_dir).expanduser().absolute()
        self._api, self._asked = connect(endpoint, token)
        self.id = dataset_named(repo_id, self._asked.endpoint)
        self._cache = self._kept_in(self._home)
        self._settings: dict[str, Any] = {
            "endpoint": endpoint,
            "token": token,
            "cache_dir": cache_dir,
            "offline": offline,
        }
        self._listed: dict[HubName, RegistryListing] = {}

    @cached_property
    def dataset(self) -> Dataset:
        """Its files. Raises InputError where nobody named a registry."""
        if self.id is None:
            raise InputError(
                "no registry is named, and what does not lie beside its model lies in one",
                hint="name its dataset: --registry OWNER/NAME, or set GMI_REGISTRY",
            )
        asked = replace(self._asked, id=self.id, repo_type=REPO_TYPE)
        return Dataset(self._api, asked, download_folder(self._home), offline=self.offline)

    @cached_property
    def _head(self) -> RecentHead:
        return RecentHead(self.dataset)

    def listings(self, hub: HubName) -> Iterator[Listing]:
        """Every specification of a model on ``hub``, at the registry's present commit.

        A model of Hugging Face is listed once for each set of weights that was described, under
        references that differ in the digest after the ``@``. Which of them the model has today
        only its hub knows, by ``weight_digests``. ``tags`` are for the manifest to say. ``stamp``
        follows the content of ``spec.json``, wherever it is listed from; ``spec_digest`` is known
        where it is verified, or where the dataset keeps ``spec.json`` among its large files.

        Offline the last listing is given, as far as its files are on this disk.
        """
        if hub_folder(hub) is None:
            return iter(())
        listed = self._kept(hub) if self.offline else self._list(hub)
        entries = listed.entries
        if self.offline:
            entries = tuple(entry for entry in entries if self._is_here(entry))
        return (self._listing(entry, listed) for entry in entries)

    def fetch_spec(self, ref: ModelRef) -> Path:
        """The folder ``gmi`` in huggingface_hub's cache, with the two files of one commit.

        They are links there, as :meth:`.HuggingFaceHub.fetch_spec` makes them. A reference that is
        not pinned means the only entry of the model, and on Civitai the newest version of several.

        A model of Hugging Face may have been renamed since: where the registry has nothing for its
        name and these weights, an entry of the same weights under another name is the model's.

        Raises SpecNotFoundError where the registry has no such specification, or several of a model
        on Hugging Face; SpecFormatError for one that describes another version or other weights
        than its place says; AuthError, OfflineError, RateLimitError and HubError.
        """
        entry, commit = self._find(ref)
        try:
            return self._fetch(entry, commit)
        except SpecNotFoundError as error:
            if self.offline:
                raise
            # The registry's history may be cut: then its head has what an older commit had.
            if isinstance(error.__cause__, RevisionNotFoundError):
                return self._fetch(entry, self.head())
            renamed = self._renamed(self._list("hf"), entry) if entry.hub == "hf" else None
            if renamed is None:
                raise
            return self._fetch(renamed.ref, renamed.commit)

    def find_weights(self, own: Mapping[str, str | None]) -> ModelRef | None:
        """The first entry that describes the weights of a model of Hugging Face, under any name.

        ``own`` is path to SHA-256 (hex) of the model's weight files. Costs a listing.
        """
        ids = weights_ids(own)
        entries = (self._kept("hf") if self.offline else self._list("hf")).entries
        return next((entry.ref for entry in entries if entry.ref.revision in ids), None)

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """The contact sheet; None where there is none, or offline where it is not here."""
        return self._fetch_other(ref, PREVIEW_NAME)

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """Likewise ``spec.sig``, of the commit of the specification that :meth:`fetch_spec` gives
        after a listing; nothing in it is checked."""
        return self._fetch_other(ref, SIGNATURE_NAME)

    def check_writable(self, ref: ModelRef, *, create_pr: bool = True) -> Destination:
        """Where :meth:`push_spec` would put a specification, and how.

        Two to four requests. Raises AuthError or HubError where it could not even propose one;
        OfflineError without a network.
        """
        folder = model_folder(ref)
        self._require_network(writing=True)
        way = may_submit(self.dataset, create_pr=create_pr)
        return Destination(f"{self.dataset.url}/tree/main/{folder}", way, "main")

    def open_proposals(self, ref: ModelRef) -> Iterator[tuple[str, Path]]:
        """The specifications of the model in this account's open pull requests, newest first.

        Addresses of the pull requests, and folders as of :meth:`fetch_spec`. One request for all,
        and for each two and those of the files.
        """
        folder = model_folder(ref)
        self._require_network(writing=True)
        for address, revision in own_pulls(self.dataset):
            commit = self.dataset.head(revision)
            for entry in entries_of(self.dataset.tree(commit, folder), commit):
                if ref.is_entry and entry.ref != ref:
                    continue
                found = self._fetch(entry.ref, commit)
                with contextlib.suppress(SpecNotFoundError):  # it then lies beside the two files
                    path = entry_file(entry.ref, PREVIEW_NAME)
                    self.dataset.fetch(path, commit, limit=ENTRY_FILES[PREVIEW_NAME])
                yield address, found

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = True) -> str:
        """Propose the files of ``folder`` as the entry of their model, or commit them.

        Where they go follows from their manifest. Returns the address of the pull request or of the
        commit; where the registry has all of it, that of the entry.

        Raises InputError or SpecError for files that are no specification of ``ref``, and as
        :meth:`check_writable`; the registry then has its old entry, or the whole new one.
        """

        self._require_network(writing=True)
        return submit(self.dataset, ref, folder, create_pr=create_pr)

    def others(self) -> Iterator[Registry]:
        """Other registries of this hub that were listed on this machine, the latest first.

        A reference to an entry does not say in which registry it is, so where this one has none,
        one of those may. No request. At most eight; what is no registry any more is for their
        readers to find out.
        """
        for name in self._kept_in(None).others()[:_MOST_OTHERS]:
            if name != self.id:
                with contextlib.suppress(InputError):
                    yield Registry(name, **self._settings)

    def _kept_in(self, home: Path | None) -> RegistryCache:
        """What is kept below ``home``; None is where no ``cache_dir`` keeps it apart."""
        return RegistryCache(assets_folder(self._asked, "registry", home), self.id or "none")

    def head(self) -> str:
        """The commit that the registry stands at now: one request."""
        self._require_network()
        return self.dataset.head()

    def aggregate(self) -> AggregateFiles:
        """The files of the aggregated index at the present commit, offline at the last one seen.

        One request, or none where the registry was listed a moment ago; what it holds is found out
        by asking for it. Raises SpecNotFoundError or AuthError where there is no such registry,
        OfflineError where its index was never opened.
        """

        commit = self._cache.index_commits()[0] if self.offline else self._glance()
        if commit is None:
            raise offline_error(self.dataset.asked)
        return AggregateFiles(self.dataset, commit, self._cache)

    def _glance(self) -> str:
        self._require_network()
        return self._head.glance()

    def _list(self, hub: HubName) -> RegistryListing:
        commit = self._glance()
        known = self._cache.listed(hub)
        if known is None or known.commit != commit:
            entries = entries_of(self.dataset.tree(commit, hub_folder(hub)), commit)
            known = self._cache.keep(
                hub, RegistryListing(commit, tuple(entries), self._trusted(commit))
            )
            # The name alone: a later command, which knows nothing of cache_dir, may be given one
            # of the references that this one printed.
            self._kept_in(None).remember()
        self._listed[hub] = known
        return known

    def _trusted(self, commit: str) -> dict[str, str]:
        try:
            return dict(read_verified(self.dataset, commit).specs)
        except HubError as error:
            # The entries are there all the same, and lose nothing but their rank.
            _log.warning("nothing counts as verified: %s", error.message)
            return {}

    def _kept(self, hub: HubName) -> RegistryListing:
        if hub not in self._listed:
            listed = self._cache.listed(hub)
            if listed is None:
                raise offline_error(self.dataset.asked)
            self._listed[hub] = listed
        return self._listed[hub]

    def _is_here(self, entry: RegistryEntry) -> bool:
        return all(
            self.dataset.cached(entry_file(entry.ref, name), entry.commit)
            for name in (MANIFEST_NAME, TENSORS_NAME)
        )

    def _listing(self, entry: RegistryEntry, listed: RegistryListing) -> Listing:
        path = entry_path(entry.ref)
        return Listing(
            entry.ref,
            (),
            spec_digest=listed.digest(entry),
            url=f"{self.dataset.url}/tree/{listed.commit}/{path}",
            stamp=f"{self.dataset.url}/{path} {entry.manifest}",
            trust="verified" if listed.is_verified(entry) else "self-published",
        )

    def _find(self, ref: ModelRef) -> tuple[ModelRef, str]:
        """The entry that is meant, and a commit that has it."""
        folder = model_folder(ref)
        if self.offline:
            self._kept(ref.hub)
        listed = self._listed.get(ref.hub)
        if ref.is_entry:
            entry = ModelRef(ref.hub, ref.id, ref.revision)
            known = None if listed is None else listed.by_ref.get(entry)
            if known is None and listed is not None:
                known = self._renamed(listed, entry)
            return (entry, self.head()) if known is None else (known.ref, known.commit)
        if listed is not None:
            entries = [entry for entry in listed.entries if entry.ref.id == ref.id]
        else:
            commit = self.head()
            entries = entries_of(self.dataset.tree(commit, folder), commit)
        if not entries:
            raise self._none(ref)
        if len(entries) > 1 and ref.hub == "hf":
            names = " or ".join(str(entry.ref) for entry in entries[:3])
            raise SpecNotFoundError(
                f"{self.dataset.asked.name} has {len(entries)} specifications of {ref}, each of "
                "other weights",
                hint=f"name one: {names}",
            )
        return entries[-1].ref, entries[-1].commit

    def _renamed(self, listed: RegistryListing, ref: ModelRef) -> RegistryEntry | None:
        """An entry of the same weights under another name."""
        if ref.hub != "hf":
            return None
        return next((it for it in listed.entries if it.ref.revision == ref.revision), None)

    def _fetch(self, entry: ModelRef, commit: str) -> Path:
        try:
            manifest, _ = (
                self.dataset.fetch(entry_file(entry, name), commit, limit=ENTRY_FILES[name])
                for name in (MANIFEST_NAME, TENSORS_NAME)
            )
        except SpecNotFoundError as error:
            if isinstance(error.__cause__, RevisionNotFoundError):
                raise
            raise self._none(entry) from error
        require_place(manifest.read_bytes(), entry)
        return manifest.parent

    def _fetch_other(self, ref: ModelRef, name: str) -> Path | None:
        try:
            entry, commit = self._find(ref)
            return self.dataset.fetch(entry_file(entry, name), commit, limit=ENTRY_FILES[name])
        except (SpecNotFoundError, OfflineError):
            return None

    def _none(self, ref: ModelRef) -> SpecNotFoundError:
        return SpecNotFoundError(
            f"{self.dataset.asked.name} has no specification of {ref}",
            hint=f"gmi-publish {ref.without_revision if ref.hub == 'hf' else ref}",
        )

    def _require_network(self, *, writing: bool = False) -> None:
        if self.offline:
            raise offline_error(replace(self.dataset.asked, writing=writing))
        self.traffic.open()


class SupplementedHub(HuggingFaceHub):
    """Hugging Face, where models without a specification of their own have that of ``registry``.

    ``settings`` are those of :class:`.HuggingFaceHub`. A registry that is not there, or cannot be
    asked, leaves the hub as it is. Its entries are ``hf:owner/name@`` with the digest of the
    weights that they describe, and no revision of the model: where one is given to a method that is
    about a model, the model as it is now is meant. One request more a listing.
    """

    def __init__(self, registry: Registry, **settings: Any) -> None:
        super().__init__(**settings)
        self.registry = registry
        self._missed: set[str] = set()
        # They share a client, whose requests are counted once.
        registry.traffic = self.traffic

    def list_specs(self, wanted: Filters) -> Iterator[Listing]:
        """The hub's listing, then what the registry has of other models.

        Tags of the latter are in their manifests, which decide. A model that has a specification of
        its own is none of them, whether or not it passes. Of several entries of a model the one is
        listed whose weights it has today, and the last where nobody knows.
        """
        own = [replace(listing, trust="owner") for listing in super().list_specs(Filters())]
        described = {listing.ref.repository for listing in own if listing.has_spec}
        others: dict[ModelRef, list[Listing]] = {}
        for listing in self._listed():
            # A model that is known to have another name now is listed under that.
            if self.name_now(listing.ref).repository not in described:
                others.setdefault(listing.ref.repository, []).append(listing)
        named = with_base_names(wanted, self, lambda: bases_in(own))
        passing = [
            listing
            for listing in own
            if listing.ref.repository not in others and named.admits(listing.traits)
        ]
        return chain(passing, (self._current(each) for each in others.values()))

    def find_entry(self, ref: ModelRef) -> ModelRef | None:
        """The registry's entry of a model as the hub has it now; None where there is none.

        Where none has the model's name, one of the same weights is the model's, which was renamed.
        A registry that cannot be asked has none.
        """
        if ref.revision is not None or self.registry.id is None:
            return None
        entries = [item for item in self._listed() if item.ref.repository == ref.repository]
        if entries:
            return replace(self._current(entries).ref, file=ref.file)
        try:
            own = self.weight_digests(ref)
            return self.registry.find_weights(own) if own else None
        except GmiError as error:
            _log.info("%s: the registry is left out: %s", ref, error.message)
            return None

    def fetch_spec(self, ref: ModelRef) -> Path:
        """Beside the model, or out of the registry where ``ref`` is one of its entries."""
        return self.registry.fetch_spec(ref) if _is_entry(ref) else super().fetch_spec(ref)

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """Likewise."""
        return self.registry.fetch_preview(ref) if _is_entry(ref) else super().fetch_preview(ref)

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """Likewise; nothing in it is checked."""
        if _is_entry(ref):
            return self.registry.fetch_signature(ref)
        return super().fetch_signature(ref)

    def fetch_model(self, ref: ModelRef, base: ModelRef | None = None) -> ModelFiles:
        """As :meth:`.HuggingFaceHub.fetch_model`; of an entry the model as it is now.

        Raises HubError where the weights that an entry names are no longer the model's.
        """
        model = super().fetch_model(_model(ref), base)
        weights = sorted((weight.path, weight.sha256) for weight in model.weights)
        if _is_entry(ref) and canonical_digest([list(it) for it in weights]) != ref.revision:
            raise HubError(
                f"{ref.without_revision} has other weights now than those of {ref}",
                hint=f"name the model as it is: {ref.without_revision}",
            )
        return model

    def weight_digests(self, ref: ModelRef) -> Mapping[str, str | None] | None:
        """As :meth:`.HuggingFaceHub.weight_digests`."""
        return super().weight_digests(_model(ref))

    def weights_beside(self, ref: ModelRef, folder: Path) -> Mapping[str, str | None] | None:
        """As :meth:`.HuggingFaceHub.weights_beside`."""
        return self.weight_digests(ref) if _is_entry(ref) else super().weights_beside(ref, folder)

    def check_writable(self, ref: ModelRef, *, create_pr: bool = False) -> Destination:
        """As :meth:`.HuggingFaceHub.check_writable`."""
        return super().check_writable(_model(ref), create_pr=create_pr)

    def open_proposals(self, ref: ModelRef) -> Iterator[tuple[str, Path]]:
        """As :meth:`.HuggingFaceHub.open_proposals`."""
        return super().open_proposals(_model(ref))

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
        """Beside the model, as :meth:`.HuggingFaceHub.push_spec`."""
        return super().push_spec(_model(ref), folder, create_pr=create_pr)

    def _listed(self) -> list[Listing]:
        name = self.registry.id
        if name is None:
            return []
        try:
            return list(self.registry.listings("hf"))
        except GmiError as error:
            if name not in self._missed:
                _log.warning("searching without the registry %s: %s", name, error.message)
                self._missed.add(name)
            return []

    def _current(self, listings: list[Listing]) -> Listing:
        """Of the entries of one model that of the weights which it has today, else the last."""
        if len(listings) == 1:
            return listings[0]
        now = None
        with contextlib.suppress(GmiError):
            now = self.weight_digests(listings[0].ref)
        for listing in listings if now else ():
            with contextlib.suppress(GmiError):
                folder = self.registry.fetch_spec(listing.ref).parent
                weights = read_manifest(folder, follow_links=True).model.weights
                if now and all(now.get(weight.path) == weight.sha256 for weight in weights):
                    return listing
        return listings[-1]


def _is_entry(ref: ModelRef) -> bool:
    # Listed or not: no commit has 64 digits.
    return ref.hub == "hf" and ref.is_entry


def _model(ref: ModelRef) -> ModelRef:
    """The model itself, where ``ref`` is an entry of it."""
    return ref.without_revision if _is_entry(ref) else ref


def submit(dataset: Dataset, ref: ModelRef, folder: Path, *, create_pr: bool) -> str:
    """Propose or commit ``folder`` as an entry, as :meth:`.Registry.push_spec` says."""
    manifest, contents = read_upload(folder, ref)
    entry = entry_of(manifest.model)
    if ref.is_entry and ref.revision != entry.revision:
        raise InputError(
            f"{folder} describes {entry}, not {ref}", hint=f"gmi-publish {ref} --to registry"
        )
    wanted = {entry_file(entry, name): contents.get(name) for name in ENTRY_FILES}
    signature = contents.get(SIGNATURE_NAME)

    def missing(revision: str) -> Mapping[str, bytes | None]:
        files = dataset.stored(revision, list(wanted))
        found = {path: new for path, new in wanted.items() if not _is_so(files.get(path), new)}
        if entry_file(entry, MANIFEST_NAME) not in found and signature is None:
            # Of the same specification, so it holds.
            found.pop(entry_file(entry, SIGNATURE_NAME), None)
        return found

    tool = in_markdown(f"Made by {manifest.tool.name} {manifest.tool.version}.")
    replaces = "" if manifest.previous is None else f" It replaces {manifest.previous[:12]}."
    return change_files(
        dataset,
        missing,
        title=f"Specification of {entry.repository}",
        text=f"`{entry_path(entry)}`: {in_markdown(manifest.model.title)}.{replaces} {tool}",
        there=f"tree/{{commit}}/{entry_path(entry)}/{SPEC_DIR}",
        create_pr=create_pr,
    )


def mark_verified(
    dataset: Dataset, entry: ModelRef, manifest: bytes, *, create_pr: bool = False
) -> str:
    """Add the specification whose ``spec.json`` is ``manifest`` to ``verified.json``.

    Returns the address of the commit or the pull request, or of the file where it says so already.
    Raises HubError where what is there cannot be understood, and as :meth:`.Registry.push_spec`.
    """

    def missing(revision: str) -> Mapping[str, bytes | None]:
        commit = revision if COMMIT.fullmatch(revision) else dataset.head(revision)
        before = read_verified(dataset, commit)
        after = before.with_spec(manifest)
        return {} if before == after else {VERIFIED_NAME: after.to_bytes()}

    return change_files(
        dataset,
        missing,
        title=f"Verified: {entry.repository}",
        text=f"Images of `{entry_path(entry)}` were generated again, and match their description.",
        there=f"blob/{{commit}}/{VERIFIED_NAME}",
        create_pr=create_pr,
    )


def _is_so(stored: StoredFile | None, wanted: bytes | None) -> bool:
    return stored is None if wanted is None else stored is not None and stored.holds(wanted)
