"""Fixtures of the regeneration's tests."""

from __future__ import annotations

import importlib
import shutil

import pytest

from tests.support.regeneration_world import (
    encoder_from,
    fill_folder,
    fill_loopback,
    open_loopback,
    round_over,
    save_models,
)

# isort: split
from gmi_registry import generation
from gmi_registry.regeneration import describe
from gmi_registry.spec import PromptSet
from tests.support.loopback import fixtures

hf_hub = fixtures.hf_hub

FEW = PromptSet("few", 1, ("a cat", "the sea", "snow", "a red house"))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Saved once; tests copy what they change."""
    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch, models, tmp_path):
    """Four default prompts in place of 55, the tiny encoder, nothing kept elsewhere."""
    monkeypatch.setattr(generation, "default_prompt_set", lambda model: FEW)
    load = encoder_from(models)
    monkeypatch.setattr(describe, "load_encoder", load)
    publishing = importlib.import_module("gmi_registry.publish_plan")
    monkeypatch.setattr(publishing, "load_encoder", load)
    monkeypatch.setattr(publishing, "check_encoder", lambda *_, **__: 0)
    monkeypatch.setenv("GMI_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("GMI_HUB", "GMI_REGISTRY", "HF_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(models, tmp_path):
    """A folder's hub with ``base`` and ``ink``, where nothing is published yet."""
    return fill_folder(models, tmp_path / "hub")


@pytest.fixture
def remote(hf_hub, models):
    """A loopback hub with the same, as ``alice/base`` and ``alice/ink``."""
    fill_loopback(hf_hub, models)
    return hf_hub


@pytest.fixture
def opened(remote, tmp_path):
    """The loopback hub through the real client."""
    with open_loopback(remote, tmp_path / "hf-cache") as hub:
        yield hub


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


@pytest.fixture
def go(work):
    """One round over a hub, from the plan to the summary: ``go(hub, repos=...)``."""

    def run(hub, *, executor=None, max_models=None, max_seconds=None, **wanted):
        this = round_over(hub, work, **wanted)
        return this.run(this.plan(), executor, max_models=max_models, max_seconds=max_seconds)

    return run


@pytest.fixture
def published(folder, go, work):
    """The folder's hub with a specification of ``ink``."""
    done = go(folder, repos=["ink"])
    assert [result.outcome for result in done.results] == ["published"], done
    shutil.rmtree(work)
    return folder
