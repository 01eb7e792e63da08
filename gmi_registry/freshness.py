"""Whether the models of a ranking still have the weights that were described, and their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gmi_registry.errors import GmiError
from gmi_registry.hubs.protocol import Hub, KnowsNames, KnowsWeights, is_stale, knows_names
from gmi_registry.index import Index, Ranking, SearchHit
from gmi_registry.place import makes_links
from gmi_registry.spec import ModelRef, read_manifest
from gmi_registry.threads import map_in_order

__all__ = ["Freshness", "named_now"]


@dataclass
class Freshness:
    """Asks a hub that knows, each model once, ``workers`` models at a time.

    References are those of a listing of this moment, or, with ``may_be_old``, of an index that was
    made some time ago: then the hub is asked for what it has now.

    A model that cannot be asked about counts as unknown: a ranking does not fail for it.
    """

    hub: Hub
    workers: int
    may_be_old: bool = False
    _asked: set[ModelRef] = field(default_factory=set)

    def learn(self, index: Index, ranking: Ranking) -> bool:
        """Ask about the hits that nothing is known of; whether anything was learnt.

        What is learnt is marked in ``index``. Only what is shown is asked for, since each model
        may cost a request.
        """
        if not isinstance(self.hub, KnowsWeights):
            return False
        unknown = [hit for hit in ranking.hits if hit.stale is None and hit.ref not in self._asked]
        self._asked.update(hit.ref for hit in unknown)
        found = dict(zip(unknown, self._states(self.hub, unknown), strict=True))
        for hit, state in found.items():
            if state is not None:
                index.mark(hit.ref, stale=state)
        return any(state is not None for state in found.values())

    def _states(self, hub: KnowsWeights, hits: Sequence[SearchHit]) -> list[bool | None]:
        def state(hit: SearchHit) -> bool | None:
            try:
                now = hit.ref.identity if self.may_be_old else hit.ref
                folder = self.hub.fetch_spec(hit.ref).parent
                manifest = read_manifest(folder, follow_links=makes_links(self.hub))
                return is_stale(manifest.model.weights, hub.weight_digests(now))
            except GmiError:
                return None

        return list(map_in_order(state, hits, self.workers))


def named_now(ranking: Ranking, hub: Hub) -> Ranking:
    """``ranking`` with its hits under the names that the hub is known to have for them.

    A listing has present names. An entry of a registry, or an index of some time ago, has those of
    the day it was made; where the hub was asked about such a model it said what it is called now.
    """
    names = knows_names(hub)
    if names is None:
        return ranking
    groups = [
        replace(group, hits=tuple(_named_now(hit, names) for hit in group.hits))
        for group in ranking.groups
    ]
    return replace(ranking, groups=tuple(groups))


def _named_now(hit: SearchHit, hub: KnowsNames) -> SearchHit:
    now = hub.name_now(hit.ref)
    if now.id == hit.ref.id:
        return hit
    described = hit.ref.repository if hit.described_as is None else hit.described_as
    url = hit.url
    if url is not None and url.endswith(f"/{hit.ref.id}"):
        url = url.removesuffix(hit.ref.id) + now.id
    return replace(
        hit, ref=now, url=url, described_as=None if described.id == now.id else described
    )
