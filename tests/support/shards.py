"""Collections of the loopback server, kept by Qdrant's own engine.

No package registry carries the server, but its engine is there, as the library ``qdrant-edge-py``:
one shard of a collection, with the same storage, filters and graph. This puts the
few operations that the loopback server wants on top of it, under the names that qdrant-client's
embedded mode has for them.
"""

from __future__ import annotations

import shutil

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.models import QueryResponse


class Shards:
    """Each collection is one shard, in a folder under ``folder``."""

    def __init__(self, folder):
        self._folder = folder
        self._shards = {}
        self._aliases = {}

    def close(self):
        for name in list(self._shards):
            self.delete_collection(name)

    def get_collections(self):
        names = [models.CollectionDescription(name=name) for name in self._shards]
        return models.CollectionsResponse(collections=names)

    def get_aliases(self):
        return models.CollectionsAliasesResponse(
            aliases=[
                models.AliasDescription(alias_name=alias, collection_name=name)
                for alias, name in self._aliases.items()
            ]
        )

    def update_collection_aliases(self, operations):
        for operation in operations:
            if isinstance(operation, models.CreateAliasOperation):
                wanted = operation.create_alias
                self._aliases[wanted.alias_name] = wanted.collection_name
            else:
                del self._aliases[operation.delete_alias.alias_name]
        return True

    def create_collection(self, name, vectors_config):
        if not isinstance(vectors_config, dict):
            vectors_config = {"": vectors_config}
        folder = self._folder / name
        folder.mkdir()
        config = edge.EdgeConfig(vectors={key: _params(it) for key, it in vectors_config.items()})
        self._shards[name] = edge.EdgeShard.create(str(folder), config)
        return True

    def delete_collection(self, name):
        shard = self._shards.pop(name, None)
        if shard is None:
            return False
        shard.close()
        shutil.rmtree(self._folder / name)
        return True

    def create_payload_index(self, name, field, field_schema):
        operation = edge.UpdateOperation.create_field_index(field, edge.PayloadSchemaType.Keyword)
        self._shard(name).update(operation)
        return _done()

    def upsert(self, name, points, wait=True):
        plain = [edge.Point(it.id, it.vector, it.payload) for it in points]
        self._shard(name).update(edge.UpdateOperation.upsert_points(plain))
        return _done()

    def retrieve(self, name, ids, with_payload=True, with_vectors=False):
        records = self._shard(name).retrieve(ids, bool(with_payload), with_vectors or False)
        return [_record(it) for it in records]

    def scroll(self, name, limit=10, offset=None, with_payload=True, with_vectors=False):
        wanted = edge.ScrollRequest(
            offset=offset,
            limit=limit,
            with_payload=bool(with_payload),
            with_vector=with_vectors or False,
        )
        records, following = self._shard(name).scroll(wanted)
        return [_record(it) for it in records], None if following is None else str(following)

    def count(self, name, count_filter=None, exact=True):
        wanted = edge.CountRequest(exact=exact, filter=_filter(count_filter))
        return models.CountResult(count=self._shard(name).count(wanted))

    def query_points(
        self, name, query, using, query_filter, search_params, limit, offset, with_payload
    ):
        wanted = edge.QueryRequest(
            limit=limit,
            offset=offset,
            query=edge.Query.Nearest(_numbers(query), using),
            filter=_filter(query_filter),
            params=edge.SearchParams(hnsw_ef=search_params.hnsw_ef, exact=search_params.exact),
            with_payload=bool(with_payload),
        )
        found = self._shard(name).query(wanted)
        points = [
            models.ScoredPoint(id=str(it.id), version=0, score=it.score, payload=it.payload)
            for it in found
        ]
        return QueryResponse(points=points)

    def _shard(self, name):
        found = self._shards.get(self._aliases.get(name, name))
        if found is None:
            raise ValueError(f"Collection {name} not found")
        return found


def _params(wanted):
    distances = {
        models.Distance.EUCLID: edge.Distance.Euclid,
        models.Distance.DOT: edge.Distance.Dot,
    }
    return edge.EdgeVectorParams(size=wanted.size, distance=distances[wanted.distance])


def _filter(wanted):
    if wanted is None:
        return None
    return edge.Filter(
        must=[_condition(it) for it in wanted.must or []],
        must_not=[_condition(it) for it in wanted.must_not or []],
    )


def _condition(wanted):
    if isinstance(wanted, models.Filter):
        return _filter(wanted)
    if isinstance(wanted.match, models.MatchAny):
        match = edge.MatchAny(wanted.match.any)
    else:
        match = edge.MatchValue(wanted.match.value)
    return edge.FieldCondition(wanted.key, match=match)


def _numbers(query):
    return query.nearest if isinstance(query, models.NearestQuery) else query


def _record(found):
    return models.Record(id=str(found.id), payload=found.payload, vector=found.vector or None)


def _done():
    return models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)
