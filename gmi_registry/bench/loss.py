"""What is lost for models that join after everything was fitted."""

from __future__ import annotations

import numpy as np

from gmi_registry.bench.estimate import mean_estimates
from gmi_registry.bench.latecomer import Latecomers
from gmi_registry.bench.results import Late, LateMethod
from gmi_registry.bench.scored import Scored
from gmi_registry.bench.title import ordered_methods
from gmi_registry.scoring.ranking import top_k_credit

__all__ = ["late_loss"]


def late_loss(test: Scored, found: Latecomers) -> Late | None:
    """Top-1 accuracy on the tasks of ``test``, with four models late and with none.

    A task of a model that was late in several choices counts once, with the mean of these. None
    where nobody was late.
    """
    if not len(found.late):
        return None
    late = np.stack([np.isin(test.truth, four) for four in found.late])
    times = late.sum(axis=0)
    own = times > 0
    methods = []
    for name in ordered_methods(list(found.distances)):
        credit = np.stack([top_k_credit(each, test.truth, 1) for each in found.distances[name]])
        whole, joined = credit[0], credit[1:]
        as_late = (joined * late).sum(axis=0)[own] / times[own]
        of_all = mean_estimates(np.stack([whole, whole - joined.mean(axis=0)], axis=1))
        of_late = mean_estimates(np.stack([as_late, whole[own] - as_late], axis=1))
        methods.append(
            LateMethod(
                method=name, top_1=of_all[0], late=of_late[0], lost_late=of_late[1], lost=of_all[1]
            )
        )
    choices = [[test.models[model] for model in four] for four in found.late]
    return Late(choices=choices, tasks=int(own.sum()), methods=methods)
