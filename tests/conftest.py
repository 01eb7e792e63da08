"""What holds for every test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gmi_registry import sanitize

if TYPE_CHECKING:
    from tests.support.models.store import ModelStore

# Processes that tests start import what this process imports.
ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def pytest_runtest_setup() -> None:
    """A process knows the secrets that it has read until it ends, and leaves them out of all that
    it says; what one test reads is none to the next."""
    sanitize._secrets = sanitize._Secrets()


@pytest.fixture(scope="session")
def model_store(request: pytest.FixtureRequest) -> ModelStore:
    """Tiny models of all architectures, kept from one run to the next: models/files.py."""
    from tests.support.models.store import ModelStore

    return ModelStore(request.config.cache.mkdir("tiny-models"))
