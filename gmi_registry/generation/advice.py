"""What a model's card advises, or its base model's card in its stead."""

from __future__ import annotations

from typing import Literal, overload

from gmi_registry.model import ModelFiles

__all__ = ["advised"]


@overload
def advised(
    model: ModelFiles, field: Literal["prompt_set", "encoder", "prompt_template"]
) -> str | None: ...
@overload
def advised(model: ModelFiles, field: Literal["steps"]) -> int | None: ...
@overload
def advised(model: ModelFiles, field: Literal["guidance_scale"]) -> float | None: ...
def advised(model: ModelFiles, field: str) -> object:
    """A field of the card's ``gmi`` section: the model's own, else its base's, else None.

    A family shares one base, so that what is said there holds for adapters that say nothing.
    """
    described: ModelFiles | None = model
    while described is not None:
        value: object = getattr(described.card, field)
        if value is not None:
            return value
        described = described.base
    return None
