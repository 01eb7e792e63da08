"""A server of nearest neighbours on this machine, and an index of random specifications."""

from __future__ import annotations

from contextlib import contextmanager

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


@contextmanager
def running(kind, folder):
    engine = QdrantClient(":memory:") if kind == "embedded" else Shards(folder)
    loopback = LoopbackQdrant(engine)
    yield loopback
    loopback.stop()
    engine.close()


@pytest.fixture(params=["embedded", "shards"])
def server(request, tmp_path):
    """With either engine in it."""
    with running(request.param, tmp_path) as loopback:
        yield loopback


@pytest.fixture(scope="module", params=["embedded", "shards"])
def shared_server(request, tmp_path_factory):
    """The same for all tests of a module, which read what the module has put there."""
    with running(request.param, tmp_path_factory.mktemp("shards")) as loopback:
        yield loopback


@pytest.fixture(scope="session")
def forty():
    """Forty models of three hubs."""
    return index_of(*map(make_spec, range(40)))
