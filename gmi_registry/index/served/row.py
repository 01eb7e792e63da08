"""What a point of the collection says of its model."""

from __future__ import annotations

import uuid
from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, ValidationError

from gmi_registry.errors import InputError, SpecFormatError
from gmi_registry.filters import Traits
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.served.facts import Facts
from gmi_registry.index.served.place import again
from gmi_registry.index.standing import Standing
from gmi_registry.model import Trust
from gmi_registry.sanitize import first_fault
from gmi_registry.spec import LoraPartial, ModelRef
from gmi_registry.spec.fields import Count, Name, Part, Sha256

__all__ = ["FILTERED", "Row", "images_id", "point_id"]

FILTERED = ("hub", "folded.tags", "folded.base_model", "folded.kind", "folded.marks")
"""Fields of the payload that filters look at, words all of them; each wants an index."""

# Names of models, as UUIDs: the same everywhere, and no one else's.
_MODELS = uuid.UUID("0f6a4c2e-6d0b-5d53-9b0a-7d1f3c5e8a42")
_IMAGES = uuid.UUID("c1d7e9b4-3f28-5a60-8e15-94b2a7f06d3c")


def _reference(text: str) -> str:
    try:
        ModelRef.parse(text)
    except InputError as error:
        raise ValueError(error.message) from None
    return text


class Row(Part):
    """The payload of one model's point. Raises pydantic's ValidationError for what it cannot be.

    ``hub_tags`` are those that the hub has now. ``folded`` repeats what filters look at as
    :func:`~gmi_registry.filters.fold` spells it, since Qdrant compares letters as they are.
    Everything that a stranger's server says of a model passes through here before anyone sees it.
    """

    model: Annotated[str, StringConstraints(max_length=700), AfterValidator(_reference)]
    digest: Sha256
    title: Name
    kind: Name
    tags: Annotated[tuple[Name, ...], Field(max_length=200)] = ()
    base_model: Name | None = None
    url: Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)] | None = (
        None
    )
    licence: Name | None = None
    nsfw: bool
    downloads: Count | None = None
    stale: bool | None = None
    trust: Trust | None = None
    hub_tags: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    described_as: (
        Annotated[str, StringConstraints(max_length=700), AfterValidator(_reference)] | None
    ) = None
    lora_partial: LoraPartial | None = None

    @classmethod
    def of(cls, entry: IndexEntry, standing: Standing) -> Row:
        """Of a model, and what its hub says of it. Raises SpecFormatError where a field breaks
        the format's rules."""
        try:
            return cls(
                model=str(entry.model),
                digest=entry.digest,
                title=entry.title,
                kind=entry.kind,
                tags=entry.tags,
                base_model=entry.base_model,
                url=entry.url,
                licence=entry.licence,
                nsfw=entry.nsfw,
                downloads=entry.downloads,
                stale=standing.stale,
                trust=standing.trust,
                hub_tags=entry.hub_tags,
                described_as=None if entry.described_as is None else str(entry.described_as),
                lora_partial=entry.lora_partial,
            )
        except ValidationError as error:
            raise SpecFormatError(
                f"the index says of {entry.model} what no specification may: "
                f"{first_fault(error, 200)}",
                hint="build the index again: gmi index build",
            ) from None

    @classmethod
    def read(cls, payload: object, server: str) -> Row:
        """The inverse of :meth:`payload`. Raises SpecFormatError."""
        try:
            return cls.model_validate(payload)
        except ValidationError as error:
            raise SpecFormatError(
                f"{server} says of a model what no index may: {first_fault(error, 200)}",
                hint=again(server),
            ) from None

    def payload(self) -> dict[str, Any]:
        """What the point carries, as plain JSON values."""
        hub = self.reference.hub
        traits = Traits.of(
            hub,
            tags=self.tags,
            base_model=self.base_model,
            kind=self.kind,
            nsfw=self.nsfw,
            hub_tags=self.hub_tags,
        )
        folded = {
            "tags": sorted(traits.tags or ()),
            "base_model": sorted(traits.base_models or ()),
            "kind": sorted(traits.kinds or ()),
            "marks": [mark for mark in ("nsfw", "stale") if getattr(self, mark)],
        }
        return self.model_dump(mode="json") | {"hub": hub, "folded": folded}

    @property
    def reference(self) -> ModelRef:
        """The model, with the revision it had."""
        return ModelRef.parse(self.model)

    @property
    def standing(self) -> Standing:
        """What its hub said of it."""
        return Standing(self.stale, self.trust)

    def entry(self, facts: Facts) -> IndexEntry:
        """With what all models of the collection share."""
        return IndexEntry(
            model=self.reference,
            digest=self.digest,
            title=self.title,
            kind=self.kind,
            tags=self.tags,
            base_model=self.base_model,
            url=self.url,
            licence=self.licence,
            nsfw=self.nsfw,
            downloads=self.downloads,
            encoder=facts.encoder_name,
            prompt_set=facts.prompt_set,
            prompts=facts.prompts,
            key=facts.key,
            hub_tags=self.hub_tags,
            described_as=None if self.described_as is None else ModelRef.parse(self.described_as),
            lora_partial=self.lora_partial,
        )


def point_id(model: ModelRef) -> str:
    """The UUIDv5 of what one specification is of, which a new revision leaves as it is."""
    return str(uuid.uuid5(_MODELS, str(model.identity)))


def images_id(model: ModelRef) -> str:
    """That of the point that holds its images."""
    return str(uuid.uuid5(_IMAGES, str(model.identity)))
