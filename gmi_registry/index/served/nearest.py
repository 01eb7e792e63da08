"""The models that are nearest to some images, as Qdrant finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gmi_registry.errors import SpecFormatError
from gmi_registry.index.served.connection import Connection
from gmi_registry.index.served.facts import Facts
from gmi_registry.index.served.place import again
from gmi_registry.scoring.kernels import Floats

if TYPE_CHECKING:
    from qdrant_client.models import Filter, ScoredPoint

__all__ = ["NearestSearch"]

_GRAPH_WIDTH = 1024


class NearestSearch:
    """One search for ``images`` [B, D] among the models that pass ``passing``.

    The mean of the squared distances to B images is that to their middle, plus how far they lie
    from it, which is the same for all models: one search does for any number of images. With
    ``exact`` every model is compared, else the graph is asked.
    """

    def __init__(
        self,
        connection: Connection,
        facts: Facts,
        images: Floats,
        passing: Filter | None,
        *,
        exact: bool,
    ) -> None:
        self._connection = connection
        self._facts = facts
        self._passing = passing
        self._exact = exact
        styles = facts.styles(images)
        self._middle = styles.mean(axis=0)
        self._spread = float(np.square(styles - self._middle).sum(axis=1).mean())

    def __call__(self, limit: int, *, after: int = 0) -> list[ScoredPoint]:
        """The nearest ``limit`` points behind the first ``after``, nearest first; their payloads
        only where ``after`` is 0. Raises as :meth:`Connection.ask` does."""
        if not limit:
            return []
        from qdrant_client import models

        width = max(_GRAPH_WIDTH, after + limit)
        return self._connection.ask(
            self._connection.client.query_points,
            self._facts.collection,
            query=self._middle.tolist(),
            using="style",
            query_filter=self._passing,
            search_params=models.SearchParams(exact=self._exact, hnsw_ef=width),
            limit=limit,
            offset=after,
            with_payload=not after,
        ).points

    def distances(self, points: Sequence[ScoredPoint]) -> Floats:
        """Those of the default score: [R]. Raises SpecFormatError where one is no number."""
        with np.errstate(over="ignore"):
            squares = np.square([point.score for point in points], dtype=np.float64)
        if not np.isfinite(squares).all():
            raise SpecFormatError(
                f"{self._connection.address} gives a distance that is none",
                hint=again(self._connection.address),
            )
        return squares + (self._spread - self._facts.excess)
