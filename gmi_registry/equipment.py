"""The encoder and the interrogator of one search, loaded when they are wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gmi_registry.encoders.protocol import Encoder
from gmi_registry.errors import GmiError, IncomparableSpecsError, InputError
from gmi_registry.hubs.protocol import Hub
from gmi_registry.index import IndexEntry, Selection
from gmi_registry.interrogators import Interrogator, load_interrogator
from gmi_registry.place import makes_links
from gmi_registry.spec import EncoderRef, read_manifest

__all__ = ["Equipment"]


@dataclass(frozen=True)
class Equipment:
    """How encoders and interrogators are loaded; ``cache_dir`` None is the libraries' own place."""

    cache_dir: Path | None
    offline: bool
    device: str

    def interrogator(self, mode: str, phrases: Sequence[str]) -> Interrogator:
        """The interrogator of a mode, which tries ``phrases`` first. Raises as that does."""
        return load_interrogator(
            mode,
            phrases=phrases,
            cache_dir=self.cache_dir,
            offline=self.offline,
            device=self.device,
        )

    def encoder_of(self, selections: Sequence[Selection], hub: Hub) -> Encoder:
        """The encoder of the largest group of comparable models, the hub's own copy if it has one.

        Raises IncomparableSpecsError where what that name loads is not what made the
        specifications.
        """
        chosen = max(selections, key=lambda it: (len(it), str(it.stack.key)))
        first = chosen.first
        who = f"{first.model} and {len(chosen) - 1} others name"
        encoder = self._loaded(first.encoder, who, hub)
        if encoder.ref.id != chosen.stack.key.encoder_id:
            raise _another(first.encoder, _difference(encoder.ref, first, hub))
        return encoder

    def encoder_like(self, stated: EncoderRef, who: str, hub: Hub) -> Encoder:
        """The encoder that ``who`` states. Raises as :meth:`encoder_of`."""
        name = f"{stated.name}/{stated.pretrained}"
        encoder = self._loaded(name, f"{who} names", hub)
        if encoder.ref.id != stated.id:
            raise _another(name, _differences(encoder.ref, stated))
        return encoder

    def _loaded(self, text: str, who_names: str, hub: Hub) -> Encoder:
        from gmi_registry.encoders import EncoderName, load_encoder

        try:
            name = EncoderName.parse(text)
        except InputError as error:
            raise IncomparableSpecsError(
                f"{who_names} an encoder that cannot be loaded: {error.message}",
                hint="give the encoder that made them: search(..., encoder=...)",
            ) from None
        return load_encoder(
            *name,
            hub.fetch_encoder(*name),
            cache_dir=self.cache_dir,
            offline=self.offline,
            device=self.device,
        )


def _another(name: str, difference: str) -> IncomparableSpecsError:
    return IncomparableSpecsError(
        f"the encoder {name} that was loaded is not the one that made the specifications: "
        f"{difference}",
        hint="put the encoder that they name into the hub, or publish the models again",
    )


def _difference(found: EncoderRef, entry: IndexEntry, hub: Hub) -> str:
    """In what the encoder differs from the one that the specification of ``entry`` names."""
    try:
        folder = hub.fetch_spec(entry.model).parent
        stated = read_manifest(folder, follow_links=makes_links(hub)).encoder
    except GmiError:  # it was there a moment ago, and is wanted for this message alone
        return f"id {found.id}, not {entry.key.encoder_id}"
    return _differences(found, stated)


def _differences(found: EncoderRef, stated: EncoderRef) -> str:
    if found.weights_sha256 != stated.weights_sha256:
        return f"weights {found.weights_sha256[:12]}, not {stated.weights_sha256[:12]}"
    ours, theirs = found.known(), stated.known()
    return "the same weights with another " + ", ".join(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
