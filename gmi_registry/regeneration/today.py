"""What a hub has of a model now, told without a download of weights."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from gmi_registry.bases import QUANTIZED
from gmi_registry.errors import (
    AuthError,
    HubError,
    InputError,
    RateLimitError,
    SpecNotFoundError,
)
from gmi_registry.hubs.local import LocalHub
from gmi_registry.hubs.protocol import Hub, KnowsWeights, Listing
from gmi_registry.model import Kind, ModelCard, ModelFiles
from gmi_registry.spec import DescribedModel, ModelRef

if TYPE_CHECKING:
    from gmi_registry.hubs.huggingface import HuggingFaceHub

__all__ = ["Survey", "Today"]

Digests = Mapping[str, str | None]

_LONGEST_CHAIN = 8


@dataclass(frozen=True)
class Today:
    """A model as it is now.

    ``weights`` and ``base_weights`` are path to SHA-256 (hex; None where the hub has none) of its
    own files and its base model's, None where the hub cannot say. They are ``exact`` where they
    are the very files that a specification would be bound to, and else all that lie there.
    ``model`` has the cards of the model and its bases, and perhaps no files; None where the hub
    keeps no cards that advise anything.
    """

    weights: Digests | None
    base_weights: Digests | None
    exact: bool
    model: ModelFiles | None


class Survey:
    """Looks at the models of ``hub``. Base models are looked at once, whoever stands on them."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._bases: dict[str, tuple[ModelFiles, Digests | None] | HubError | None] = {}
        # One at a time, so that nobody asks for what another is about to learn.
        self._asking = threading.RLock()

    def today(self, ref: ModelRef, described: DescribedModel | None) -> Today:
        """The model at the revision of ``ref``, or as it is now where that has none.

        ``described`` is what its specification says; with None, that of a hub whose models are not
        at hand, its base model is left out. A base that whoever published named counts, and one
        that was taken for want of a name as long as the card has none. Raises what the hub raises;
        SpecNotFoundError for a model that is not there, and HubError for a broken card.
        """
        if isinstance(self.hub, LocalHub):
            return _here(self._local(self.hub, ref.without_revision, described))
        weights = self.hub.weight_digests(ref) if isinstance(self.hub, KnowsWeights) else None
        if self.hub.name != "hf" or described is None:
            return Today(weights, None, False, None)
        card = self._remote.fetch_card(ref)
        kind, name = described.kind, card.base_model
        if described.base_model in card.other_bases:  # of several, the one that was taken
            name = described.base_model
        if described.base_origin is not None and (
            name is None or described.base_origin == "option"
        ):
            name = described.base_model
        if kind == "checkpoint" or name is None or described.base_revision is not None:
            return Today(weights, None, False, _described(ref, kind, card))
        base = self._base(name, (ref.id,))
        if base is None:
            return Today(weights, None, False, None)
        return Today(weights, base[1], False, _described(ref, kind, card, base[0]))

    def _local(self, hub: LocalHub, ref: ModelRef, described: DescribedModel | None) -> ModelFiles:
        """The model, and the file of it that is described where several could be meant."""
        named = None if described is None else described.named_base
        file = None
        if described is not None and described.kind != "checkpoint" and ref.file is None:
            file = _own_file(ref, described)
        try:
            model = hub.fetch_model(ref, named)
            if file is None or [weight.path for weight in model.weights] == [file.file]:
                return model
        except HubError:
            if file is None:
                raise
            return hub.fetch_model(file, named)
        try:
            return hub.fetch_model(file, named)
        except HubError:
            return model  # the file is gone, and another took its place

    def is_newer(self, listing: Listing, since: datetime) -> bool:
        """Whether the model changed at ``since`` or later; True where the hub does not say."""
        if isinstance(self.hub, LocalHub):
            return any(
                datetime.fromtimestamp(path.stat().st_mtime, UTC) >= since
                for path in (self.hub.root / "models" / listing.ref.id).rglob("*")
                if path.is_file()
            )
        return listing.modified is None or listing.modified >= since

    @property
    def _remote(self) -> HuggingFaceHub:
        # With a registry the hub itself is inside.
        return cast("HuggingFaceHub", getattr(self.hub, "hub", self.hub))

    def _base(self, name: str, above: tuple[str, ...]) -> tuple[ModelFiles, Digests | None] | None:
        """The base model's cards and weights; None where one of its own bases is not at hand.

        Why that is so, and of circles, whoever publishes the model learns.
        """
        name = name.removeprefix("hf:")
        if name in above or len(above) >= _LONGEST_CHAIN:
            return None
        if name not in self._bases:
            with self._asking:
                if name not in self._bases:
                    self._bases[name] = self._outcome(name, above)
        known = self._bases[name]
        if isinstance(known, HubError):
            raise known
        return known

    def _outcome(
        self, name: str, above: tuple[str, ...]
    ) -> tuple[ModelFiles, Digests | None] | HubError | None:
        """What :meth:`_found_base` gives, or raises: the next model is told the same."""
        try:
            return self._found_base(name, above)
        except RateLimitError:
            raise
        except HubError as error:
            return error

    def _found_base(
        self, name: str, above: tuple[str, ...]
    ) -> tuple[ModelFiles, Digests | None] | None:
        try:
            ref, weights = self._remote.base_weights(name)
            if ref.id in above:
                return None
            card = self._remote.fetch_card(ref)
        except (InputError, SpecNotFoundError, AuthError):
            return None
        # The parts of a checkpoint lie in folders, and what it was made from does not count.
        whole = any("/" in path for path in weights or ())
        copied = card.base_model if card.base_model_relation == QUANTIZED else None
        if copied is not None:  # the original is what a publication takes
            return self._base(copied, (*above, ref.id))
        if whole or card.base_model is None:
            return _described(ref, "checkpoint", card), weights
        further = self._base(card.base_model, (*above, ref.id))
        return None if further is None else (_described(ref, "lora", card, further[0]), weights)


def _own_file(ref: ModelRef, described: DescribedModel) -> ModelRef | None:
    if len(described.weights) != 1:
        return None
    try:
        return replace(ref, file=described.weights[0].path)
    except InputError:
        return None


def _here(model: ModelFiles) -> Today:
    base = model.base if model.kind != "checkpoint" else None
    return Today(
        weights={weight.path: weight.sha256 for weight in model.weights},
        base_weights=None if base is None else {w.path: w.sha256 for w in base.weights},
        exact=True,
        model=model,
    )


def _described(
    ref: ModelRef, kind: Kind, card: ModelCard, base: ModelFiles | None = None
) -> ModelFiles:
    return ModelFiles(ref=ref, kind=kind, path=Path(), card=card, weights=(), base=base)
