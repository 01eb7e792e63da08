"""Distances between a query and models: pure functions of arrays, no reading or writing."""

from gmi_registry.scoring.kernels import gram, grams, rbf
from gmi_registry.scoring.paper import paper_distance, paper_distances, rkme_distance
from gmi_registry.scoring.query import Query
from gmi_registry.scoring.ranking import ascending, margins, mid_ranks, top_k_credit
from gmi_registry.scoring.scatter import WithinScatter
from gmi_registry.scoring.scores import (
    DEFAULT_SCORE,
    KERNEL_SCORES,
    PAPER_GAMMA,
    SCORES,
    Candidates,
    Score,
    score_named,
)

__all__ = [
    "DEFAULT_SCORE",
    "KERNEL_SCORES",
    "PAPER_GAMMA",
    "SCORES",
    "Candidates",
    "Query",
    "Score",
    "WithinScatter",
    "ascending",
    "gram",
    "grams",
    "margins",
    "mid_ranks",
    "paper_distance",
    "paper_distances",
    "rbf",
    "rkme_distance",
    "score_named",
    "top_k_credit",
]
