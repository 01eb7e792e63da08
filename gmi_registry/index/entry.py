"""What an index knows of each model: its metadata, its status on a hub, and its arrays; and what a
query answers of it.

:class:`ModelMetadata` is the one record of what is shown of a model and filtered by. Entries of an
index, lines of stored files, points of a server and hits of a search all hold it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray

from gmi_registry.errors import InputError
from gmi_registry.filters import Traits, bases
from gmi_registry.scoring import gram
from gmi_registry.spec.reference import ModelRef

if TYPE_CHECKING:
    from pydantic import Field

    from gmi_registry.model import Kind, Trust
    from gmi_registry.spec import LoraPartial, Manifest, Spec
    from gmi_registry.spec.manifest import Count, Name, Sha256, Text

    Reference = ModelRef
    Url = str

_LONGEST_REFERENCE = 600
_FILTERED = ("tags", "base_model", "kind", "nsfw", "hub_tags")


def _reference(value: object) -> ModelRef:
    if isinstance(value, ModelRef):
        return value
    if not isinstance(value, str) or len(value) > _LONGEST_REFERENCE:
        raise ValueError(f"not the name of a model, of {_LONGEST_REFERENCE} characters at most")
    try:
        found = ModelRef.parse(value)
    except InputError as error:
        raise ValueError(error.message) from None
    if str(found) != value:
        raise ValueError(f"the model is not written as {found}")
    return found


def load_constraints() -> None:
    """Give this module the names in its annotations that pydantic reads, and nobody else.

    For whoever makes a ``TypeAdapter`` of a class here. A search that reads nothing that strangers
    wrote does without pydantic, whose import takes as long as the search. ``Reference`` is a model
    as text, in the one spelling of :class:`~gmi_registry.spec.ModelRef`.
    """
    from pydantic import Field, PlainValidator, StringConstraints

    from gmi_registry.model import Kind, Trust
    from gmi_registry.spec import LoraPartial
    from gmi_registry.spec.manifest import Count, Name, Sha256, Text

    globals().update(
        Count=Count,
        Field=Field,
        Kind=Kind,
        LoraPartial=LoraPartial,
        Name=Name,
        Reference=Annotated[ModelRef, PlainValidator(_reference)],
        Sha256=Sha256,
        Text=Text,
        Trust=Trust,
        Url=Annotated[str, StringConstraints(pattern=r"^https?://[!-~]+$", max_length=2000)],
    )


@dataclass(frozen=True, slots=True, order=True)
class ComparabilityKey:
    """What two specifications must share before any distance may be compared between them: encoder,
    default prompt set, kernel, and how many images answer each prompt.

    The last is part of it because Eq. 9 holds the diagonal of the Gram matrix: with more images of
    the same model every distance shrinks, and a ranking would reward the longer specification.
    A developer's own prompt sets, which follow the default one, have no part in it.
    """

    encoder_id: str
    prompt_set_id: str
    kernel: str
    gamma: float
    images_per_prompt: int

    @classmethod
    def of(cls, manifest: Manifest) -> ComparabilityKey:
        """The key of the default prompt set of a specification."""
        return cls(
            encoder_id=manifest.encoder.id,
            prompt_set_id=manifest.prompt_sets[0].id,
            kernel=manifest.kernel.name,
            gamma=manifest.kernel.gamma,
            images_per_prompt=len(manifest.generation.recipe.seeds),
        )

    def __str__(self) -> str:
        """Short and stable, for JSON and tables."""
        return (
            f"{self.encoder_id[:8]}/{self.prompt_set_id[:8]}/{self.kernel}:{self.gamma:g}"
            f"/x{self.images_per_prompt}"
        )


@dataclass(frozen=True)
class SpecStatus:
    """What a hub says of a specification that the specification cannot say itself.

    ``stale``: whether the model's weights are others than those that were described, None where
    nobody knows. ``trust``: who stands behind it, None where only the user is concerned. ``stamp``:
    a text that changes whenever the specification does, where the hub has one.
    """

    stale: bool | None = None
    trust: Trust | None = None
    stamp: Text | None = None


UNKNOWN_STATUS: SpecStatus = SpecStatus()
"""Of a specification that no hub said anything of."""


@dataclass(frozen=True, kw_only=True)
class ModelMetadata:
    """The part of a specification that a search filters by or shows.

    ``ref`` is where the model can be had; ``digest`` is the specification's, SHA-256 in hex.
    ``downloads`` is None where no hub said. ``hub_tags`` are those that the hub lists for the model
    now, which filters compare in place of ``tags``. ``described_as`` is the name that the
    specification has for the model, where the model has another one now. ``lora_partial`` is the
    share of a LoRA's tensors that made the images, None where all did.

    The constraints are checked by pydantic's ``TypeAdapter`` where a stranger wrote the values:
    :meth:`.StoredMetadata.from_bytes` and :meth:`.PointPayload.read`. In JSON ``ref`` is ``model``.
    """

    ref: Annotated[Reference, Field(alias="model")]
    digest: Sha256
    title: Name
    kind: Kind
    tags: Annotated[tuple[Name, ...], Field(max_length=200)] = ()
    base_model: Name | None = None
    url: Url | None = None
    licence: Name | None = None
    nsfw: bool = False
    downloads: Count | None = None
    hub_tags: Annotated[tuple[Name, ...], Field(max_length=1000)] = ()
    described_as: Reference | None = None
    lora_partial: LoraPartial | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """The fields of this class by their names, whatever a subclass adds."""
        return {field.name: getattr(self, field.name) for field in fields(ModelMetadata)}

    @property
    def base_models(self) -> frozenset[str]:
        """What the base models are called: as the hub lists them now, else as the manifest says."""
        return bases(self.ref.hub, self.hub_tags, self.base_model)

    def traits(self, stale: bool | None = None) -> Traits:
        """What filters look at; ``stale`` is what a hub says."""
        filtered = {name: getattr(self, name) for name in _FILTERED}
        return Traits.of(self.ref.hub, **filtered, stale=stale)

    def found_at(self, ref: ModelRef, url: str | None) -> Self:
        """The metadata of a specification that a hub has for ``ref``, whose page is at ``url``.

        The page of a model that was renamed since is no longer the one that the manifest names.
        """
        described = self.ref if self.described_as is None else self.described_as
        if described.repository == ref.repository:
            return replace(self, ref=ref, described_as=None)
        return replace(self, ref=ref, url=url, described_as=described.repository)

    def listed(
        self,
        ref: ModelRef,
        *,
        url: str | None,
        hub_tags: tuple[str, ...],
        nsfw: bool | None,
        downloads: int | None = None,
    ) -> Self:
        """As a hub lists the model now, None where it says nothing: the hub knows the model of
        today, the manifest the one of the day it was described."""
        same = ref == self.ref.identity and ref.revision is None
        found = self if same else self.found_at(ref, url)
        return replace(
            found,
            hub_tags=hub_tags,
            nsfw=found.nsfw if nsfw is None else nsfw,
            downloads=found.downloads if downloads is None else downloads,
        )

    def to_plain(self) -> dict[str, Any]:
        """Plain JSON values, None for what is not known."""
        plain = self.metadata
        del plain["ref"]
        plain["described_as"] = None if self.described_as is None else str(self.described_as)
        plain["lora_partial"] = None if self.lora_partial is None else self.lora_partial.known()
        return {"model": str(self.ref), **plain}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any], **more: Any) -> Self:
        """The inverse of ``to_plain``, of values that were checked before; ``more`` are the fields
        of a subclass. A name that is missing is not known."""
        names = [field.name for field in fields(ModelMetadata)]
        known = {name: plain[name] for name in names if plain.get(name) is not None}
        for name in ("tags", "hub_tags"):
            known[name] = tuple(known.get(name, ()))
        if "described_as" in known:
            known["described_as"] = ModelRef.parse(known["described_as"])
        if "lora_partial" in known:
            from gmi_registry.spec import LoraPartial

            known["lora_partial"] = LoraPartial.model_validate(known["lora_partial"])
        return cls(ref=ModelRef.parse(plain["model"]), **known, **more)


def plain_traits(plain: Mapping[str, Any]) -> Traits:
    """What filters look at, of JSON values as :meth:`ModelMetadata.to_plain` gives them with those
    of a :class:`SpecStatus`: :meth:`ModelMetadata.traits` without making the object."""
    known = {name: plain[name] for name in (*_FILTERED, "stale") if plain.get(name) is not None}
    return Traits.of(plain["model"].partition(":")[0], **known)


@dataclass(frozen=True, kw_only=True)
class IndexEntry(ModelMetadata):
    """The metadata of a model with what it shares with its group: ``encoder`` and ``prompt_set``
    are names for people, whose ids are in ``key``; ``prompts`` are those of the default set."""

    encoder: str
    prompt_set: str
    prompts: tuple[str, ...]
    key: ComparabilityKey

    @classmethod
    def of(cls, spec: Spec) -> IndexEntry:
        """As the specification itself says."""
        manifest = spec.manifest
        model, default = manifest.model, manifest.prompt_sets[0]
        return cls(
            ref=model.ref,
            digest=spec.digest,
            title=model.title,
            kind=model.kind,
            tags=model.tags,
            base_model=model.base_model,
            url=model.url,
            licence=model.licence,
            nsfw=model.nsfw,
            downloads=model.downloads,
            lora_partial=manifest.generation.recipe.lora_partial,
            encoder=f"{manifest.encoder.name}/{manifest.encoder.pretrained}",
            prompt_set=default.name,
            prompts=default.prompts,
            key=ComparabilityKey.of(manifest),
        )

    def to_json(self) -> bytes:
        """UTF-8 JSON that ``from_json`` reads."""
        shared = {name: getattr(self, name) for name in ("encoder", "prompt_set", "prompts")}
        plain = self.to_plain() | shared | {"key": asdict(self.key)}
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> IndexEntry:
        """The inverse of ``to_json``. Raises some Exception for anything that it did not write."""
        plain: dict[str, Any] = json.loads(data)
        if plain.keys() != {"model"} | {field.name for field in fields(cls)} - {"ref"}:
            raise KeyError("fields of another version")
        return cls.from_plain(
            plain,
            encoder=plain["encoder"],
            prompt_set=plain["prompt_set"],
            prompts=tuple(plain["prompts"]),
            key=ComparabilityKey(**plain["key"]),
        )


@dataclass(frozen=True, eq=False)
class IndexedSpec:
    """One specification, ready to be compared: its entry, ``image_embeddings`` [N, D] float16 and
    ``prompt_embeddings`` [P, E] float16 of its default prompt set, and ``gram`` [N, N] float32,
    k(Z, Z) with the γ of the manifest.

    Rows are sorted by prompt, so that all members of one group have one layout: row i answers
    prompt i // images_per_prompt. The Gram matrix is computed here and never taken from a
    published file, where it could be forged.
    """

    entry: IndexEntry
    image_embeddings: NDArray[np.float16]
    prompt_embeddings: NDArray[np.float16]
    gram: NDArray[np.float32]

    @property
    def image_prompt(self) -> NDArray[np.int32]:
        """The prompt that made row i, in 0..P-1: [N]."""
        return image_prompts(len(self.prompt_embeddings), self.entry.key)

    @classmethod
    def of(cls, spec: Spec) -> IndexedSpec:
        """The default block of a specification, which is the first, and so numbered from 0."""
        entry = IndexEntry.of(spec)
        order = np.argsort(spec.image_prompt[spec.default_rows], kind="stable")
        images = np.ascontiguousarray(spec.image_embeddings[spec.default_rows][order])
        return cls(
            entry=entry,
            image_embeddings=images,
            prompt_embeddings=np.ascontiguousarray(spec.prompt_embeddings[: len(entry.prompts)]),
            gram=gram(images, entry.key.gamma).astype(np.float32, copy=False),
        )


def image_prompts(prompts: int, key: ComparabilityKey) -> NDArray[np.int32]:
    """The prompt of each image of a specification with so many ``prompts``: [N]."""
    return np.repeat(np.arange(prompts, dtype=np.int32), key.images_per_prompt)


@dataclass(frozen=True, slots=True)
class PromptMatch:
    """A prompt of the model's whose images are near the query.

    ``index`` counts the prompts of the default set from 0; ``contribution`` is what the prompt adds
    to the cross term of Eq. 9 (weight times kernel, divided by N), whatever score ranked the hit.
    For a question by a text it is what the prompt adds to the mean cosine, for one by a model the
    mean kernel between the two models' images of the prompt.
    """

    index: int
    prompt: str
    contribution: float


@dataclass(frozen=True, slots=True)
class FoldedVersion:
    """Another version of a model that is shown already, with what the ranking says of it."""

    ref: ModelRef
    title: str
    distance: float
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Repeat:
    """Another model, whose specification repeats that of a hit: by it the two cannot be told apart.

    It says the same images, and not whose they were first. ``distance`` is its own.
    """

    ref: ModelRef
    title: str
    distance: float
    stale: bool | None
    trust: Trust | None


@dataclass(frozen=True, slots=True)
class Universal:
    """What is said of a model that is near everything: the share of other models' images that it is
    ``first`` for where their own do not compete, the ``share`` that would fall to it by chance, and
    of background pictures that no model made, None where nobody asked with them."""

    first: float
    share: float
    pictures: float | None


@dataclass(frozen=True, kw_only=True)
class SearchHit(ModelMetadata):
    """One model in a ranking, with its :class:`~gmi_registry.index.entry.ModelMetadata`.

    ``rank`` counts from 1 within ``group``; equal distances are ordered by model. ``distance`` is
    comparable within the group and the score only. ``margin`` is the next model's distance minus
    this one's, None for the last. Where a hub's models have versions that are described apart, the
    nearest is shown, and ``versions`` holds the rest, nearest first. ``confidence`` is the chance,
    in 0..1, that this model made the query's images, if one of those compared in the group did;
    None but for the default score, which alone speaks of one. ``best_prompts`` is sorted, the
    nearest first, and empty where an index has the images of the hits elsewhere. ``stale`` says
    that the model's weights are no longer those that were described, None that nobody knows; a
    stale model stands behind the fresh ones it ties with. ``trust`` says who stands behind the
    specification, None where only the user is concerned. ``repeats`` are other models whose
    specifications repeat this one, the best trusted first, and of those the nearest. The first of
    them all is a hit, the others are where no model that differs wants the room. ``confidence`` is
    as without them. ``universal`` says that the model is known to be near everything, so that being
    near the query says little; None for all others, and where nobody has measured it.
    """

    rank: int
    distance: float
    margin: float | None
    confidence: float | None = None
    best_prompts: tuple[PromptMatch, ...]
    group: ComparabilityKey
    stale: bool | None = None
    trust: Trust | None = None
    versions: tuple[FoldedVersion, ...] = ()
    repeats: tuple[Repeat, ...] = ()
    universal: Universal | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; those of ``group`` are left to who shows it."""
        own = {name: getattr(self, name) for name in ("distance", "margin", "confidence")}
        plain = self.to_plain()
        del plain["hub_tags"]
        return {
            "rank": self.rank,
            **plain,
            **own,
            "best_prompts": [asdict(match) for match in self.best_prompts],
            "stale": self.stale,
            "trust": self.trust,
            "versions": [_named(version) for version in self.versions],
            "repeats": [_named(other) for other in self.repeats],
            "universal": None if self.universal is None else asdict(self.universal),
        }


def _named(other: FoldedVersion | Repeat) -> dict[str, Any]:
    plain = asdict(other)
    del plain["ref"]
    return {"model": str(other.ref), **plain}


@dataclass(frozen=True, slots=True)
class SkippedSpec:
    """A specification that took no part, and why, in one line."""

    model: ModelRef
    reason: str


@dataclass(frozen=True, slots=True)
class GroupRanking:
    """The ranking of one group: ``hits`` are the nearest of ``members`` that were compared, models
    or versions of models.

    ``prompt_set`` and ``encoder`` are the names of what the group shares.
    """

    key: ComparabilityKey
    prompt_set: str
    encoder: str
    members: int
    hits: tuple[SearchHit, ...]


@dataclass(frozen=True, slots=True)
class Ranking:
    """One ranking for each group that can be compared with the query, the largest group first.

    Distances of two groups say nothing about each other. So they are not merged: ranks start again
    at 1 in each group, and each holds up to the number of hits that was asked for.
    ``looked_at`` counts all indexed models, ``matched`` those that passed the filters.
    """

    groups: tuple[GroupRanking, ...]
    skipped: tuple[SkippedSpec, ...]
    looked_at: int
    matched: int

    @property
    def hits(self) -> tuple[SearchHit, ...]:
        """All hits, group after group, each in its own order; the main group's come first."""
        return tuple(hit for group in self.groups for hit in group.hits)
