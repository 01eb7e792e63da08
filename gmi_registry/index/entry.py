"""What the catalogue knows of a model besides its arrays."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from gmi_registry.filters import Traits, bases
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.standing import UNKNOWN, Standing
from gmi_registry.spec import LoraPartial, ModelRef, Spec

__all__ = ["IndexEntry"]


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

    def traits(self, standing: Standing = UNKNOWN) -> Traits:
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
    return None if plain is None else LoraPartial.model_validate(plain)


def _reference(text: str | None) -> ModelRef | None:
    return None if text is None else ModelRef.parse(text)
