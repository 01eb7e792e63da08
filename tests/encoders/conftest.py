"""One tiny encoder for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_clip import write_tiny_clip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("encoder"))
