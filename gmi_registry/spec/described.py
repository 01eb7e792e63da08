"""The model that a specification describes, and the weight files that it is bound to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from gmi_registry.errors import InputError
from gmi_registry.spec.canonical import canonical_digest
from gmi_registry.spec.fields import Count, Name, Part, RelativePath, Sha256
from gmi_registry.spec.reference import HubName, ModelRef

__all__ = ["DescribedModel", "OwnWeights", "WeightFile", "are_among"]

OwnWeights = Callable[[], Mapping[str, str | None] | None]
"""Asks for the weight files of the model in whose place a specification was found: path to SHA-256
in hex, None for a file whose digest is not known; None where nothing is known."""


class WeightFile(Part):
    """One weight file: its path in the model's repository, its size in bytes and its digest."""

    path: RelativePath
    size: Count
    sha256: Sha256


def _sorted_by_path(weights: tuple[WeightFile, ...]) -> tuple[WeightFile, ...]:
    if any(first.path >= second.path for first, second in pairwise(weights)):
        raise ValueError("must be sorted by path, each path once")
    return weights


_WeightFiles = Annotated[
    tuple[WeightFile, ...], Field(min_length=1, max_length=200), AfterValidator(_sorted_by_path)
]


class DescribedModel(Part):
    """The model, as its hub described it when the specification was made.

    The specification is bound to ``weights``, the model's own files, and to ``base_weights``, the
    files of the base model that a LoRA or a single file was loaded on; both are sorted by path,
    1 to 200 files. ``base_weights`` is None for a checkpoint, and where the base is not known.
    ``base_origin`` says who named the base where that was neither the model card nor the hub, and
    ``base_revision`` is the one that was named.
    ``revision`` is a record only, since committing a specification beside a model changes the
    repository's revision. Raises pydantic's ValidationError for values that break these rules.
    """

    hub: HubName
    id: Name
    revision: Name | None = None
    title: Name
    url: Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)] | None = (
        None
    )
    kind: Literal["checkpoint", "lora", "single-file", "textual-inversion"]
    base_model: Name | None = None
    base_origin: Literal["option", "metadata", "architecture"] | None = None
    base_revision: Name | None = None
    weights: _WeightFiles
    base_weights: _WeightFiles | None = None
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
        if self.kind == "checkpoint" and self.base_weights is not None:
            raise ValueError("a checkpoint is whole, so it has no base_weights")
        for name in ("base_origin", "base_revision"):
            if getattr(self, name) is None:
                continue
            if self.kind == "checkpoint":
                raise ValueError(f"a checkpoint is whole, so it has no {name}")
            if self.base_model is None:
                raise ValueError(f"{name} says something of base_model, which is absent")
        if len(set(self.tags)) != len(self.tags):
            raise ValueError("a tag appears twice")
        return self

    @property
    def ref(self) -> ModelRef:
        """The model's name, with the revision it had."""
        return ModelRef(self.hub, self.id, self.revision)

    @property
    def named_base(self) -> ModelRef | None:
        """The base that whoever published named, as its hub is asked for it; None for any other."""
        if self.base_origin != "option" or self.base_model is None:
            return None
        files = [weight.path for weight in self.base_weights or ()]
        alone = files[0] if len(files) == 1 and "/" not in files[0] else None
        hub: HubName = "local" if self.hub == "local" else "hf"
        try:
            file = alone if hub == "hf" else None
            return ModelRef(hub, self.base_model, self.base_revision, file)
        except InputError:
            return None

    @property
    def weights_digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON list of [path, sha256] of the model's own files.

        Equal for equal weights; the base has its own digest.
        """
        return _digest(self.weights)

    @property
    def base_weights_digest(self) -> str | None:
        """Like ``weights_digest``, over ``base_weights``; None where there are none."""
        return None if self.base_weights is None else _digest(self.base_weights)


def are_among(weights: Sequence[WeightFile], own: Mapping[str, str | None] | None) -> bool:
    """Whether each of ``weights`` is one of a model's ``own`` files: the same path and digest.

    Files beside them do not count, since an author describes one variant of several. False where
    a digest is not known, and for no weights at all.
    """
    if not own or not weights:
        return False
    return all(own.get(weight.path) == weight.sha256 for weight in weights)


def _digest(weights: tuple[WeightFile, ...]) -> str:
    return canonical_digest([[weight.path, weight.sha256] for weight in weights])
