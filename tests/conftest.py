"""What holds for every test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gmi_registry import sanitize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.loopback import LoopbackHub
    from tests.support.models.store import ModelStore

# Processes that tests start import what this process imports.
ROOT = Path(__file__).parents[1]
_LOOPBACK = frozenset({"civitai", "hubs", "registry"})
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def pytest_runtest_setup() -> None:
    """A process knows the secrets that it has read until it ends, and leaves them out of all that
    it says; what one test reads is none to the next."""
    sanitize._secrets = sanitize._Secrets()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What talks to a hub on this machine may reach no other."""
    for item in items:
        if item.path.parent.name in _LOOPBACK and "live" not in item.keywords:
            item.add_marker(pytest.mark.allow_hosts(["127.0.0.1", "localhost", "::1"]))


@pytest.fixture
def hf_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty hub that huggingface_hub talks to: tests/support/loopback/fixtures.py."""
    from tests.support.loopback.fixtures import served_hub

    with served_hub(tmp_path, monkeypatch) as hub:
        yield hub


@pytest.fixture(scope="session")
def base_and_lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base model in ``base`` and a LoRA on it in ``lora``, for reading alone."""
    from tests.support.tiny_models import save_base, save_lora

    folder = tmp_path_factory.mktemp("tiny")
    save_base(folder / "base")
    save_lora(folder / "lora", folder / "base")
    return folder


@pytest.fixture(scope="session")
def model_store(request: pytest.FixtureRequest) -> ModelStore:
    """Tiny models of all architectures, kept from one run to the next: models/files.py."""
    from tests.support.models.store import ModelStore

    return ModelStore(request.config.cache.mkdir("tiny-models"))
