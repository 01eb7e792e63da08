"""The tiny models, made once for all tests of generation."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmi_registry.generation import load_pipeline
from gmi_registry.model import ModelFiles
from tests.support.tiny_models import model_files, save_base, save_lora


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``base`` and ``lora``; tests that change files copy what they change."""
    folder = tmp_path_factory.mktemp("tiny")
    save_base(folder / "base")
    save_lora(folder / "lora", folder / "base")
    return folder


@pytest.fixture(scope="session")
def base(tiny: Path) -> ModelFiles:
    return model_files(tiny / "base", "tiny/base")


@pytest.fixture(scope="session")
def lora(tiny: Path, base: ModelFiles) -> ModelFiles:
    return model_files(tiny / "lora", "tiny/lora", "lora", base=base)


@pytest.fixture(scope="session")
def pipeline(base: ModelFiles):
    """The base, loaded once; tests must not change it."""
    return load_pipeline(base, device="cpu")
