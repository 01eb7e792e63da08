"""What a model's card advises, or its base model's card in its stead."""

from __future__ import annotations

from typing import Literal, Protocol, overload

from gmi_registry.model import ModelCard
from gmi_registry.spec import ModelRef

__all__ = ["Carded", "advised", "adviser"]


class Carded(Protocol):
    """A model with its card and perhaps a base, on this disk or still on its hub."""

    @property
    def ref(self) -> ModelRef: ...
    @property
    def card(self) -> ModelCard: ...
    @property
    def base(self) -> Carded | None: ...


@overload
def advised(
    model: Carded, field: Literal["prompt_set", "encoder", "prompt_template"]
) -> str | None: ...
@overload
def advised(model: Carded, field: Literal["steps"]) -> int | None: ...
@overload
def advised(model: Carded, field: Literal["guidance_scale"]) -> float | None: ...
def advised(model: Carded, field: str) -> object:
    """A field of the card's ``gmi`` section: the model's own, else its base's, else None.

    A family shares one base, so that what is said there holds for adapters that say nothing.
    """
    found = adviser(model, field)
    return None if found is None else getattr(found.card, field)


def adviser(model: Carded, field: str) -> Carded | None:
    """Whose card it is that :func:`advised` reads; None where none says anything."""
    described: Carded | None = model
    while described is not None:
        if getattr(described.card, field) is not None:
            return described
        described = described.base
    return None
