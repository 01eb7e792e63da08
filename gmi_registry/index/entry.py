"""What an index knows of one model: its metadata, its status on a hub, and its arrays.

Two specifications can be compared where their :class:`ComparabilityKey` is the same.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gmi_registry.filters import Traits, bases
from gmi_registry.scoring import gram
from gmi_registry.spec.reference import ModelRef

if TYPE_CHECKING:
    from gmi_registry.model import Trust
    from gmi_registry.spec import LoraPartial, Manifest, Spec


@dataclass(frozen=True, slots=True, order=True)
class ComparabilityKey:
    """Encoder, default prompt set, kernel, and how many images answer each prompt.

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


@dataclass(frozen=True, slots=True)
class SpecStatus:
    """``stale``: whether the model's weights are others than those that were described, None where
    nobody knows. ``trust``: who stands behind it, None where only the user is concerned. ``stamp``:
    a text that changes whenever the specification does, where the hub has one."""

    stale: bool | None = None
    trust: Trust | None = None
    stamp: str | None = None


UNKNOWN_STATUS: SpecStatus = SpecStatus()
"""Of a specification that no hub said anything of."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """The part of a manifest that a search filters on or shows.

    ``model`` is where the model can be had; ``digest`` is the specification's, SHA-256 in hex.
    ``encoder`` and ``prompt_set`` are names for people, the ids are in ``key``. ``prompts`` are
    those of the default set. ``downloads`` is None where no hub said. ``hub_tags`` are those that
    the hub lists for the model now, which filters compare in place of ``tags``. ``described_as`` is
    the name that the specification has for the model, where the model has another one now.
    ``lora_partial`` is the share of a LoRA's tensors that made the images, None where all did.
    """

    model: ModelRef
    digest: str
    title: str
    kind: str
    tags: tuple[str, ...]
    base_model: str | None
    url: str | None
    licence: str | None
    nsfw: bool
    downloads: int | None
    encoder: str
    prompt_set: str
    prompts: tuple[str, ...]
    key: ComparabilityKey
    hub_tags: tuple[str, ...] = ()
    described_as: ModelRef | None = None
    lora_partial: LoraPartial | None = None

    def found_at(self, model: ModelRef, url: str | None) -> IndexEntry:
        """The entry of a specification that a hub has for ``model``, whose page is at ``url``.

        The page of a model that was renamed since is no longer the one that the manifest names.
        """
        described = self.model if self.described_as is None else self.described_as
        if described.repository == model.repository:
            return replace(self, model=model, described_as=None)
        return replace(self, model=model, url=url, described_as=described.repository)

    @classmethod
    def of(cls, spec: Spec) -> IndexEntry:
        """As the specification itself says."""
        manifest = spec.manifest
        model, default = manifest.model, manifest.prompt_sets[0]
        return cls(
            model=model.ref,
            digest=spec.digest,
            title=model.title,
            kind=model.kind,
            tags=model.tags,
            base_model=model.base_model,
            url=model.url,
            licence=model.licence,
            nsfw=model.nsfw,
            downloads=model.downloads,
            encoder=f"{manifest.encoder.name}/{manifest.encoder.pretrained}",
            prompt_set=default.name,
            prompts=default.prompts,
            key=ComparabilityKey.of(manifest),
            lora_partial=manifest.generation.recipe.lora_partial,
        )

    @property
    def base_models(self) -> frozenset[str]:
        """What the base models are called: as the hub lists them now, else as the manifest says."""
        return bases(self.model.hub, self.hub_tags, self.base_model)

    def traits(self, standing: SpecStatus = UNKNOWN_STATUS) -> Traits:
        """What filters look at, of the model of which a hub says ``standing``."""
        return Traits.of(
            self.model.hub,
            tags=self.tags,
            base_model=self.base_model,
            kind=self.kind,
            nsfw=self.nsfw,
            hub_tags=self.hub_tags,
            stale=standing.stale,
        )

    def to_json(self) -> bytes:
        """UTF-8 JSON that ``from_json`` reads."""
        plain = asdict(self) | {
            "model": str(self.model),
            "described_as": None if self.described_as is None else str(self.described_as),
            "lora_partial": None if self.lora_partial is None else self.lora_partial.known(),
        }
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> IndexEntry:
        """The inverse of ``to_json``. Raises some Exception for anything that it did not write."""
        plain: dict[str, Any] = json.loads(data)
        if plain.keys() != {field.name for field in fields(cls)}:
            raise KeyError("fields of another version")
        return cls(
            **plain
            | {
                "model": ModelRef.parse(plain["model"]),
                "described_as": _reference(plain["described_as"]),
                "lora_partial": _share(plain["lora_partial"]),
                "tags": tuple(plain["tags"]),
                "prompts": tuple(plain["prompts"]),
                "hub_tags": tuple(plain["hub_tags"]),
                "key": ComparabilityKey(**plain["key"]),
            }
        )


def _share(plain: dict[str, int] | None) -> LoraPartial | None:
    if plain is None:
        return None
    from gmi_registry.spec import LoraPartial

    return LoraPartial.model_validate(plain)


def _reference(text: str | None) -> ModelRef | None:
    return None if text is None else ModelRef.parse(text)


@dataclass(frozen=True, eq=False)
class IndexedSpec:
    """``image_embeddings`` [N, D] float16, ``prompt_embeddings`` [P, E] float16 and ``gram`` [N, N]
    float32, k(Z, Z) with the γ of the manifest.

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
        each = self.entry.key.images_per_prompt
        return np.repeat(np.arange(len(self.prompt_embeddings), dtype=np.int32), each)

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
