"""One tiny encoder for all tests of this folder, and one export of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmi_registry.encoders.export import export_encoder
from gmi_registry.encoders.open_clip import OpenClipEncoder
from tests.support.tiny_clip import write_tiny_clip


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "onnx"
    export_encoder(OpenClipEncoder.from_folder(folder, "tiny", "random"), target)
    return target


@pytest.fixture(scope="session")
def halved(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with weights of two bytes."""
    target = tmp_path_factory.mktemp("halved") / "onnx"
    export_encoder(OpenClipEncoder.from_folder(folder, "tiny", "random"), target, half=True)
    return target
