"""The nearest other model of a hub: how far apart two models are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gmi_registry.errors import GmiError
from gmi_registry.place import SpecPlace, hub_at, read_from
from gmi_registry.spec import ModelRef, Spec
from gmi_registry.spec.diff import distance_between

if TYPE_CHECKING:
    from gmi_registry.hubs.protocol import Hub

__all__ = ["Neighbour", "nearest_other"]

_LOOKED_AT = 8


@dataclass(frozen=True)
class Neighbour:
    """A model, and ``mmd2`` from it to the one in question, as in :class:`.Movement`."""

    model: str
    title: str
    mmd2: float

    def part(self, mmd2: float) -> float:
        """``mmd2`` as a part of the way to this model: a ratio of distances, not of squares.

        Infinite where the two models draw the same.
        """
        if self.mmd2 <= 0:
            return math.inf if mmd2 > 0 else 0.0
        return math.sqrt(mmd2 / self.mmd2)


def nearest_other(
    spec: Spec,
    place: SpecPlace,
    hub: str | Path | Hub,
    *,
    token: str | None = None,
    offline: bool | None = None,
) -> Neighbour | None:
    """The nearest of the models on ``hub`` that can be compared with ``spec``, which ``place`` has.

    A search proposes eight, and the discrepancies decide; so it costs what a search by a model
    does. None where the hub has no other. Raises what a search raises.
    """
    from gmi_registry.search.run import search

    own = {ref.repository for ref in (spec.manifest.model.ref, place.model) if ref is not None}
    like = str(place.folder) if place.expected is None else str(place.expected)
    with hub_at(hub, token=token, offline=offline) as opened:
        found = search((), opened, like=like, top=_LOOKED_AT, offline=bool(offline))
        distances = [
            (distance, str(hit.ref.without_revision), hit.title)
            for hit in found.hits
            if hit.ref.repository not in own
            for distance in [_distance(opened, hit.ref, spec)]
            if distance is not None
        ]
    if not distances:
        return None
    distance, model, title = min(distances)
    return Neighbour(model, title, distance)


def _distance(hub: Hub, ref: ModelRef, spec: Spec) -> float | None:
    try:
        other = read_from(hub, ref)
    except GmiError:
        return None
    return distance_between(other, spec)
