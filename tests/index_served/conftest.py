"""A server of nearest neighbours on this machine, and an index of random specifications."""

from __future__ import annotations

import pytest
from qdrant_client import QdrantClient

from gmi_registry.index.qdrant import connection
from tests.support.loopback_qdrant import LoopbackQdrant
from tests.support.served_specs import index_of, make_spec
from tests.support.shards import Shards


@pytest.fixture(autouse=True)
def _no_key_and_no_waiting(monkeypatch):
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    monkeypatch.setattr(connection, "_WAIT", 0.001)


@pytest.fixture(params=["embedded", "shards"])
def server(request, tmp_path):
    """With either engine in it."""
    engine = QdrantClient(":memory:") if request.param == "embedded" else Shards(tmp_path)
    loopback = LoopbackQdrant(engine)
    yield loopback
    loopback.stop()
    engine.close()


@pytest.fixture(scope="session")
def forty():
    """Forty models of three hubs."""
    return index_of(*map(make_spec, range(40)))
