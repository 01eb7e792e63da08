"""The main job on the zoo's real weights: publish three kinds of model, find one by a picture.

Marked ``offline``: the session of that name runs it with every socket closed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gmi_registry.cli.publish import app as publish_app
from gmi_registry.cli.search import app as search_app

ZOO = Path(__file__).parents[1] / "zoo"
PUBLISHED = ("icon-blueprint", "icon-fluent-3d-merged", "icon-monotone")

pytestmark = pytest.mark.offline


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub of two LoRAs and a single file, published with few steps, and their base."""
    folder = tmp_path_factory.mktemp("main-job") / "hub"
    shutil.copytree(ZOO / "hub" / "encoders", folder / "encoders")
    shutil.copy(ZOO / "hub" / "hub.json", folder)
    for name in ("icon-base", *PUBLISHED):
        shutil.copytree(ZOO / "hub" / "models" / name, folder / "models" / name)
    for name in PUBLISHED:
        options = ["--hub", str(folder), "--steps", "4", "--work", str(folder.parent / "work")]
        done = CliRunner().invoke(publish_app, [name, *options])
        assert done.exit_code == 0, done.output
    return folder


def search(hub: Path, *options: str) -> dict[str, object]:
    picture = ZOO / "queries" / "openmoji-rooster.png"
    cache = str(hub.parent / "cache")
    arguments = [str(picture), "--hub", str(hub), "--cache-dir", cache, "--json", *options]
    done = CliRunner().invoke(search_app, arguments)
    assert done.exit_code == 0, done.output
    document: dict[str, object] = json.loads(done.stdout)
    return document


def names(document: dict[str, object]) -> list[str]:
    results = document["results"]
    assert isinstance(results, list)
    return [hit["model"].split(":")[1].split("@")[0] for hit in results]


def test_every_published_model_is_ranked(hub: Path) -> None:
    assert sorted(names(search(hub))) == list(PUBLISHED)


def test_a_tag_leaves_the_models_that_carry_it(hub: Path) -> None:
    assert names(search(hub, "--tag", "blueprint")) == ["icon-blueprint"]
    assert names(search(hub, "--tag", "no-such-tag")) == []


@pytest.mark.parametrize("score", ["default", "paper"])
def test_an_artists_picture_finds_the_model_of_its_style(hub: Path, score: str) -> None:
    picture = str(ZOO / "queries" / "fluent-3d-palm-tree.png")
    arguments = [picture, "--hub", str(hub), "-q", "--top", "1", "--score", score]
    done = CliRunner().invoke(search_app, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("local:icon-fluent-3d-merged@")


def test_a_warm_search_imports_what_it_uses(hub: Path) -> None:
    """Libraries that take as long to import as the search itself, and of which it needs nothing."""
    unused = (
        "pydantic",
        "torch",
        "rich",
        "huggingface_hub",
        "sqlite3",
        "yaml",
        "email",
        "numpy.ma",
    )
    picture = ZOO / "queries" / "openmoji-rooster.png"
    arguments = [str(picture), "--hub", str(hub), "--cache-dir", str(hub.parent / "warm"), "-q"]
    code = (
        "import sys; from gmi_registry.cli.main import search_main\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    search_main()\n"
        f"finally:\n    print(sorted(set(sys.modules) & set({unused!r})), file=sys.stderr)"
    )
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stderr == "[]\n"
