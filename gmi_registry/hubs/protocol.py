"""What a hub is: a place that holds models, and carries specifications beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast, runtime_checkable

from gmi_registry.filters import UNKNOWN_TRAITS, Filters, Traits, listed_bases

if TYPE_CHECKING:
    from gmi_registry.errors import GmiError
    from gmi_registry.model import BaseOrigin, Kind, ModelCard, ModelFiles, Trust
    from gmi_registry.spec import ModelRef, OwnWeights, WeightFile
    from gmi_registry.spec.reference import HubName


@dataclass(frozen=True)
class Listing:
    """One model that a hub says has a specification.

    ``tags`` are those that the hub has for it now; without any, those of its specification count.
    ``traits`` are what filters can tell from the listing alone, and ``nsfw`` is the rating, None
    where the hub gives none. ``has_spec`` is False where the hub names the model's files and the
    specification is not among them, so that nobody needs to ask for it.

    ``spec_digest`` is the SHA-256 (hex) of its ``spec.json`` where the hub knows it without a
    download, else None: with it an unchanged specification is not read again. ``stale`` says
    whether the model's weights have changed since the specification was made, None where the hub
    does not know it without being asked (:class:`KnowsWeights`). ``stamp`` is any text that changes
    whenever the specification does, where the hub has one. ``trust`` is None where nobody but the
    user is concerned, as in a folder. ``modified`` is when the model changed last (with time zone),
    where the hub says so.
    """

    ref: ModelRef
    tags: tuple[str, ...]
    spec_digest: str | None = None
    url: str | None = None
    stale: bool | None = None
    stamp: str | None = None
    trust: Trust | None = None
    modified: datetime | None = None
    traits: Traits = UNKNOWN_TRAITS
    nsfw: bool | None = None
    has_spec: bool = True


def is_stale(
    described: Sequence[WeightFile], current: Mapping[str, str | None] | None
) -> bool | None:
    """Whether a specification of the ``described`` weights no longer fits the model.

    ``current`` is what :meth:`KnowsWeights.weight_digests` says. A weight file that is gone or has
    another digest makes it stale; new files beside the old ones do not, since which variant was
    described is its author's choice. None where that cannot be told.
    """
    if current is None or not described:
        return None
    missing = object()
    found = [current.get(weight.path, missing) for weight in described]
    if any(
        digest is missing or (digest is not None and digest != weight.sha256)
        for digest, weight in zip(found, described, strict=True)
    ):
        return True
    return None if None in found else False


_CALLED = {
    "hf": "whose models are called hf:owner/name",
    "civitai": "whose models are called civitai:MODEL@VERSION",
    "local": "a folder whose models are called local:NAME",
}


def require_on_hub(ref: ModelRef, hub: str) -> None:
    """Raise UnsupportedOperationError for a model of another hub than the one called ``hub``."""
    if ref.hub != hub:
        from gmi_registry.errors import UnsupportedOperationError

        raise UnsupportedOperationError(
            f"{ref} is not on this hub, {_CALLED[hub]}",
            hint="name one of its models, or another --hub",
        )


@dataclass(frozen=True)
class ModelOutline:
    """A model that is not on this disk yet, as its hub describes it.

    ``ref`` is pinned to the present revision. ``kind`` is None where only the weights tell;
    ``pipeline`` is the content of ``model_index.json``, None where there is none. ``weights`` maps
    the paths of the files that would be fetched to their SHA-256 (hex; None where the hub does not
    say), and ``missing`` is how many bytes of the model are not on this disk, without its base's;
    where ``kind`` is None those of the base are a lower bound. ``base_origin``, ``base_refusal``
    and ``notes`` are as in :class:`.ModelFiles`.
    """

    ref: ModelRef
    kind: Kind | None
    card: ModelCard
    pipeline: Mapping[str, object] | None
    weights: Mapping[str, str | None]
    missing: int
    url: str | None = None
    base: ModelOutline | None = None
    base_origin: BaseOrigin | None = None
    base_refusal: GmiError | None = field(default=None, compare=False)
    notes: tuple[str, ...] = ()

    @property
    def missing_in_all(self) -> int:
        """The same with the base model's."""
        return self.missing + (0 if self.base is None else self.base.missing_in_all)


@dataclass(frozen=True)
class Destination:
    """Where a specification would go, found out beforehand.

    ``where`` is an address or a folder. ``way`` is how it gets there, and ``branch`` the branch of
    a repository. ``weights`` maps the paths of the weight files there now to their SHA-256 (hex;
    None where the hub does not say), and is None where they are the model's own anyway.
    """

    where: str
    way: Literal["commit", "pull request", "folder"]
    branch: str | None = None
    weights: Mapping[str, str | None] | None = None


class SearchableHub(Protocol):
    """What a search needs of a hub. Every method raises a HubError (or OfflineError) with a hint.

    A program can pass an object with these methods to :func:`gmi_registry.search`.
    """

    @property
    def name(self) -> str:
        """As in ``ModelRef.hub``."""
        ...

    def list_specs(self, wanted: Filters) -> Iterator[Listing]:
        """The models with a specification that pass the filter, in a fixed order.

        Those that may pass are among them: what is not in the listing, the specification tells.
        So are those that :attr:`Listing.has_spec` says have none, though their hub counts them.
        """
        ...

    def fetch_spec(self, ref: ModelRef) -> Path:
        """A folder on this disk that holds the model's ``spec.json`` and ``spec.tensors``."""
        ...

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """The model's contact sheet on this disk, or None where it has none."""
        ...

    def fetch_encoder(self, name: str, pretrained: str) -> Path | None:
        """A folder in open_clip's layout for an encoder that the hub carries, or None."""
        ...


class Hub(SearchableHub, Protocol):
    """A hub that a search can read and that a specification can be published to."""

    def fetch_model(self, ref: ModelRef, base: ModelRef | None = None) -> ModelFiles:
        """The model's files on this disk, with its base model's where it needs one.

        That is ``base`` where one is given, whatever card and file say. Raises InputError where
        that is no model that this hub takes for a base, or the model needs none.
        """
        ...

    def check_writable(self, ref: ModelRef, *, create_pr: bool = False) -> Destination | None:
        """Where ``push_spec`` would put a specification; None where there is nothing to say.

        Raises AuthError or HubError where it would fail for want of rights, or for what is there;
        UnsupportedOperationError for ``create_pr`` where nobody decides on proposals.
        """
        ...

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
        """Put the files of ``folder`` beside the model, all or none; returns where they are.

        With ``create_pr`` they are proposed to the model's owner, and it returns where.
        """
        ...


@runtime_checkable
class KnowsWeights(Protocol):
    """A hub whose models change apart from their specifications, and that can tell."""

    def weight_digests(self, ref: ModelRef) -> Mapping[str, str | None] | None:
        """Path to SHA-256 (hex) of the weight files that the model has at its revision now.

        A digest is None where the hub has none, the whole None where it cannot be asked. Cheap:
        at most one request a model, and none for a revision that was requested before.
        """
        ...


@runtime_checkable
class ShowsWeights(Protocol):
    """A hub on which models are renamed, and that knows the weights which tell one from another."""

    def weights_beside(self, ref: ModelRef, folder: Path) -> Mapping[str, str | None] | None:
        """Path to SHA-256 (hex) of the model's weight files beside the specification in ``folder``,
        which ``fetch_spec(ref)`` gave; as :meth:`KnowsWeights.weight_digests`."""
        ...


def own_weights(hub: object, ref: ModelRef, folder: Path) -> OwnWeights | None:
    """What :func:`~gmi_registry.spec.read_spec` is to ask of ``hub`` where a specification names
    another model than ``ref``; ``folder`` is what the hub's ``fetch_spec`` gave."""
    if not isinstance(hub, ShowsWeights):
        return None
    return lambda: hub.weights_beside(ref, folder)


class KnowsNames(Protocol):
    """A hub on which models are renamed, and that answers to their former names."""

    def name_now(self, ref: ModelRef) -> ModelRef:
        """``ref`` under the name that the hub is known to have for it, without a request."""
        ...

    def current(self, ref: ModelRef) -> ModelRef:
        """Likewise, asked of the hub. Raises SpecNotFoundError for a model that is not there."""
        ...

    def names_of_base(self, base: str, others: Iterable[str]) -> tuple[str, ...]:
        """What ``base`` is called now, and those of ``others`` that mean the same model."""
        ...


def knows_names(hub: object) -> KnowsNames | None:
    """``hub`` where it does; also one that stands before another, and passes calls on to it."""
    methods = ("name_now", "current", "names_of_base")
    known = all(callable(getattr(hub, name, None)) for name in methods)
    return cast("KnowsNames", hub) if known else None


def with_base_names(wanted: Filters, hub: object, known: Callable[[], Iterable[str]]) -> Filters:
    """``wanted`` with the other names of its base model, where ``hub`` knows any.

    A base that was renamed has one name in one place and another in the next: ``known`` gives those
    that are in use where the filter is to be applied, and is called only if need be.
    """
    names = knows_names(hub)
    base = wanted.base_model
    if base is None or "/" not in base or names is None:
        return wanted
    found = (*wanted.base_names, *names.names_of_base(base, known()))
    return replace(wanted, base_names=tuple(dict.fromkeys(found)))


def bases_in(listings: Iterable[Listing]) -> set[str]:
    """What base models are called in some listings."""
    return {name for it in listings for name in listed_bases(it.ref.hub, it.tags)}


class SpecStore(Protocol):
    """Where specifications lie that are not beside their models. Raises as a :class:`Hub` does."""

    def listings(self, hub: HubName) -> Iterator[Listing]:
        """Every specification of a model on ``hub``, in the order of their references."""
        ...

    def fetch_spec(self, ref: ModelRef) -> Path:
        """A folder called ``gmi`` on this disk with its ``spec.json`` and ``spec.tensors``."""
        ...

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """The model's contact sheet on this disk, or None where it has none."""
        ...

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """The ``spec.sig`` beside the two files, as it lies there, or None where it has none."""
        ...

    def check_writable(self, ref: ModelRef, *, create_pr: bool = True) -> Destination | None:
        """As :meth:`Hub.check_writable`."""
        ...

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = True) -> str:
        """Put the files of ``folder`` there, all or none, or propose them; returns where."""
        ...


@runtime_checkable
class Outlines(Protocol):
    """A hub whose models are far away, and that tells what they are before they are fetched."""

    def outline(self, ref: ModelRef, base: ModelRef | None = None) -> ModelOutline:
        """What ``fetch_model`` would give, without weights. Raises all that it raises before."""
        ...


@runtime_checkable
class TakesProposals(Protocol):
    """A hub or a store to which changes can be proposed."""

    def open_proposals(self, ref: ModelRef) -> Iterator[tuple[str, Path]]:
        """Addresses and folders ``gmi`` of this account's open proposals for the model."""
        ...


@runtime_checkable
class Describes(Protocol):
    """A hub whose models point to their specifications in the words of their description."""

    def snippet(self, ref: ModelRef, spec_digest: str, where: str) -> str:
        """What the author pastes into the description. At most two requests."""
        ...
