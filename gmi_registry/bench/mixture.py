"""Whether models with prompts of their own win their fair share against those without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gmi_registry.bench.estimate import DIGITS, mean_estimates
from gmi_registry.bench.fitting import UNFITTED
from gmi_registry.bench.gallery import Shelf
from gmi_registry.bench.measure import first_shares
from gmi_registry.bench.method import METHODS, Gallery
from gmi_registry.bench.results import Mixture
from gmi_registry.bench.scored import Scored
from gmi_registry.scoring.ranking import top_k_credit

__all__ = ["MIXED", "mixtures"]

MIXED = "own-prompts-mixed"
"""The protocol whose specifications are taken: every second model has prompts of its own."""

_METHODS = ("rkme-clip", "paper", "modelverse", "default", "default-none")
_FILES = (
    "specs.json",
    *(f"embeddings/{part}.npz" for part in ("specs", "own", "test")),
    "pseudo/test.npz",
)

Own = NDArray[np.bool_]
"""[M]: the models that have prompts of their own."""

Specifications = Literal["beside", "alone"]
Asked = Literal["like", "evaluation"]


def mixtures(
    folder: Path, gamma: float, like: Scored | None, single: Scored | None
) -> list[Mixture]:
    """For the tasks of ``MIXED`` and for those of single images, where there are any.

    Distances are worked out anew from the embeddings in ``folder``, γ being that of Eq. 9; where
    these are gone, or without the protocol, the list is empty. Raises InputError for embeddings
    that do not match.
    """
    if like is None or not all((folder / name).is_file() for name in _FILES):
        return []
    shelf = Shelf(folder, gamma)
    beside = shelf.gallery(MIXED)
    shared = [len(model.images) for model in shelf.specs.models]
    own = np.array([len(made) > count for made, count in zip(beside.pictures, shared, strict=True)])
    if own.all() or not own.any():
        return []
    kinds: list[tuple[Specifications, Gallery]] = [
        ("beside", beside),
        ("alone", _alone(beside, own, len(shelf.specs.prompts))),
    ]
    sets: list[tuple[Asked, Scored]] = [("like", like)]
    sets += [("evaluation", single)] if single is not None else []
    found = []
    for asked, test in sets:
        queries, members = shelf.queries("test", test.tasks)
        for method in (name for name in _METHODS if name in test.distances):
            for kind, gallery in kinds:
                each = METHODS[method](gallery, queries, UNFITTED)[members].mean(axis=1)
                found.append(_mixture(method, kind, asked, np.asarray(each, float), test, own))
    return found


def _alone(beside: Gallery, own: Own, prompts: int) -> Gallery:
    """Without the default block, which is ``prompts`` prompts, of models that have another."""
    members = []
    for has_own, member in zip(own, beside.members, strict=True):
        rows = np.flatnonzero(member.image_prompt >= prompts)
        if has_own:
            member = replace(
                member,
                image_embeddings=member.image_embeddings[:, rows],
                prompt_embeddings=member.prompt_embeddings[prompts:],
                image_prompt=member.image_prompt[rows] - prompts,
                grams=None if member.grams is None else member.grams[:, rows][:, :, rows],
            )
        members.append(member)
    return Gallery(tuple(members), beside.pictures)


def _mixture(
    method: str,
    specifications: Specifications,
    asked: Asked,
    distances: NDArray[np.float64],
    test: Scored,
    own: Own,
) -> Mixture:
    right = top_k_credit(distances, test.truth, 1)
    of_own = own[test.truth]
    return Mixture(
        method=method,
        specifications=specifications,
        asked=asked,
        fair=round(float(of_own.mean()), DIGITS),
        picked=mean_estimates(first_shares(distances)[:, own].sum(axis=1, keepdims=True))[0],
        top_1_own=mean_estimates(right[of_own, None])[0],
        top_1_others=mean_estimates(right[~of_own, None])[0],
    )
