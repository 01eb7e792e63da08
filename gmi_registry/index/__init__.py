"""Many specifications as one index, which ranks their models by a query."""

from gmi_registry import lazy_names
from gmi_registry.filters import Filters as Filters

_NAMES = {
    "cache": "CacheUse SpecCache",
    "entry": (
        "ComparabilityKey FoldedVersion GroupRanking IndexedSpec IndexEntry PromptMatch Ranking "
        "Repeat SearchHit SkippedSpec SpecStatus Universal"
    ),
    "groups": "Index ModelGroup Selection",
    "hubness": "FrequentNeighbour Hubness measure_hubness",
    "memory": "SpecIndex SpecSource",
    "queries": "ImageQuery IndexQuery ModelQuery TextQuery Wording",
    "rank": "rank_groups",
}

__all__, __getattr__ = lazy_names(__name__, _NAMES)
__all__.append("Filters")
