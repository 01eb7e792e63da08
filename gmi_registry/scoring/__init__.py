"""Distances between a query and models: pure functions of arrays, no reading or writing."""

from gmi_registry import lazy_names

_NAMES = {
    "kernels": "gram grams rbf",
    "paper": "paper_distance paper_distances rkme_distance",
    "query": "Query",
    "scatter": "WithinScatter",
    "scores": "DEFAULT_SCORE KERNEL_SCORES PAPER_GAMMA SCORES Candidates Score ascending margins "
    "mid_ranks score_named top_k_credit",
}

__all__, __getattr__ = lazy_names(__name__, _NAMES)
