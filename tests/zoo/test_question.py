"""Questions to the zoo itself: its real specifications."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gmi_registry
from gmi_registry.answer import SearchResult
from gmi_registry.cli.main import search_app

ROOT = Path(__file__).parents[2]
HUB = ROOT / "zoo" / "hub"
SPECS = ROOT / "docs" / "press" / "specs"
BASE = "icon-base"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All LoRAs, with the specifications that the documentation shows."""
    folder = tmp_path_factory.mktemp("questions") / "hub"
    shutil.copytree(HUB, folder)
    for found in SPECS.iterdir():
        model = folder / "models" / found.name
        shutil.copytree(found / "gmi", model / "gmi", dirs_exist_ok=True)
    return folder


def ask(hub: Path, **options: Any) -> SearchResult:
    cache = hub.parent / "cache"
    return gmi_registry.search(hub=hub, cache_dir=cache, top=None, **options)


def names(result: SearchResult) -> list[str]:
    return [hit.ref.id for hit in result.hits]


def test_the_base_has_no_specification_to_be_near_to(hub: Path) -> None:
    done = CliRunner().invoke(search_app, ["--like", BASE, "--hub", str(hub)])
    assert done.exit_code == 1
    assert f"error: local:{BASE} has no specification" in done.stderr


def test_kindred_styles_are_near(hub: Path) -> None:
    """Two ways to draw a black glyph, of different artists."""
    assert names(ask(hub, like="icon-monotone"))[0] == "icon-fluent-contrast"
    assert names(ask(hub, like="icon-fluent-contrast"))[0] == "icon-monotone"
