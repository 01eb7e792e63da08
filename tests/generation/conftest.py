"""The tiny models, made and loaded once for all tests of generation."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gmi_registry import generation
from gmi_registry.generation import load_pipeline, pipelines
from gmi_registry.hubs.local import LocalHub
from gmi_registry.model import ModelFiles
from gmi_registry.publish import Publication
from gmi_registry.spec import ModelRef, PromptSet
from tests.support.grey_encoder import GreyEncoder
from tests.support.publishing import publish
from tests.support.tiny_models import model_files

BASE = ModelRef("local", "base")


@pytest.fixture(scope="session")
def tiny(base_and_lora: Path) -> Path:
    """A folder with ``base`` and ``lora``; tests that change files copy what they change."""
    return base_and_lora


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


@pytest.fixture(scope="session")
def loaded_folders() -> dict[Any, Any]:
    return {}


@pytest.fixture
def folders_loaded_once(monkeypatch: pytest.MonkeyPatch, loaded_folders: dict[Any, Any]) -> None:
    """A folder whose files are those of one that was loaded before is not loaded again: each test
    has a copy of that pipeline. All that comes before and after is done anew."""
    load = pipelines.load_pipeline_with

    def loaded(model: Any, index: Any, dtype: Any, modules: Any, who: Any) -> Any:
        if modules:
            return load(model, index, dtype, modules, who)
        key = (_digest(model.path), tuple(weight.path for weight in model.weights), dtype)
        if key not in loaded_folders:
            loaded_folders[key] = load(model, index, dtype, modules, who)
        return copy.deepcopy(loaded_folders[key])

    monkeypatch.setattr(pipelines, "load_pipeline_with", loaded)


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        if path.is_file() and place.parts[0] not in ("README.md", "gmi"):
            found.update(f"{place}\n{path.stat().st_size}\n".encode())
            found.update(path.read_bytes())
    return found.hexdigest()


@pytest.fixture
def base_hub(tiny: Path, tmp_path: Path) -> LocalHub:
    """A hub with the base, which may be changed."""
    made = LocalHub.create(tmp_path / "hub", cache_dir=tmp_path / "cache")
    shutil.copytree(tiny / "base", made.root / "models" / "base")
    return made


@pytest.fixture
def default_prompts(monkeypatch: pytest.MonkeyPatch) -> Callable[[PromptSet], None]:
    """Sets the default set of all models: a few prompts are quicker than 55."""

    def default(prompts: PromptSet) -> None:
        monkeypatch.setattr(generation, "default_prompt_set", lambda model: prompts)

    return default


@pytest.fixture
def publishing(tmp_path: Path, folders_loaded_once: None) -> Callable[..., Any]:
    """``publishing(hub, **defaults)`` is publish() with these defaults."""

    def with_defaults(hub: LocalHub, **defaults: Any) -> Callable[..., Publication]:
        usual = {"encoder": GreyEncoder(), "device": "cpu", "work": tmp_path / "work"} | defaults

        def published(ref: ModelRef = BASE, **options: Any) -> Publication:
            return publish(ref, hub, **(usual | options))

        return published

    return with_defaults
