"""Many specifications as one index, which ranks their models by a query."""

from gmi_registry.filters import Filters
from gmi_registry.index.cache import CacheUse, SpecCache
from gmi_registry.index.entry import ComparabilityKey, IndexedSpec, IndexEntry, SpecStatus
from gmi_registry.index.groups import Index, ModelGroup, Selection
from gmi_registry.index.hubness import FrequentNeighbour, Hubness, measure_hubness
from gmi_registry.index.memory import SpecIndex, SpecSource
from gmi_registry.index.queries import ImageQuery, IndexQuery, ModelQuery, TextQuery, Wording
from gmi_registry.index.rank import rank_groups
from gmi_registry.index.result import (
    FoldedVersion,
    GroupRanking,
    PromptMatch,
    Ranking,
    Repeat,
    SearchHit,
    SkippedSpec,
    Universal,
)

__all__ = [
    "CacheUse",
    "ComparabilityKey",
    "Filters",
    "FoldedVersion",
    "FrequentNeighbour",
    "GroupRanking",
    "Hubness",
    "ImageQuery",
    "Index",
    "IndexEntry",
    "IndexQuery",
    "IndexedSpec",
    "ModelGroup",
    "ModelQuery",
    "PromptMatch",
    "Ranking",
    "Repeat",
    "SearchHit",
    "Selection",
    "SkippedSpec",
    "SpecCache",
    "SpecIndex",
    "SpecSource",
    "SpecStatus",
    "TextQuery",
    "Universal",
    "Wording",
    "measure_hubness",
    "rank_groups",
]
