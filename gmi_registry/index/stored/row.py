"""What the stored index keeps of one model."""

from __future__ import annotations

from dataclasses import dataclass

from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.standing import UNKNOWN, Standing
from gmi_registry.spec import EncoderRef, Spec

__all__ = ["Row"]


@dataclass(frozen=True, eq=False)
class Row:
    """A specification ready to be compared, what a hub says of it, and the encoder that it names.

    The encoder is here in full, so that whoever opens the index can load it without having any
    specification at hand.
    """

    indexed: IndexedSpec
    standing: Standing
    encoder: EncoderRef

    @classmethod
    def of(cls, spec: Spec, standing: Standing = UNKNOWN) -> Row:
        """The row of a specification; its Gram matrix is computed here."""
        return cls(IndexedSpec.of(spec), standing, spec.manifest.encoder)
