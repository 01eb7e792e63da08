from gmi_registry.filters import Filters as Filters
from gmi_registry.index.cache import CacheUse as CacheUse
from gmi_registry.index.cache import SpecCache as SpecCache
from gmi_registry.index.entry import ComparabilityKey as ComparabilityKey
from gmi_registry.index.entry import FoldedVersion as FoldedVersion
from gmi_registry.index.entry import GroupRanking as GroupRanking
from gmi_registry.index.entry import IndexedSpec as IndexedSpec
from gmi_registry.index.entry import IndexEntry as IndexEntry
from gmi_registry.index.entry import PromptMatch as PromptMatch
from gmi_registry.index.entry import Ranking as Ranking
from gmi_registry.index.entry import Repeat as Repeat
from gmi_registry.index.entry import SearchHit as SearchHit
from gmi_registry.index.entry import SkippedSpec as SkippedSpec
from gmi_registry.index.entry import SpecStatus as SpecStatus
from gmi_registry.index.entry import Universal as Universal
from gmi_registry.index.groups import Index as Index
from gmi_registry.index.groups import ModelGroup as ModelGroup
from gmi_registry.index.groups import Selection as Selection
from gmi_registry.index.hubness import FrequentNeighbour as FrequentNeighbour
from gmi_registry.index.hubness import Hubness as Hubness
from gmi_registry.index.hubness import measure_hubness as measure_hubness
from gmi_registry.index.memory import SpecIndex as SpecIndex
from gmi_registry.index.memory import SpecSource as SpecSource
from gmi_registry.index.queries import ImageQuery as ImageQuery
from gmi_registry.index.queries import IndexQuery as IndexQuery
from gmi_registry.index.queries import ModelQuery as ModelQuery
from gmi_registry.index.queries import TextQuery as TextQuery
from gmi_registry.index.queries import Wording as Wording
from gmi_registry.index.rank import rank_groups as rank_groups

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
