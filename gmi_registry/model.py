"""A model as files on this disk: what a hub delivers and generation loads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gmi_registry.spec import ModelRef
from gmi_registry.spec.manifest import WeightFile

__all__ = ["Kind", "ModelCard", "ModelFiles"]

Kind = Literal["checkpoint", "lora", "single-file"]
"""A diffusers folder, an adapter on a base model, or one file that holds a whole model."""


@dataclass(frozen=True)
class ModelCard:
    """What a model card says of its model, as far as this package uses it.

    ``base_model`` is the id of the model that it was made from, on the same hub, or None.
    ``trigger_words`` go before every prompt. Five come from the card's ``gmi`` field: the default
    prompt set and the encoder of a model family, and the steps, the guidance and the words around
    a prompt (``{prompt}, pixel art``) that its author advises; None leaves the package's own.
    ``notes`` are one line for each field that could not be used and was left out.
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
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFiles:
    """One model on this disk.

    ``path`` is a folder (``checkpoint``, ``lora``) or one file (``single-file``); ``weights``
    are its weight files, sorted by path, their digests taken from the bytes on the disk.
    ``base`` holds the base model's files for a LoRA, and for a single file whose layout the
    base's configuration describes; None for a checkpoint, or where the base is not at hand.
    ``revision`` (in ``ref``) is the hub's own name for this state of the model.
    """

    ref: ModelRef
    kind: Kind
    path: Path
    card: ModelCard
    weights: tuple[WeightFile, ...]
    url: str | None = None
    base: ModelFiles | None = None
