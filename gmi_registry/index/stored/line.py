"""One model's metadata, as a line of a part's ``entries.jsonl``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from gmi_registry.errors import InputError, SpecFormatError
from gmi_registry.filters import Traits
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.standing import Standing
from gmi_registry.index.stored.fault import AGAIN, first_fault
from gmi_registry.model import Trust
from gmi_registry.spec import LoraPartial, ModelRef
from gmi_registry.spec.canonical import canonical_json
from gmi_registry.spec.fields import Count, Name, Part, Sha256, Text
from gmi_registry.spec.manifest import MANIFEST_LIMIT

__all__ = ["LINE_LIMIT", "EntryLine"]

LINE_LIMIT = MANIFEST_LIMIT
"""Bytes of one line: it holds less than the manifest that it was taken from."""


class EntryLine(Part):
    """What :class:`~gmi_registry.index.IndexEntry` and :class:`~gmi_registry.index.Standing` say of
    one model, less what all models of its group have in common.

    ``model`` and ``described_as`` are references as text. ``prompt_set`` is there only where the
    author gave the group's prompts another name.
    """

    model: Annotated[str, StringConstraints(min_length=1, max_length=600)]
    digest: Sha256
    title: Name
    kind: Literal["checkpoint", "lora", "single-file", "textual-inversion"]
    tags: Annotated[tuple[Name, ...], Field(max_length=200)] = ()
    base_model: Name | None = None
    url: Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)] | None = (
        None
    )
    licence: Name | None = None
    nsfw: bool = False
    downloads: Count | None = None
    prompt_set: Name | None = None
    stale: bool | None = None
    trust: Trust | None = None
    stamp: Text | None = None
    hub_tags: Annotated[tuple[Name, ...], Field(max_length=1000)] | None = None
    described_as: Annotated[str, StringConstraints(min_length=1, max_length=600)] | None = None
    lora_partial: LoraPartial | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in (self.model, self.described_as):
            if name is None:
                continue
            try:
                spelled = str(ModelRef.parse(name))
            except InputError as error:
                raise ValueError(error.message) from None
            if spelled != name:
                raise ValueError(f"the model is not written as {spelled}")
        return self

    @property
    def ref(self) -> ModelRef:
        """Where the model can be had."""
        return ModelRef.parse(self.model)

    @property
    def standing(self) -> Standing:
        """What a hub said when the row was written."""
        return Standing(self.stale, self.trust, self.stamp)

    @property
    def traits(self) -> Traits:
        """What filters look at."""
        return Traits.of(
            self.model.partition(":")[0],
            tags=self.tags,
            base_model=self.base_model,
            kind=self.kind,
            nsfw=self.nsfw,
            hub_tags=self.hub_tags or (),
            stale=self.stale,
        )

    @classmethod
    def of(cls, entry: IndexEntry, standing: Standing, prompt_set: str) -> EntryLine:
        """The line of a member of the group whose prompts go by the name ``prompt_set``.

        Raises pydantic's ValidationError for an entry that no specification could have given.
        """
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
            prompt_set=None if entry.prompt_set == prompt_set else entry.prompt_set,
            stale=standing.stale,
            trust=standing.trust,
            stamp=standing.stamp,
            hub_tags=entry.hub_tags or None,
            described_as=None if entry.described_as is None else str(entry.described_as),
            lora_partial=entry.lora_partial,
        )

    def to_bytes(self) -> bytes:
        """Canonical JSON, without the line's end."""
        return canonical_json(self.known())

    @classmethod
    def from_bytes(cls, data: bytes, place: str) -> EntryLine:
        """Read a line; ``place`` is the file and line for the message.

        Raises SpecFormatError for anything that breaks the rules of a field.
        """
        if len(data) > LINE_LIMIT:
            raise SpecFormatError(f"{place}: longer than {LINE_LIMIT:,} bytes", hint=AGAIN)
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise SpecFormatError(f"{place}: {first_fault(error)}", hint=AGAIN) from None
