"""The registry: specifications that do not lie beside their models, in one dataset.

Beside the entries it holds an aggregated index and exported encoders, so that who only searches
needs neither torch nor weights::

    index/v1/...
    encoders/{architecture}/{weights tag}/{first 16 digits of the weights' SHA-256}/...

Only its maintainers write there: a proposal may change an entry, and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import RevisionNotFoundError

from gmi_registry.errors import (
    HubError,
    InputError,
    OfflineError,
    SpecNotFoundError,
)
from gmi_registry.hubs.access import HubAccess
from gmi_registry.hubs.huggingface.changes import ChangeStart
from gmi_registry.hubs.huggingface.client import ClientRequestCounter, offline_error
from gmi_registry.hubs.protocol import Destination, Listing
from gmi_registry.hubs.registry.dataset import Dataset, RecentHead
from gmi_registry.hubs.registry.entries import (
    ENTRY_FILES,
    RegistryCache,
    RegistryEntry,
    RegistryListing,
    entries_of,
    entry_file,
    entry_path,
    hub_folder,
    is_entry,
    model_folder,
    require_place,
    weights_ids,
)
from gmi_registry.hubs.registry.submission import change_files, read_verified
from gmi_registry.hubs.requests import OnWait
from gmi_registry.spec import (
    MANIFEST_NAME,
    PREVIEW_NAME,
    SIGNATURE_NAME,
    TENSORS_NAME,
    ModelRef,
)
from gmi_registry.spec.reference import HubName

_FOLDER = "encoders"
_DIGITS = 16
_MOST = 8
"""Weights of one name that are looked at: more than were ever published under one."""

INDEX_FOLDER = "index/v1"
"""Where the index lies, below the root of the dataset."""
_LARGEST = 2 * 1024**3
"""Bytes of a file whose size nothing has told yet."""
_MOST_OTHERS = 8
_log = logging.getLogger(__name__)


def encoder_path(name: str, pretrained: str, weights_sha256: str) -> str:
    """The folder of an encoder's export, below the root of the dataset."""
    return f"{_FOLDER}/{name}/{pretrained}/{weights_sha256[:_DIGITS]}"


def fetch_encoder_files(
    dataset: Dataset,
    name: str,
    pretrained: str,
    target: Path,
    *,
    limits: Mapping[str, int],
    accepts: Callable[[Path], bool],
) -> Path | None:
    """Put an export of the encoder ``name/pretrained`` into ``target``, all files or none.

    ``limits`` are the files and the most bytes of each. The first file of every export is shown to
    ``accepts`` in a folder of its own; the rest are fetched of the first that it accepts. None
    where there is no such export; the target where it is there already. Two requests, two or more
    a file, and nothing is sent but the name.

    Raises InputError where the target cannot be written, and as :class:`.Dataset`.
    """
    if target.exists():
        return target
    commit = dataset.head()
    folders = sorted(
        path
        for path, held in dataset.level(commit, f"{_FOLDER}/{name}/{pretrained}").items()
        if isinstance(held, str)
    )
    first = next(iter(limits))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that a rename is all that is left to do.
        with tempfile.TemporaryDirectory(prefix=".gmi-", dir=target.parent) as place:
            scratch = Path(place)
            source = dataset.in_cache(scratch / "hub")
            for folder in folders[:_MOST]:
                there = dataset.stored(commit, [f"{folder}/{name}" for name in limits])
                if len(there) < len(limits):
                    continue
                fresh = scratch / Path(folder).name
                fresh.mkdir()
                _take(source, f"{folder}/{first}", commit, fresh / first, limits[first])
                if not accepts(fresh):
                    continue
                for file in [file for file in limits if file != first]:
                    _take(source, f"{folder}/{file}", commit, fresh / file, limits[file])
                try:
                    fresh.rename(target)
                except OSError:
                    if not target.exists():  # else another search was quicker
                        raise
                return target
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="name another place: --cache-dir DIR",
        ) from error
    return None


def _take(dataset: Dataset, path: str, commit: str, target: Path, limit: int) -> None:
    # What is fetched is a link within the cache, which goes away: the file itself is moved.
    shutil.move(dataset.fetch(path, commit, limit=limit).resolve(), target)


class AggregateFiles:
    """The files of the index at one commit, each fetched when it is asked for, and kept.

    ``cache`` remembers at which commit each was fetched, so that one that stays the same is never
    asked for again.
    """

    def __init__(self, dataset: Dataset, commit: str, cache: RegistryCache) -> None:
        self.name = f"{dataset.id}@{commit[:7]}"
        self._dataset = dataset
        self._commit = commit
        self._cache = cache
        self._known = cache.index_commits()[1]

    def fetch(self, name: str, *, sha256: str | None = None, size: int | None = None) -> Path:
        """The file called ``name`` below :data:`INDEX_FOLDER`, of at most ``size`` bytes.

        With ``sha256`` the name stands for one content; who asks checks it. Raises
        SpecNotFoundError where the commit has no such file, and as :meth:`.Dataset.fetch`.
        """
        path = f"{INDEX_FOLDER}/{name}"
        limit = _LARGEST if size is None else size
        older = self._known.get(name) if sha256 is not None else None
        if older is not None:
            kept = self._dataset.cached(path, older)
            if kept is not None:
                return kept
        found = self._dataset.fetch(path, self._commit, limit=limit)
        self._known = self._known | ({} if sha256 is None else {name: self._commit})
        self._cache.keep_index_commits(self._commit, self._known)
        return found

    def has(self, name: str) -> bool:
        """Whether the file is on this disk, at this commit or an older one."""
        path = f"{INDEX_FOLDER}/{name}"
        commits = {self._commit, self._known.get(name, self._commit)}
        return any(self._dataset.cached(path, commit) is not None for commit in commits)


def push_aggregate(dataset: Dataset, files: Mapping[str, Path], *, create_pr: bool = False) -> str:
    """Make the index folder of the registry hold ``files``, by name, and nothing else.

    One commit, or one pull request; returns its address, or that of the folder where all is there
    already. Only what differs is sent. Raises as :meth:`.Registry.push_spec`.
    """

    def missing(revision: str) -> dict[str, bytes | Path | None]:
        there = dataset.tree(revision, INDEX_FOLDER)
        wanted = {f"{INDEX_FOLDER}/{name}": path for name, path in files.items()}
        gone: dict[str, bytes | Path | None] = {path: None for path in there if path not in wanted}
        new = {
            path: place
            for path, place in wanted.items()
            if path not in there or not there[path].holds(place)
        }
        return gone | new

    done = change_files(
        dataset,
        missing,
        title=f"Index: {len(files)} files",
        text="The aggregated index, by which a search asks for no model one by one.",
        create_pr=create_pr,
    )
    if isinstance(done, ChangeStart):
        return f"{dataset.url}/tree/{done.parent_commit}/{INDEX_FOLDER}"
    return done


class Registry:
    """The dataset ``repo_id`` (None: GMI_REGISTRY, else :data:`DEFAULT_REGISTRY`) at ``endpoint``.

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
        home = None if cache_dir is None else Path(cache_dir).expanduser().absolute()
        self.dataset = Dataset.named(
            repo_id, endpoint=endpoint, token=token, home=home, offline=self.offline
        )
        self._cache = RegistryCache(self.dataset.assets(home), self.dataset.id)
        self._settings: dict[str, Any] = {
            "endpoint": endpoint,
            "token": token,
            "cache_dir": cache_dir,
            "offline": offline,
        }
        self._listed: dict[HubName, RegistryListing] = {}
        self._head = RecentHead(self.dataset)

    @classmethod
    def open(cls, access: HubAccess) -> Registry:
        """The registry that ``access`` names, reached as it says."""
        return cls(
            access.registry,
            token=access.token,
            cache_dir=access.cache_dir,
            offline=access.offline,
        )

    def close(self) -> None:
        """Stop counting requests; the registry can still be used."""
        self.traffic.close()

    def __enter__(self) -> Self:
        self.traffic.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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
        from gmi_registry.hubs.registry.submission import may_submit

        folder = model_folder(ref)
        self._require_network(writing=True)
        way = may_submit(self.dataset, create_pr=create_pr)
        return Destination(f"{self.dataset.url}/tree/main/{folder}", way, "main")

    def open_proposals(self, ref: ModelRef) -> Iterator[tuple[str, Path]]:
        """The specifications of the model in this account's open pull requests, newest first.

        Addresses of the pull requests, and folders as of :meth:`fetch_spec`. One request for all,
        and for each two and those of the files.
        """
        from gmi_registry.hubs.registry.submission import own_pulls

        folder = model_folder(ref)
        self._require_network(writing=True)
        for address, revision in own_pulls(self.dataset):
            commit = self.dataset.head(revision)
            for entry in entries_of(self.dataset.tree(commit, folder), commit):
                if is_entry(ref) and entry.ref != ref:
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
        from gmi_registry.hubs.registry.submission import submit

        self._require_network(writing=True)
        return submit(self.dataset, ref, folder, create_pr=create_pr)

    def others(self) -> Iterator[Registry]:
        """Other registries of this hub that were listed on this machine, the latest first.

        A reference to an entry does not say in which registry it is, so where this one has none,
        one of those may. No request. At most eight; what is no registry any more is for their
        readers to find out.
        """
        for name in self._usual_cache().others()[:_MOST_OTHERS]:
            if name != self.dataset.id:
                with contextlib.suppress(InputError):
                    yield Registry(name, **self._settings)

    def _usual_cache(self) -> RegistryCache:
        """Where listings are kept that no ``cache_dir`` keeps apart."""
        return RegistryCache(self.dataset.assets(None), self.dataset.id)

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
            self._usual_cache().remember()
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
        if is_entry(ref):
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
