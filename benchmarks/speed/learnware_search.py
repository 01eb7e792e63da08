"""The search of the package ``learnware`` over given images, as a process that answers on a pipe.

It is run by the interpreter of an environment that has that package, so it imports nothing of this
repository. Every model becomes a ``RKMETableSpecification`` whose points are its images, each with
the share 1/N, and the query one whose only point is the query image. Their distance is then Eq. 9
with w = 1. Each line ``ranking`` or ``search`` on the standard input is answered by the first ten
rows and distances, as JSON; the first line that is written holds the versions.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from learnware.learnware import Learnware
from learnware.market import BaseUserInfo, EasyStatSearcher
from learnware.specification import RKMETableSpecification, Specification

_TYPE = "RKMETableSpecification"


def specification(points: np.ndarray, gamma: float) -> RKMETableSpecification:
    """``points`` [n, D] of equal weight, in the double precision that a file is loaded in."""
    made = RKMETableSpecification(gamma=gamma, cuda_idx=-1)
    made.z = torch.from_numpy(points).double()
    made.beta = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    made.num_points = len(points)
    return made


class Market:
    """``images`` [M, N, D] as learnwares, and ``query`` [D] as what is looked for."""

    def __init__(self, images: np.ndarray, query: np.ndarray, gamma: float) -> None:
        self._query = specification(query[None], gamma)
        self._models = [
            Learnware(
                str(row), {}, Specification(stat_spec={_TYPE: specification(part, gamma)}), ""
            )
            for row, part in enumerate(images)
        ]
        self._searcher = EasyStatSearcher(None)

    def ranking(self) -> tuple[list[int], list[float]]:
        """All models one after the other by the distance, which is the first half of a search."""
        self._searcher.stat_spec_type = _TYPE
        distances, models = self._searcher._search_by_rkme_spec_single(self._models, self._query)
        return [int(model.id) for model in models[:10]], distances[:10]

    def search(self) -> tuple[list[int], list[float]]:
        """What a user of the package calls, with its greedy search for a mixture of models."""
        user = BaseUserInfo(stat_info={_TYPE: self._query})
        found = self._searcher(self._models, user).get_single_results()[:10]
        return [int(item.learnware.id) for item in found], [float(item.score) for item in found]


def main() -> None:
    folder, gamma, threads = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    # The package writes to the standard output as it likes; answers go where that was.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    market = Market(np.load(folder / "images.npy"), np.load(folder / "query.npy"), gamma)
    works = {"ranking": market.ranking, "search": market.search}
    found = {"learnware": importlib.metadata.version("learnware"), "torch": torch.__version__}
    print(json.dumps(found), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(works[line.strip()]()), file=answers, flush=True)


if __name__ == "__main__":
    main()
