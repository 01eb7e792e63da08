"""Models as hubs deliver them and generation loads them, and who stands behind a specification."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from gmi_registry.errors import GmiError
    from gmi_registry.spec import ModelRef
    from gmi_registry.spec.manifest import WeightFile

Trust = Literal["owner", "verified", "self-published"]
"""The model's owner, beside whose model it lies; a registry's maintainers, who drew some of its
images again; or whoever put it into the registry."""

Kind = Literal["checkpoint", "lora", "single-file", "textual-inversion"]
"""A diffusers folder, an adapter on a base model, one file with a whole model or its network alone,
or words that a base model was taught."""

BaseOrigin = Literal["option", "card", "metadata", "architecture"]
"""Who named a model's base: whoever published it, the model card or the hub, the metadata in the
model's file, or nobody, so that it was taken for the usual one of such networks."""


@dataclass(frozen=True)
class ModelCard:
    """What a model card says of its model, as far as this package uses it.

    ``base_model`` is the id of the model that it was made from, on the same hub, or None;
    ``other_bases`` are those that the card names after it, and ``base_model_relation`` is what it
    says the model is of them (``adapter``, ``finetune``, ``merge``, ``quantized``).
    ``trigger_words`` go before every prompt. The next come from the card's ``gmi`` section: the
    default prompt set and the encoder of a model family, and the settings that its author advises:
    steps, guidance, the words around a prompt (``{prompt}, pixel art``), the scheduler (a name, as
    ``--scheduler`` takes it), CLIP skip, the negative prompt, the size in pixels, and what the
    network predicts (``epsilon``, ``v_prediction``). None leaves the package's own. ``notes`` are
    one line for each field that could not be used and was left out.
    """

    title: str
    tags: tuple[str, ...] = ()
    licence: str | None = None
    base_model: str | None = None
    nsfw: bool = False
    downloads: int | None = None
    trigger_words: tuple[str, ...] = ()
    prompt_set: str | None = None
    encoder: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    prompt_template: str | None = None
    scheduler: str | None = None
    true_cfg_scale: float | None = None
    clip_skip: int | None = None
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None
    prediction_type: str | None = None
    notes: tuple[str, ...] = ()
    other_bases: tuple[str, ...] = ()
    base_model_relation: str | None = None


@dataclass(frozen=True)
class ModelFiles:
    """One model on this disk.

    ``path`` is a folder, but the file of a ``single-file`` that is no network in a folder of its
    own; ``weights`` are its weight files, sorted by path, their digests taken from the bytes on the
    disk. ``base`` holds the base model's files for a LoRA or a textual inversion, and for a single
    file whose layout the base's configuration describes; None for a checkpoint, or where the base
    is not here. ``revision`` (in ``ref``) is the hub's own name for this state of the model.
    ``base_origin`` says who named the base, None where there is none, and ``base_revision`` is the
    one that was named with it; ``base_refusal`` is why its file tells none, where nobody named one.
    ``notes`` are lines for people about how the base was found.
    """

    ref: ModelRef
    kind: Kind
    path: Path
    card: ModelCard
    weights: tuple[WeightFile, ...]
    url: str | None = None
    base: ModelFiles | None = None
    base_origin: BaseOrigin | None = None
    base_refusal: GmiError | None = field(default=None, compare=False)
    base_revision: str | None = None
    notes: tuple[str, ...] = ()
