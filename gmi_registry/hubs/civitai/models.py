"""The version of a Civitai model that a person means, and its files with the base model's."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from gmi_registry.bases import (
    BaseFamily,
    base_named,
    require_repository,
)
from gmi_registry.errors import AuthError, HubError, InputError, SpecNotFoundError
from gmi_registry.hubs.civitai.client import CivitaiClient
from gmi_registry.hubs.civitai.documents import (
    FORMAT_TITLES,
    WireFile,
    WireModel,
    WireVersion,
    card_of,
    digests_of,
    format_named,
    is_part,
    kind_of,
    not_described,
    select_file,
)
from gmi_registry.hubs.civitai.download import Downloads
from gmi_registry.hubs.files import FileDigests
from gmi_registry.hubs.protocol import Hub, ModelOutline, Outlines
from gmi_registry.model import BaseOrigin, Kind, ModelFiles
from gmi_registry.spec import ModelRef
from gmi_registry.spec.address import Address, read_address

if TYPE_CHECKING:
    from gmi_registry.weights import Header

_FORMS = (
    "write civitai:MODEL@VERSION, the address of the model's page, its AIR, or a .safetensors file"
)


def find_civitai(
    text: str, client: CivitaiClient, *, digests: FileDigests | None = None
) -> ModelRef:
    """The version that ``text`` names, its number always filled in, and looked up.

    ``text`` is ``civitai:MODEL`` or ``civitai:MODEL@VERSION``, an AIR, the address of a model's or
    version's page, or a weights file on this disk, which is looked up by its SHA-256 (``digests``
    remembers it). Without a version it is the one that was published last. One request.

    Raises InputError for what is none of these; SpecNotFoundError where Civitai has no such model,
    version or file, or the version is another model's; HubError where several versions hold the
    file, which it names; and every other error of the hub.
    """
    named = named_model(text, client)
    if named is not None and named.model is not None:
        return _resolved(named.model, client)
    if named is not None and named.version is not None:
        found = client.version(named.version)
        return ModelRef("civitai", str(found.model_id), str(found.id))
    place = _file(text)
    if place is not None:
        return _of_file(place, client, digests)
    raise InputError(f"{text[:120]!r} is neither a model on Civitai nor a file", hint=_FORMS)


def named_model(text: str, client: CivitaiClient) -> Address | None:
    """What the text alone tells: a model, and its version where that is named; or a version.

    None where only Civitai can tell, as for a file. Raises InputError for a name or an address that
    is not one of Civitai's.
    """
    named = read_address(text, "civitai", [("civitai", client.endpoint)])
    if named is not None and named.hub != "civitai":
        raise InputError(f"{named.model} is not a model on Civitai", hint=_FORMS)
    return named


def newest_version(model: WireModel, client: CivitaiClient) -> WireVersion:
    """The one that was published last. Raises SpecNotFoundError where none is."""
    published = [item for item in model.model_versions if item.status in (None, "Published")]
    if not published:
        asked = client.asked(ModelRef("civitai", str(model.id)))
        raise SpecNotFoundError(f"{asked.name} has no published version", hint=f"see {asked.page}")
    return max(
        published,
        key=lambda item: (
            0.0 if item.published_at is None else item.published_at.timestamp(),
            item.id,
        ),
    )


def require_version(ref: ModelRef, version: WireVersion, client: CivitaiClient) -> None:
    """Raises SpecNotFoundError unless ``version`` is one of the model that ``ref`` names."""
    if str(version.model_id) != ref.id:
        actual = ModelRef("civitai", str(version.model_id), str(version.id))
        raise SpecNotFoundError(
            f"{ref.without_revision} has no version {version.id}, which is {actual}",
            hint=f"use that name, or see {client.page_of(ref.without_revision)}",
        )


def _resolved(ref: ModelRef, client: CivitaiClient) -> ModelRef:
    if ref.revision is None:
        newest = newest_version(client.model(ref.id), client)
        return ModelRef("civitai", ref.id, str(newest.id))
    require_version(ref, client.version(ref.revision, of=ref), client)
    return ref


def _file(text: str) -> Path | None:
    try:
        place = Path(text).expanduser()
        return place if place.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name too long, an account that is not there
        return None


def _of_file(place: Path, client: CivitaiClient, digests: FileDigests | None) -> ModelRef:
    kind = format_named(place.name)
    if kind not in (None, "safetensors", "gguf"):
        danger = ", which can run any program when it is opened" if kind == "pickle" else ""
        raise InputError(
            f"{place} is {FORMAT_TITLES[str(kind)]}{danger}",
            hint="name the model's safetensors or GGUF file, or its page",
        )
    sha256 = _digest(place) if digests is None else digests.sha256(place)
    found = client.versions_with([sha256])
    refs = [ModelRef("civitai", str(item.model_id), str(item.id)) for item in found]
    # What it answers is not taken at its word.
    holding = [
        ref
        for ref, item in zip(refs, found, strict=True)
        if any(file.sha256 == sha256 for file in item.files)
    ]
    if not holding:
        raise SpecNotFoundError(
            f"Civitai knows no file with the SHA-256 of {place} ({sha256[:16]}…)",
            hint="name the model: civitai:MODEL@VERSION",
        )
    if len(holding) > 1:
        names = ", ".join(map(str, holding[:10]))
        more = f" and {len(holding) - 10} more" if len(holding) > 10 else ""
        raise HubError(
            f"{len(holding)} versions hold the file {place}: {names}{more}",
            hint=f"name one of them: gmi-publish {holding[0]}",
        )
    return holding[0]


def _digest(place: Path) -> str:
    try:
        with place.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or error}") from error


@runtime_checkable
class GivesConfigurations(Protocol):
    """A hub of base models that can leave out the weights where a single file brings its own."""

    def fetch_configuration(self, ref: ModelRef) -> ModelFiles:
        """Like ``fetch_model``, without weights."""
        ...


@runtime_checkable
class OutlinesConfigurations(Protocol):
    """A hub of base models that tells what :class:`GivesConfigurations` would fetch."""

    def outline_configuration(self, ref: ModelRef) -> ModelOutline:
        """Like ``outline``, without weights."""
        ...


@dataclass(frozen=True)
class _Chosen:
    """A version, the file of it that is meant, and its base model on Hugging Face.

    ``family`` is what Civitai's name for the base stands for; None where ``base`` was named by
    whoever publishes. ``header`` is the file's, None where the storage does not give it out before
    the whole file; ``notes`` are on what it says of the base.
    """

    model: WireModel
    version: WireVersion
    kind: Kind
    file: WireFile
    base: ModelRef
    family: BaseFamily | None
    header: Header | None = None
    notes: tuple[str, ...] = ()

    @property
    def origin(self) -> BaseOrigin:
        return "option" if self.family is None else "card"

    @property
    def config_only(self) -> bool:
        """Whether the file brings a whole model, so that the base's configuration is enough."""
        if self.header is None:
            return self.kind == "single-file" and not is_part(self.file)
        from gmi_registry.hubs.weights import needs_base_weights
        from gmi_registry.weights import identify

        return not needs_base_weights(identify(self.header))


class Models:
    """Fetches versions through ``downloads``.

    Their bases are on ``bases`` (None: Hugging Face, which keeps them in ``cache_dir``).
    """

    def __init__(
        self,
        client: CivitaiClient,
        downloads: Downloads,
        bases: Hub | None,
        cache_dir: Path | None = None,
    ) -> None:
        self._client = client
        self._downloads = downloads
        self._bases = bases
        self._cache_dir = cache_dir
        self._opened = False
        self._outlined: dict[tuple[ModelRef, ModelRef | None], _Chosen] = {}

    def close(self) -> None:
        """Close the hub of the bases where it was opened here."""
        close = getattr(self._bases, "close", None)
        if self._opened and close is not None:
            close()

    def documents(self, ref: ModelRef) -> tuple[WireModel, WireVersion]:
        """The model and its version as Civitai describes them now: two requests.

        Raises SpecNotFoundError where one is not there or the version is another model's.
        """
        version = self._client.version(str(ref.revision), of=ref)
        require_version(ref, version, self._client)
        return self._client.model(ref.id), version

    def weights(self, ref: ModelRef) -> Mapping[str, str | None] | None:
        """Path to SHA-256 of what the version has now, nothing where it is gone: one request.

        None where Civitai shows no file of it, as of a model that is archived.
        """
        try:
            version = self._client.version(str(ref.revision), of=ref)
            require_version(ref, version, self._client)
        except SpecNotFoundError:
            return {}
        return digests_of(version) if version.files else None

    def fetch(
        self, ref: ModelRef, named: ModelRef | None = None
    ) -> tuple[ModelFiles, Mapping[str, str | None]]:
        """The version as :meth:`.CivitaiHub.fetch_model` says, and the digests of all its files."""
        chosen = self._outlined.pop((ref, named), None) or self._choose(ref, named)
        # Either may be refused, so the small one comes first: an adapter, or a configuration.
        if not chosen.config_only:
            place, weights = self._downloads.fetch(ref, chosen.file, chosen.kind)
            chosen = self._told_by_file(ref, chosen, place)
            base = self._base(ref, chosen)
        else:
            base = self._base(ref, chosen)
            place, weights = self._downloads.fetch(ref, chosen.file, chosen.kind)
            told = self._told_by_file(ref, chosen, place)
            if (told.base, told.config_only) != (chosen.base, chosen.config_only):
                base = self._base(ref, told)
            chosen = told
        files = ModelFiles(
            ref=ref,
            kind=chosen.kind,
            path=place if chosen.kind == "single-file" else place.parent,
            card=card_of(chosen.model, chosen.version),
            weights=(weights,),
            url=self._client.page_of(ref),
            base=base,
            base_origin=chosen.origin,
            base_revision=None if named is None else named.revision,
            notes=chosen.notes,
        )
        return files, digests_of(chosen.version)

    def outline(self, ref: ModelRef, named: ModelRef | None = None) -> ModelOutline:
        """The version and its base as :meth:`.CivitaiHub.outline` says.

        A :meth:`fetch` that follows asks for neither again.
        """
        chosen = self._choose(ref, named)
        base, bases = None, self._base_hub()
        if isinstance(bases, Outlines):
            with _explained(ref, chosen):
                if chosen.config_only and isinstance(bases, OutlinesConfigurations):
                    base = bases.outline_configuration(chosen.base)
                else:
                    base = bases.outline(chosen.base)
            chosen = replace(chosen, base=base.ref)
        self._outlined[ref, named] = chosen
        return ModelOutline(
            ref=ref,
            kind=chosen.kind,
            card=card_of(chosen.model, chosen.version),
            pipeline=None,
            weights={chosen.file.path: chosen.file.sha256},
            missing=self._downloads.missing(ref, chosen.file),
            url=self._client.page_of(ref),
            base=base,
            base_origin=chosen.origin,
        )

    def _choose(self, ref: ModelRef, base: ModelRef | None) -> _Chosen:
        """What is meant, as Civitai describes it now. Raises for all that cannot be described."""
        asked = self._client.asked(ref)
        model, version = self.documents(ref)
        kind = kind_of(model.type)
        if kind is None:
            raise not_described(model.type, str(ref))
        if version.usage_control not in (None, "Download"):
            raise HubError(
                f"{ref}: its author does not allow downloads, and only Civitai may use it",
                hint=f"see {asked.page}",
            )
        file = select_file(version, asked, kind)
        family = None
        if base is None:
            family = base_named(version.base_model, str(ref))
            base = _repository(family, kind == "single-file", str(ref))
        elif base.hub != "hf":
            raise InputError(
                f"{base} cannot be the base of a model on Civitai: a base there is on Hugging Face",
                hint="write --base owner/name",
            )
        chosen = _Chosen(model, version, kind, file, base, family)
        header = self._downloads.header(ref, file)
        return chosen if header is None else _told(ref, chosen, header)

    def _told_by_file(self, ref: ModelRef, chosen: _Chosen, place: Path) -> _Chosen:
        """``chosen`` as its whole file has it, where that was not known before."""
        from gmi_registry.weights import read_header

        return chosen if chosen.header is not None else _told(ref, chosen, read_header(place))

    def _base(self, ref: ModelRef, chosen: _Chosen) -> ModelFiles:
        bases = self._base_hub()
        with _explained(ref, chosen):
            if chosen.config_only and isinstance(bases, GivesConfigurations):
                return bases.fetch_configuration(chosen.base)
            return bases.fetch_model(chosen.base)

    def _base_hub(self) -> Hub:
        if self._bases is None:
            # Half a second to import, which listing and searching can do without.
            from gmi_registry.hubs.huggingface import HuggingFaceHub

            self._bases = HuggingFaceHub(cache_dir=self._cache_dir, offline=self._client.offline)
            self._opened = True
        return self._bases


def _repository(family: BaseFamily, whole: bool, what: str) -> ModelRef:
    repository = require_repository(family, what)
    return ModelRef("hf", family.layout or repository if whole else repository)


def _told(ref: ModelRef, chosen: _Chosen, header: Header) -> _Chosen:
    """``chosen`` with what its file is, and the base that the file leaves of Civitai's name.

    Raises HubError where no specification can be made of the file, or where it was made for another
    base.
    """
    from gmi_registry.bases import require_made_for
    from gmi_registry.hubs.weights import described_kind
    from gmi_registry.weights import identify

    file = identify(header)
    chosen = replace(chosen, kind=described_kind(file, str(ref)), header=header)
    family = chosen.family
    if family is None:
        return chosen
    named = f"Civitai files it under {chosen.version.base_model}, which"
    kinds = () if family.architecture is None else (family.architecture,)
    require_made_for(str(ref), file, header.metadata, named, kinds)
    sister = family.with_prediction(file.prediction_type)
    base = _repository(sister, chosen.config_only, str(ref))
    if base.id == chosen.base.id:
        base = chosen.base
    notes: tuple[str, ...] = ()
    if sister is not family and base.id != _repository(family, chosen.config_only, str(ref)).id:
        notes = (
            f"{ref}: its file says v-prediction, so its base is {sister.title}, {base.id}, of what "
            f"Civitai calls {chosen.version.base_model}",
        )
    elif family.caution is not None and file.prediction_type is None:
        notes = (family.caution,)
    return replace(chosen, base=base, family=sister, notes=notes)


@contextmanager
def _explained(ref: ModelRef, chosen: _Chosen) -> Iterator[None]:
    """Errors about a base model in words that say whose base it is."""
    named = chosen.version.base_model if chosen.family is not None else chosen.base.id
    try:
        yield
    except AuthError as error:
        raise AuthError(
            f"the base model of {ref}, {named}, is not open: {error.message}", hint=error.hint
        ) from error
    except SpecNotFoundError as error:
        raise HubError(
            f"the base model of {ref}, {named}, is not here: {error.message}",
            hint=error.hint,
        ) from error
