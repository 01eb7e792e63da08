"""The model that a specification describes, and the weight files that it is bound to."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from gmi_registry.errors import InputError
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.fields import Count, Name, Part, RelativePath, Sha256
from gmi_registry.spec.reference import HubName, ModelRef

__all__ = ["DescribedModel", "WeightFile"]


class WeightFile(Part):
    """One weight file: its path in the model's repository, its size in bytes and its digest."""

    path: RelativePath
    size: Count
    sha256: Sha256


class DescribedModel(Part):
    """The model, as its hub described it when the specification was made.

    The specification is bound to ``weights`` (sorted by path); ``revision`` is a record only,
    since committing a specification beside a model changes the repository's revision.
    """

    hub: HubName
    id: Name
    revision: Name | None = None
    title: Name
    url: Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)] | None = (
        None
    )
    kind: Literal["checkpoint", "lora", "single-file"]
    base_model: Name | None = None
    weights: Annotated[tuple[WeightFile, ...], Field(min_length=1, max_length=200)]
    tags: Annotated[tuple[Name, ...], Field(max_length=200)] = ()
    licence: Name | None = None
    nsfw: bool = False
    downloads: Count | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            ModelRef(self.hub, self.id, self.revision)
        except InputError as error:
            raise ValueError(error.message) from None
        paths = [weight.path for weight in self.weights]
        if any(first >= second for first, second in pairwise(paths)):
            raise ValueError("weights must be sorted by path, each path once")
        if len(set(self.tags)) != len(self.tags):
            raise ValueError("a tag appears twice")
        return self

    @property
    def ref(self) -> ModelRef:
        """The model's name, with the revision it had."""
        return ModelRef(self.hub, self.id, self.revision)

    @property
    def weights_digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON list of [path, sha256]: equal for equal weights."""
        return canonical_digest([[weight.path, weight.sha256] for weight in self.weights])
