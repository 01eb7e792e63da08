"""Many specifications in one catalogue that can be ranked against a query."""

from gmi_registry.filters import Filters
from gmi_registry.index.cache import CacheUse, SpecCache
from gmi_registry.index.catalogue import SpecIndex
from gmi_registry.index.comparison import answer
from gmi_registry.index.entry import IndexEntry
from gmi_registry.index.hubness import Hub, Hubness, measured
from gmi_registry.index.image_question import ImageQuestion, Wording
from gmi_registry.index.indexed import IndexedSpec
from gmi_registry.index.key import ComparabilityKey
from gmi_registry.index.model_question import ModelQuestion
from gmi_registry.index.question import Question
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
from gmi_registry.index.selection import Index, Selection
from gmi_registry.index.source import SpecSource
from gmi_registry.index.standing import Standing
from gmi_registry.index.text_question import TextQuestion

__all__ = [
    "CacheUse",
    "ComparabilityKey",
    "Filters",
    "FoldedVersion",
    "GroupRanking",
    "Hub",
    "Hubness",
    "ImageQuestion",
    "Index",
    "IndexEntry",
    "IndexedSpec",
    "ModelQuestion",
    "PromptMatch",
    "Question",
    "Ranking",
    "Repeat",
    "SearchHit",
    "Selection",
    "SkippedSpec",
    "SpecCache",
    "SpecIndex",
    "SpecSource",
    "Standing",
    "TextQuestion",
    "Universal",
    "Wording",
    "answer",
    "measured",
]
