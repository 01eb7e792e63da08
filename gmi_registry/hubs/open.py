"""Which hub, model or specification a person means by a few words, and how a hub is reached."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, overload, runtime_checkable

from gmi_registry.errors import AuthError, GmiError, InputError, SpecNotFoundError

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub, SearchableHub
    from gmi_registry.hubs.registry import Registry
    from gmi_registry.spec import ModelRef, OwnWeights, Spec
    from gmi_registry.spec.address import Address
    from gmi_registry.spec.files import Links
    from gmi_registry.spec.reference import HubName


@dataclass(frozen=True)
class HubAccess:
    """What a hub that this package opens is told; one that is open already has its own.

    ``cache_dir`` is where the hub keeps what it downloads and works out (None: its usual place).
    ``token`` is for Hugging Face (None: the one that ``hf auth login`` or HF_TOKEN left; False:
    none). With ``offline`` no request is made (None: what HF_HUB_OFFLINE says). ``registry`` is
    the dataset of specifications that do not lie beside their models (None: GMI_REGISTRY, else
    none). ``civitai_token`` is for Civitai (None: CIVITAI_TOKEN). No token is ever printed.
    """

    cache_dir: Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    offline: bool | None = None
    registry: str | None = None
    civitai_token: str | None = field(default=None, repr=False)


DEFAULT_HUB = "hf"
"""The hub that is meant where neither the caller nor GMI_HUB names one."""

_CIVITAI = "civitai"
_PREFIX = "local:"


@runtime_checkable
class Closable(Protocol):
    """A hub that holds something while it is open."""

    def close(self) -> None: ...


@overload
def open_hub(name: str | Path | Hub | None = None, access: HubAccess | None = None) -> Hub: ...
@overload
def open_hub(
    name: str | Path | SearchableHub | None, access: HubAccess | None
) -> SearchableHub: ...
def open_hub(
    name: str | Path | SearchableHub | None = None, access: HubAccess | None = None
) -> SearchableHub:
    """The hub called ``name`` (None: GMI_HUB, else Hugging Face), or ``name`` itself if it is one.

    ``hf`` is Hugging Face, or the hub that HF_ENDPOINT names. ``civitai`` is Civitai, or what
    CIVITAI_ENDPOINT names. What is not beside its model, as nothing of Civitai's is, comes from the
    registry on Hugging Face. Anything else is a folder with ``hub.json``, plain or after
    ``local:``; a folder of such a name is ``./hf``, or a Path. ``access`` is for a hub that is
    opened here (None: all as is usual). Raises InputError or HubError where there is no such hub.
    """
    if name is None:
        name = os.environ.get("GMI_HUB") or DEFAULT_HUB
    if not isinstance(name, str | Path):
        return name
    access = access or HubAccess()
    if name == DEFAULT_HUB:
        # Half a second to import, which a folder can do without.
        from gmi_registry.hubs.registry.registry import SupplementedHub

        return SupplementedHub(open_registry(access), **_huggingface(access))
    if name == _CIVITAI:
        from gmi_registry.hubs.civitai import CivitaiHub
        from gmi_registry.hubs.huggingface import HuggingFaceHub

        return CivitaiHub(
            open_registry(access),
            token=access.civitai_token,
            cache_dir=access.cache_dir,
            offline=access.offline,
            bases=HuggingFaceHub(**_huggingface(access)),
        )
    from gmi_registry.hubs.local import LocalHub

    folder = name if isinstance(name, Path) else Path(name.removeprefix(_PREFIX))
    return LocalHub(folder.expanduser(), access.cache_dir)


def open_registry(access: HubAccess) -> Registry:
    """The registry that ``access`` names, reached as it says. Raises as :class:`.Registry`."""
    from gmi_registry.hubs.registry import Registry

    return Registry(access.registry, **_huggingface(access))


def _huggingface(access: HubAccess) -> dict[str, Any]:
    return {"token": access.token, "cache_dir": access.cache_dir, "offline": access.offline}


@overload
def opened_hub(
    name: str | Path | Hub | None = None, access: HubAccess | None = None
) -> AbstractContextManager[Hub]: ...
@overload
def opened_hub(
    name: str | Path | SearchableHub | None, access: HubAccess | None = None
) -> AbstractContextManager[SearchableHub]: ...
@contextmanager
def opened_hub(
    name: str | Path | SearchableHub | None = None, access: HubAccess | None = None
) -> Iterator[Any]:
    """Like :func:`open_hub`, closed at the end of the block unless it was open before."""
    opened = open_hub(name, access)
    try:
        yield opened
    finally:
        if opened is not name and isinstance(opened, Closable):
            opened.close()


_log = logging.getLogger(__name__)

_TITLES: dict[HubName, str] = {"hf": "Hugging Face", "civitai": "Civitai", "local": "a folder"}
_HUB_OPTIONS: dict[HubName, str] = {"hf": "hf", "civitai": "civitai", "local": "FOLDER"}


@runtime_checkable
class FindsModels(Protocol):
    """A hub whose models people name in ways of its own."""

    def find(self, text: str) -> ModelRef: ...


@runtime_checkable
class Supplemented(Protocol):
    """A hub whose models may have their specification in a registry instead of beside them."""

    def find_entry(self, ref: ModelRef) -> ModelRef | None: ...


@runtime_checkable
class HasOthers(Protocol):
    """A registry that knows which other ones were read on this machine."""

    def others(self) -> Iterator[Registry]: ...


@dataclass(frozen=True)
class SpecFolder:
    """A folder that should hold ``gmi/``, as the readers of :mod:`gmi_registry.spec` want it.

    ``expected`` is the model that it should describe, where the person named one; ``weights`` are
    that model's own, asked for where the specification names another one; ``called`` is what the
    hub calls the model now, where that is another name than the person's. ``registry`` is the
    dataset that it lies in where that is another one than is usual here.
    """

    folder: Path
    expected: ModelRef | None = None
    follow_links: Links = False
    weights: Mapping[str, str | None] | None = None
    called: ModelRef | None = None
    registry: str | None = None

    @property
    def model(self) -> ModelRef | None:
        """The model under its present name, where it is on a hub."""
        return self.called or self.expected

    @property
    def own_weights(self) -> OwnWeights:
        """``weights``, as the readers ask for them."""
        return lambda: self.weights

    def read(self) -> Spec:
        """The specification. Raises as :func:`~gmi_registry.spec.read_spec`."""
        from gmi_registry.spec import read_spec

        return read_spec(
            self.folder,
            expected=self.expected,
            own_weights=self.own_weights,
            follow_links=self.follow_links,
        )


def hub_named_in(text: str) -> str | None:
    """The hub across a network that a model's name or address leaves no doubt of, else None."""
    try:
        named = _read(text, None, endpoints())
    except InputError:
        return None
    return None if named is None or named.hub == "local" else named.hub


def base_model_named(text: str) -> str:
    """A base model as specifications call it, such as ``owner/name``, where ``text`` is an address.

    Everything else, such as the names that Civitai has for its bases, stays as it is.
    """
    from gmi_registry.spec.address import repository_name

    return repository_name(text, endpoints())


def find_model(text: str, hub: SearchableHub, revision: str | None = None) -> ModelRef:
    """The model called ``text``: a whole reference, or its name on ``hub``, at ``revision``.

    It may be the address of a page, or whatever else :func:`.read_address` reads. On Hugging Face
    a file may follow the name, ``owner/name/style.safetensors``. On Civitai it may be a weights
    file on this disk, and the version is looked up. Raises InputError for what is no reference or
    one to a model of another hub, and where two revisions are named; and what the hub raises.
    """
    from gmi_registry.spec import ModelRef

    named = _read(text, cast("HubName", hub.name), endpoints(hub))
    # A hub of somebody's own may hold models of any name.
    if named is not None and named.hub != hub.name and hub.name in _TITLES:
        raise InputError(
            f"{named.model or f'version {named.version}'} is a model of "
            f"{_TITLES[named.hub]}, and the hub that was named is "
            f"{_TITLES[hub.name]}",
            hint=f"name its hub, --hub {_HUB_OPTIONS[named.hub]}, or a model of this one",
        )
    ref = hub.find(text) if isinstance(hub, FindsModels) else None if named is None else named.model
    if ref is None:
        raise InputError(
            f"{text[:120]!r} is not the name of a model", hint="see gmi-publish --help"
        )
    if revision is None:
        return ref
    if ref.revision is not None and ref.revision != revision:
        raise InputError(
            f"{ref} names revision {ref.revision}, and --revision names {revision}",
            hint=f"name one of them: {ref.without_revision} --revision {revision}",
        )
    return ModelRef(ref.hub, ref.id, revision, ref.file)


def find_base(text: str, hub: SearchableHub) -> ModelRef:
    """The base model that ``--base`` calls ``text``, of a model on ``hub``: one of the same hub
    where that is a folder, else one on Hugging Face. Raises InputError for anything else."""
    home: HubName = "local" if hub.name == "local" else "hf"
    named = _read(text, home, endpoints(hub))
    ref = None if named is None else named.model
    if ref is None or ref.hub != home:
        what = "a model of the same hub" if home == "local" else "a repository on Hugging Face"
        titles = _TITLES | {"local": "a local hub"}
        on = titles.get(cast("HubName", hub.name), hub.name)
        raise InputError(
            f"{text[:120]!r} cannot be the base of a model on {on}: a base there is {what}",
            hint="write --base local:NAME" if home == "local" else "write --base owner/name",
        )
    return ref


@contextmanager
def base_hints(hub: SearchableHub) -> Iterator[None]:
    """Inside it, a hint to name a base model names one of the same hub if ``hub`` is a folder.

    What checks a model does not know on which hub it lies, so its hint says ``--base REPO``.
    """
    try:
        yield
    except GmiError as error:
        if hub.name == "local" and error.hint is not None:
            error.hint = error.hint.replace("--base REPO", "--base local:NAME")
        raise


def find_spec(
    text: str, hub: str | Path | SearchableHub | None = None, access: HubAccess | None = None
) -> SpecFolder:
    """A folder with ``gmi/``, that folder ``gmi`` itself, or a model on a hub.

    The hub is the one that the model names, as in ``hf:owner/name`` or in an address, else ``hub``,
    else GMI_HUB; ``access`` is for it where it is opened here. A model without a specification
    beside it has that of the registry where there is one. An entry of a registry that is not there
    is looked for in those as well that earlier commands of this user named. Raises InputError or
    HubError where there is no such thing.
    """
    path = Path(text)
    if is_folder(text):
        itself = path.name == "gmi" and (path / "spec.json").is_file()
        return SpecFolder(path.absolute().parent if itself else path)
    is_open = hub is not None and not isinstance(hub, str | Path)
    named = _read(text, None, endpoints(hub if is_open else None))
    source = hub or os.environ.get("GMI_HUB") or None
    if named is not None and named.hub != "local" and getattr(hub, "name", None) != named.hub:
        # A name that tells its hub is not read on another one, whatever is usual here.
        source = named.hub
    access = access or HubAccess()
    if named is not None and named.registry is not None:
        access = replace(access, registry=named.registry)
        if named.registry != registry_of(source):
            source = named.hub
    if source is None:
        raise InputError(
            f"{text!r} is not a folder, and no hub is named",
            hint="name a folder that holds gmi/, or add --hub HUB (or set GMI_HUB)",
        )
    with opened_hub(source, access) as opened:
        return _spec_folder(find_model(text, opened), opened, access.registry)


def read_from(hub: SearchableHub, ref: ModelRef) -> Spec:
    """The specification that ``hub`` has for ``ref``, read and checked.

    Raises what the hub raises, and as :func:`~gmi_registry.spec.read_spec`.
    """
    from gmi_registry.hubs.protocol import own_weights
    from gmi_registry.spec import read_spec

    folder = hub.fetch_spec(ref)
    return read_spec(
        folder.parent if folder.name == "gmi" else folder,
        expected=ref,
        own_weights=own_weights(hub, ref, folder),
        follow_links=makes_links(hub),
    )


def read_former(hub: object, folder: Path, ref: ModelRef) -> Spec | None:
    """The specification in ``folder`` where it names a former name of ``ref``, as ``hub`` says.

    For whoever replaces it: a model that got other weights and another name since is described
    anew, and what its author chose is kept. None for one of any other model, or none that can be
    read. One request.
    """
    from gmi_registry.hubs.protocol import knows_names
    from gmi_registry.spec import read_manifest, read_spec

    names = knows_names(hub)
    try:
        former = read_manifest(folder, follow_links=True).model.ref.repository
        if names is None or former.hub != ref.hub or former.id == ref.id:
            return None
        if names.current(former).id != ref.id:
            return None
        return read_spec(folder, expected=former, follow_links=True)
    except GmiError:
        return None


def _spec_folder(ref: ModelRef, hub: SearchableHub, registry: str | None) -> SpecFolder:
    from gmi_registry.errors import SpecError
    from gmi_registry.hubs.protocol import knows_names, own_weights
    from gmi_registry.spec import read_manifest

    asked = ref
    try:
        ref, folder = _specification(ref, hub)
    except (SpecNotFoundError, AuthError, InputError):
        known = None if registry or ref.revision is None else _elsewhere(ref, hub)
        if known is None:
            raise
        registry, folder = known
        _log.warning("%s is in the registry %s, which an earlier search named", ref, registry)
    parent = folder.parent if folder.name == "gmi" else folder
    links, weights = makes_links(hub), None
    try:
        described = read_manifest(parent, follow_links=links).model.id
    except SpecError:  # whoever reads it says so
        described = ref.id
    if described != ref.id:
        # While the hub is open.
        asking = own_weights(hub, ref, folder)
        weights = None if asking is None else asking()
    names = knows_names(hub)
    now = asked if names is None else names.name_now(asked)
    called = None if now.id == ref.id else replace(ref, id=now.id)
    return SpecFolder(parent, ref, links, weights, called, registry)


def is_folder(text: str) -> bool:
    """Whether a folder on this disk is called ``text``, which may be an address of any length."""
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):
        return False


def registry_of(hub: object) -> str | None:
    """The dataset that an open hub reads what is not beside its models from; None without one."""
    name = getattr(getattr(hub, "registry", None), "id", None)
    return None if name is None else str(name)


def _specification(ref: ModelRef, hub: SearchableHub) -> tuple[ModelRef, Path]:
    """Where the hub has a specification of the model: under which name, and in which folder."""
    try:
        return ref, hub.fetch_spec(ref)
    except (SpecNotFoundError, AuthError):
        if not isinstance(hub, Supplemented):
            raise
        entry = hub.find_entry(ref)
        if entry is None:
            raise
        folder = hub.fetch_spec(entry)
        _log.warning("%s has no specification beside it, so this is the registry's: %s", ref, entry)
        return entry, folder


def _elsewhere(ref: ModelRef, hub: SearchableHub) -> tuple[str, Path] | None:
    """The registry that earlier commands named and that has this very entry, with its files."""
    own = getattr(hub, "registry", None)
    for other in own.others() if isinstance(own, HasOthers) else ():
        with suppress(GmiError):
            return other.dataset.id, other.fetch_spec(ref)
    return None


def _read(text: str, hub: HubName | None, endpoints: list[tuple[HubName, str]]) -> Address | None:
    # A command line that only prints its help does without what this imports.
    from gmi_registry.spec.address import read_address

    return read_address(text, hub, endpoints)


def endpoints(hub: object = None) -> list[tuple[HubName, str]]:
    """Where hubs are besides their usual addresses."""
    found: list[tuple[HubName, str | None]] = [
        ("hf", os.environ.get("HF_ENDPOINT")),
        ("civitai", os.environ.get("CIVITAI_ENDPOINT")),
    ]
    name, own = getattr(hub, "name", None), getattr(hub, "endpoint", None)
    if name in ("hf", "civitai") and isinstance(own, str):
        found.insert(0, (name, own))
    return [(name, address) for name, address in found if address]


def makes_links(hub: SearchableHub) -> Links:
    """Which links of what the hub gives are followed, as for :func:`.read_spec`.

    Those within a download cache its own client made. A folder of models is filled by anybody, and
    its links may lead anywhere: only what lies in it is read.
    """
    if hub.name != "local":
        return True
    root: object = getattr(hub, "root", False)
    return root if isinstance(root, Path) else False
