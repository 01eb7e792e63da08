"""Figure 7: how much a method depends on γ, for raw features and for those of length 1."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from gmi_registry.bench.gallery import Shelf
from gmi_registry.bench.method import Fit, Gallery, Prompts, Queries, paper_by
from gmi_registry.bench.results import Sweep
from gmi_registry.bench.scored import Scored
from gmi_registry.scoring.default import SHRINKAGE
from gmi_registry.scoring.query import unit_rows
from gmi_registry.scoring.ranking import top_k_credit

__all__ = ["GAMMAS", "gamma_sweep"]

GAMMAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


_METHODS: tuple[tuple[str, Prompts], ...] = (("paper", "pseudo"), ("rkme-clip", "none"))
_FEATURES: tuple[Literal["raw", "unit"], ...] = ("raw", "unit")


def gamma_sweep(folder: Path, test: Scored, own: float) -> list[Sweep]:
    """Top-1 accuracy of Eq. 9 and of RKME-CLIP on the tasks of ``test``, for each of ``GAMMAS``.

    ``own`` is the run's γ. Distances are worked out anew from the embeddings in ``folder``;
    where these are gone the list is empty. Raises InputError for embeddings that do not match.
    """
    kept = [f"embeddings/{part}.npz" for part in ("specs", "test")] + ["pseudo/test.npz"]
    if not all((folder / name).is_file() for name in kept):
        return []
    shelf = Shelf(folder, own)
    queries, members = shelf.queries("test", test.tasks)
    gallery = shelf.gallery(test.protocol)
    found = []
    shown = {"raw": (gallery, queries), "unit": _of_length_1(gallery, queries)}
    for method, prompts in _METHODS:
        if method not in test.distances:
            continue
        for features in _FEATURES:
            accuracies = []
            for gamma in GAMMAS:
                fit = Fit(gamma, SHRINKAGE)
                each = paper_by(*shown[features], fit, prompts=prompts, gamma=gamma)
                credit = top_k_credit(each[members].mean(axis=1), test.truth, 1)
                accuracies.append(round(float(credit.mean()), 6))
            found.append(
                Sweep(method=method, features=features, gammas=list(GAMMAS), top_1=accuracies)
            )
    return found


def _of_length_1(gallery: Gallery, queries: Queries) -> tuple[Gallery, Queries]:
    members = tuple(
        replace(member, image_embeddings=unit_rows(member.image_embeddings), grams=None)
        for member in gallery.members
    )
    images = np.asarray(unit_rows(queries.images), np.float64)
    return Gallery(members, gallery.pictures), replace(queries, images=images)
