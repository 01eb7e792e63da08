"""Filters, as Qdrant applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from gmi_registry.index.filters import Filters
from gmi_registry.model import Kind, is_kind
from gmi_registry.spec.reference import HubName

if TYPE_CHECKING:
    from qdrant_client.models import Filter

__all__ = ["condition"]


def condition(filters: Filters, hub: HubName | None) -> Filter | None:
    """Lets through what ``filters`` does, on ``hub`` (None for any), and no points but those of
    models; None where all models pass. Looks at the fields of
    :data:`~gmi_registry.index.served.row.FILTERED`."""
    from qdrant_client import models

    def equals(field: str, value: str) -> models.FieldCondition:
        return models.FieldCondition(key=field, match=models.MatchValue(value=value))

    wanted: list[models.Condition] = [equals("folded.tags", tag.casefold()) for tag in filters.tags]
    refused: list[models.Condition] = [
        equals("folded.tags", tag.casefold()) for tag in filters.not_tags
    ]
    if filters.base_model is not None:
        names = {name.casefold() for name in (filters.base_model, *filters.base_names)}
        alike = models.MatchAny(any=sorted(names))
        wanted.append(models.FieldCondition(key="folded.base_model", match=alike))
    if filters.kind is not None:
        kinds = {
            filters.kind.casefold(),
            *(it for it in get_args(Kind) if is_kind(filters.kind, it)),
        }
        any_of = models.MatchAny(any=sorted(kinds))
        wanted.append(models.FieldCondition(key="folded.kind", match=any_of))
    if filters.fresh_only:
        refused.append(equals("folded.marks", "stale"))
    if not filters.nsfw:
        # Of Civitai alone, which rates them.
        refused.append(
            models.Filter(must=[equals("hub", "civitai"), equals("folded.marks", "nsfw")])
        )
    if hub is not None:
        wanted.append(equals("hub", hub))
    elif not (wanted or refused):
        return None
    else:
        anywhere = models.MatchAny(any=[*get_args(HubName)])
        wanted.append(models.FieldCondition(key="hub", match=anywhere))
    return models.Filter(must=wanted, must_not=refused)
