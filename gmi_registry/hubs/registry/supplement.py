"""Hugging Face together with a registry: what owners have not put beside their models."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Self

from gmi_registry.errors import GmiError, HubError
from gmi_registry.filters import Filters
from gmi_registry.hubs.huggingface import HuggingFaceHub
from gmi_registry.hubs.huggingface.client import ClientRequestCounter
from gmi_registry.hubs.protocol import (
    Destination,
    Listing,
    ModelOutline,
    bases_in,
    with_base_names,
)
from gmi_registry.hubs.registry.dataset import DEFAULT_REGISTRY
from gmi_registry.hubs.registry.entries import is_entry
from gmi_registry.hubs.registry.registry import Registry
from gmi_registry.model import ModelFiles
from gmi_registry.spec import ModelRef, read_manifest
from gmi_registry.spec.canonical import canonical_digest

_log = logging.getLogger(__name__)


class SupplementedHub:
    """``hub``, where models without a specification of their own have that of ``registry``.

    A registry that is not there, or cannot be asked, leaves the hub as it is. Its entries are
    ``hf:owner/name@`` with the digest of the weights that they describe, and no revision of the
    model. One request more a listing.
    """

    name = "hf"

    def __init__(self, hub: HuggingFaceHub, registry: Registry) -> None:
        self.hub = hub
        self.registry = registry
        self._missed: set[str] = set()
        # They share a client, whose requests are counted once.
        registry.traffic = hub.traffic

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return self.hub.endpoint

    @property
    def offline(self) -> bool:
        """Whether no request is made."""
        return self.hub.offline

    @property
    def traffic(self) -> ClientRequestCounter:
        """That of both."""
        return self.hub.traffic

    @property
    def catalogue_age(self) -> float | None:
        """Seconds since the hub's last complete listing; None: never."""
        return self.hub.catalogue_age

    def close(self) -> None:
        """Stop counting requests; the hub can still be used."""
        self.hub.close()
        self.registry.close()

    def __enter__(self) -> Self:
        self.hub.traffic.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list_specs(self, wanted: Filters) -> Iterator[Listing]:
        """The hub's listing, then what the registry has of other models.

        Tags of the latter are in their manifests, which decide. A model that has a specification of
        its own is none of them, whether or not it passes. Of several entries of a model the one is
        listed whose weights it has today, and the last where nobody knows.
        """
        own = [replace(listing, trust="owner") for listing in self.hub.list_specs(Filters())]
        described = {listing.ref.repository for listing in own if listing.has_spec}
        others: dict[ModelRef, list[Listing]] = {}
        for listing in self._listed():
            # A model that is known to have another name now is listed under that.
            if self.hub.name_now(listing.ref).repository not in described:
                others.setdefault(listing.ref.repository, []).append(listing)
        named = with_base_names(wanted, self, lambda: bases_in(own))
        passing = [
            listing
            for listing in own
            if listing.ref.repository not in others and named.admits(listing.traits)
        ]
        return chain(passing, (self._current(each) for each in others.values()))

    def fetch_spec(self, ref: ModelRef) -> Path:
        """Beside the model, or out of the registry where ``ref`` is one of its entries."""
        return self.registry.fetch_spec(ref) if self._is_entry(ref) else self.hub.fetch_spec(ref)

    def find_entry(self, ref: ModelRef) -> ModelRef | None:
        """The registry's entry of a model as the hub has it now; None where there is none.

        Where none has the model's name, one of the same weights is the model's, which was renamed.
        A registry that cannot be asked has none.
        """
        if ref.revision is not None:
            return None
        entries = [item for item in self._listed() if item.ref.repository == ref.repository]
        if entries:
            return replace(self._current(entries).ref, file=ref.file)
        try:
            own = self.hub.weight_digests(ref)
            return self.registry.find_weights(own) if own else None
        except GmiError as error:
            _log.info("%s: the registry is left out: %s", ref, error.message)
            return None

    def fetch_preview(self, ref: ModelRef) -> Path | None:
        """Likewise."""
        place = self.registry if self._is_entry(ref) else self.hub
        return place.fetch_preview(ref)

    def fetch_signature(self, ref: ModelRef) -> Path | None:
        """Likewise; nothing in it is checked."""
        place = self.registry if self._is_entry(ref) else self.hub
        return place.fetch_signature(ref)

    def fetch_model(self, ref: ModelRef, base: ModelRef | None = None) -> ModelFiles:
        """As :meth:`.HuggingFaceHub.fetch_model`; of an entry the model as it is now.

        Raises HubError where the weights that an entry names are no longer the model's.
        """
        if not self._is_entry(ref):
            return self.hub.fetch_model(ref, base)
        model = self.hub.fetch_model(ref.without_revision, base)
        weights = sorted((weight.path, weight.sha256) for weight in model.weights)
        if canonical_digest([list(weight) for weight in weights]) != ref.revision:
            raise HubError(
                f"{ref.without_revision} has other weights now than those of {ref}",
                hint=f"name the model as it is: {ref.without_revision}",
            )
        return model

    def fetch_encoder(self, name: str, pretrained: str) -> Path | None:
        """As :meth:`.HuggingFaceHub.fetch_encoder`."""
        return self.hub.fetch_encoder(name, pretrained)

    def weight_digests(self, ref: ModelRef) -> Mapping[str, str | None] | None:
        """As :meth:`.HuggingFaceHub.weight_digests`; of an entry's model as it is now."""
        return self.hub.weight_digests(self._model(ref))

    def weights_beside(self, ref: ModelRef, folder: Path) -> Mapping[str, str | None] | None:
        """As :meth:`.HuggingFaceHub.weights_beside`; of an entry's model as it is now."""
        if self._is_entry(ref):
            return self.weight_digests(ref)
        return self.hub.weights_beside(ref, folder)

    def name_now(self, ref: ModelRef) -> ModelRef:
        """As :meth:`.HuggingFaceHub.name_now`."""
        return self.hub.name_now(ref)

    def names_of_base(self, base: str, others: Iterable[str]) -> tuple[str, ...]:
        """As :meth:`.HuggingFaceHub.names_of_base`."""
        return self.hub.names_of_base(base, others)

    def current(self, ref: ModelRef) -> ModelRef:
        """As :meth:`.HuggingFaceHub.current`."""
        return self.hub.current(ref)

    def outline(self, ref: ModelRef, base: ModelRef | None = None) -> ModelOutline:
        """As :meth:`.HuggingFaceHub.outline`."""
        return self.hub.outline(ref, base)

    def check_writable(self, ref: ModelRef, *, create_pr: bool = False) -> Destination:
        """As :meth:`.HuggingFaceHub.check_writable`."""
        return self.hub.check_writable(self._model(ref), create_pr=create_pr)

    def open_proposals(self, ref: ModelRef) -> Iterator[tuple[str, Path]]:
        """As :meth:`.HuggingFaceHub.open_proposals`."""
        return self.hub.open_proposals(self._model(ref))

    def push_spec(self, ref: ModelRef, folder: Path, *, create_pr: bool = False) -> str:
        """Beside the model, as :meth:`.HuggingFaceHub.push_spec`."""
        return self.hub.push_spec(self._model(ref), folder, create_pr=create_pr)

    def _listed(self) -> list[Listing]:
        try:
            found = list(self.registry.listings("hf"))
        except GmiError as error:
            name = self.registry.dataset.id
            # Who names one expects what lies in it; the usual one need not be there.
            level = logging.INFO if name == DEFAULT_REGISTRY else logging.WARNING
            if name not in self._missed:
                _log.log(level, "searching without the registry %s: %s", name, error.message)
                self._missed.add(name)
            found = []
        return found

    def _is_entry(self, ref: ModelRef) -> bool:
        # Listed or not: no commit has 64 digits.
        return ref.hub == self.name and is_entry(ref)

    def _model(self, ref: ModelRef) -> ModelRef:
        return ref.without_revision if self._is_entry(ref) else ref

    def _current(self, listings: list[Listing]) -> Listing:
        if len(listings) == 1:
            return listings[0]
        try:
            now = self.hub.weight_digests(listings[0].ref.without_revision)
        except GmiError:
            now = None
        if not now:
            return listings[-1]
        for listing in listings:
            try:
                folder = self.registry.fetch_spec(listing.ref).parent
                weights = read_manifest(folder, follow_links=True).model.weights
            except GmiError:
                continue
            if all(now.get(weight.path) == weight.sha256 for weight in weights):
                return listing
        return listings[-1]
