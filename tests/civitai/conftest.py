"""A loopback Civitai, a store of specifications in a folder, and a client without patience."""

from __future__ import annotations

import os

import pytest
import stamina

from gmi_registry.hubs.civitai import CivitaiClient, CivitaiHub
from tests.support.civitai_loopback import LoopbackCivitai
from tests.support.folder_store import FolderStore


@pytest.fixture(autouse=True)
def no_waits():
    """Retries as in earnest, without the seconds between them."""
    stamina.set_testing(True, attempts=10, cap=True)
    yield
    stamina.set_testing(False)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("CIVITAI_TOKEN", "CIVITAI_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture
def civitai():
    """An empty Civitai, to be filled."""
    with LoopbackCivitai() as hub:
        yield hub
    assert not hub.failures, os.linesep.join(hub.failures)


@pytest.fixture
def client(civitai):
    opened = CivitaiClient(endpoint=civitai.endpoint)
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "registry")


@pytest.fixture
def hub(civitai, store, tmp_path):
    with CivitaiHub(store, endpoint=civitai.endpoint, cache_dir=tmp_path / "cache") as opened:
        yield opened
