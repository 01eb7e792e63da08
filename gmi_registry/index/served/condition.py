"""Filters, as Qdrant applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gmi_registry.index.filters import Filters
from gmi_registry.spec.reference import HubName

if TYPE_CHECKING:
    from qdrant_client.models import Filter

__all__ = ["condition"]


def condition(filters: Filters, *, hub: HubName | None, nsfw: bool) -> Filter:
    """Lets through what ``filters`` does, on ``hub`` (None for any), and without ``nsfw`` only
    models that are not marked so. Looks at the fields of
    :data:`~gmi_registry.index.served.row.FILTERED`."""
    from qdrant_client import models

    def equals(field: str, value: str | bool) -> models.FieldCondition:
        return models.FieldCondition(key=field, match=models.MatchValue(value=value))

    wanted = [equals("folded.tags", tag.casefold()) for tag in filters.tags]
    refused = [equals("folded.tags", tag.casefold()) for tag in filters.not_tags]
    for field, value in (("base_model", filters.base_model), ("kind", filters.kind)):
        if value is not None:
            wanted.append(equals(f"folded.{field}", value.casefold()))
    if hub is not None:
        wanted.append(equals("hub", hub))
    if filters.fresh_only:
        refused.append(equals("stale", True))
    if not nsfw:
        refused.append(equals("nsfw", True))
    return models.Filter(must=[*wanted], must_not=[*refused])
