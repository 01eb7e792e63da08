"""Distances between a query and models: pure functions of arrays, no reading or writing."""

from gmi_registry.lazy import lazy_names

_NAMES = {
    "kernels": "gram grams rbf",
    "paper": "paper_distance paper_distances rkme_distance",
    "query": "Query",
    "ranking": "ascending margins mid_ranks top_k_credit",
    "scatter": "WithinScatter",
    "scores": "DEFAULT_SCORE KERNEL_SCORES PAPER_GAMMA SCORES Candidates Score score_named",
}

__all__, __getattr__ = lazy_names(__name__, _NAMES)
