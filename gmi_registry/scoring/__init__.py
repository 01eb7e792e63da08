"""Distances between a query and models: pure functions of arrays, no reading or writing."""

from gmi_registry.scoring.candidates import PAPER_GAMMA, Candidates
from gmi_registry.scoring.kernels import gram, grams, rbf
from gmi_registry.scoring.paper import paper_distance, paper_distances, rkme_distance
from gmi_registry.scoring.query import Query
from gmi_registry.scoring.ranking import ascending, margins, mid_ranks, top_k_credit
from gmi_registry.scoring.scores import DEFAULT_SCORE, KERNEL_SCORES, SCORES, Score, score_named
from gmi_registry.scoring.within import WithinScatter

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
