"""Filters, as Qdrant applies them."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from gmi_registry.filters import Clause, Filters
from gmi_registry.spec.reference import HubName

if TYPE_CHECKING:
    from qdrant_client.models import Condition, Filter

__all__ = ["condition"]


def condition(filters: Filters, hub: HubName | None) -> Filter | None:
    """Lets through what ``filters`` does, on ``hub`` (None for any), and no points but those of
    models; None where all models pass. Looks at the fields of
    :data:`~gmi_registry.index.served.row.FILTERED`."""
    from qdrant_client import models

    wanted = [_condition(clause) for clause in filters.clauses if clause.wanted]
    refused = [_condition(clause) for clause in filters.clauses if not clause.wanted]
    if hub is not None:
        wanted.append(_any_of("hub", (hub,)))
    elif not (wanted or refused):
        return None
    else:
        wanted.append(_any_of("hub", get_args(HubName)))
    return models.Filter(must=wanted, must_not=refused)


def _condition(clause: Clause) -> Condition:
    from qdrant_client import models

    if clause.words == ("mature",) and clause.field == "mark":
        # A point says of every model what its specification does; Civitai alone rates.
        return models.Filter(
            must=[_any_of("hub", ("civitai",)), _any_of("folded.marks", ("nsfw",))]
        )
    name = {"tag": "tags", "base_model": "base_model", "kind": "kind", "mark": "marks"}
    return _any_of(f"folded.{name[clause.field]}", clause.words)


def _any_of(field: str, words: tuple[str, ...]) -> Condition:
    from qdrant_client import models

    match = models.MatchValue(value=words[0]) if len(words) == 1 else models.MatchAny(any=[*words])
    return models.FieldCondition(key=field, match=match)
