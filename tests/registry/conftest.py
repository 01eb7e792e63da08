"""A hub with an empty registry on this machine; nobody waits."""

from __future__ import annotations

import time

import pytest

from tests.support.registry_author import REPO

# isort: split
from gmi_registry.hubs.huggingface import client
from tests.support.loopback import User


@pytest.fixture(autouse=True)
def _close_what_was_opened():
    """Most tests here ask one thing of a registry and leave it; others count what is sent."""
    yield
    for opened in client._hook._open:
        opened.close()


@pytest.fixture
def hub(hf_hub, monkeypatch):
    """``keeper`` maintains the registry, ``ada`` and ``ben`` may propose."""
    monkeypatch.setenv("GMI_REGISTRY", REPO)
    hf_hub.waits = []
    monkeypatch.setattr(time, "sleep", hf_hub.waits.append)
    hf_hub.add_user(User("keeper", "hf_keeper", orgs=("gmi-registry",)))
    hf_hub.add_user(User("ada", "hf_ada"))
    hf_hub.add_user(User("ben", "hf_ben"))
    hf_hub.add_user(User("ada", "hf_reader", role="read"))
    hf_hub.add_repo(REPO, {"README.md": b"# Specifications\n"}, repo_type="dataset")
    return hf_hub
