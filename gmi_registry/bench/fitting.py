"""What is chosen by trying it out: on the dev tasks and their answers, never on the test tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmi_registry.bench.gallery import Shelf
from gmi_registry.bench.method import Fit, Gallery, Queries, default_by, paper_by
from gmi_registry.bench.tasks import read_labels, read_tasks
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.kernels import Floats
from gmi_registry.scoring.ranking import mid_ranks, top_k_credit
from gmi_registry.scoring.scores import PAPER_GAMMA

__all__ = ["GAMMAS", "SHRINKAGES", "UNFITTED", "fit", "fit_to"]

GAMMAS = (0.005, 0.006, 0.007, 0.008, 0.009, 0.01, 0.02, 0.03, 0.04, 0.05)
"""The values that the paper tries."""

SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

UNFITTED = Fit(PAPER_GAMMA, SHRINKAGE)
"""What stands where nothing was fitted."""


def fit(folder: Path, shelf: Shelf, protocol: str) -> tuple[Fit, dict[str, dict[str, float]]]:
    """The best γ for Eq. 9 and shrinkage for the default score, on a protocol's dev tasks.

    Best is the largest top-1 accuracy, then the smallest mean rank, then the value tried first.
    Also returns the top-1 accuracy of every value. To fit another parameter, add it to
    :class:`~gmi_registry.bench.method.Fit` and a line here; the answers come from
    ``read_labels(folder, "dev")``, and nothing here has any others.
    """
    tasks = read_tasks(folder, "dev", protocol)
    truth = np.array(read_labels(folder, "dev")[protocol])
    queries, members = shelf.queries("dev", tasks)
    return fit_to(shelf.gallery(protocol), queries, members, truth)


def fit_to(
    gallery: Gallery,
    queries: Queries,
    members: NDArray[np.intp],
    truth: NDArray[np.integer],
) -> tuple[Fit, dict[str, dict[str, float]]]:
    """Likewise for Q tasks, of which ``members`` [Q, k] are the images among ``queries`` and
    ``truth`` [Q] the right models in ``gallery``."""

    def judged(distances: Floats) -> tuple[float, float]:
        of_tasks = distances[members].mean(axis=1)
        right = mid_ranks(of_tasks)[np.arange(len(truth)), truth]
        return float(top_k_credit(of_tasks, truth, 1).mean()), float(right.mean())

    gamma, by_gamma = _best(
        GAMMAS, lambda value: judged(paper_by(gallery, queries, UNFITTED, gamma=value))
    )
    shrinkage, by_shrinkage = _best(
        SHRINKAGES, lambda value: judged(default_by(gallery, queries, UNFITTED, shrinkage=value))
    )
    return Fit(gamma, shrinkage), {"gamma": by_gamma, "shrinkage": by_shrinkage}


def _best(
    values: Sequence[float], judge: Callable[[float], tuple[float, float]]
) -> tuple[float, dict[str, float]]:
    judged = {value: judge(value) for value in values}
    best = max(values, key=lambda value: (judged[value][0], -judged[value][1]))
    return best, {str(value): round(top_1, 6) for value, (top_1, _) in judged.items()}
