"""Questions to the zoo itself: its real weights, specifications and encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import gmi_registry
from gmi_registry.cli.publish import app as publish_app
from gmi_registry.cli.search import app as search_app
from gmi_registry.search.result import SearchResult
from zoo.styles import STYLES

ROOT = Path(__file__).parents[2]
HUB, QUERIES = ROOT / "zoo" / "hub", ROOT / "zoo" / "queries"
SPECS = ROOT / "docs" / "press" / "specs"
BASE, ORIGINAL, TWIN = "icon-base", "icon-fluent-3d", "icon-fluent-3d-merged"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All LoRAs, with the specifications that the documentation shows."""
    folder = tmp_path_factory.mktemp("questions") / "hub"
    shutil.copytree(HUB, folder)
    for found in SPECS.iterdir():
        model = folder / "models" / found.name
        shutil.copytree(found / "gmi", model / "gmi", dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def twins(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, and a LoRA and the single file that it was merged into, drawn with few steps."""
    folder = tmp_path_factory.mktemp("twins")
    shutil.copytree(hub, folder / "hub")
    for name in (ORIGINAL, TWIN):
        options = ["--hub", str(folder / "hub"), "--steps", "4", "--work", str(folder / "work")]
        done = CliRunner().invoke(publish_app, [name, *options])
        assert done.exit_code == 0, done.output
    return folder / "hub"


def ask(hub: Path, *images: Path, **options: Any) -> SearchResult:
    cache = hub.parent / "cache"
    return gmi_registry.search(list(images), hub, cache_dir=cache, top=None, **options)


def names(result: SearchResult) -> list[str]:
    return [hit.ref.id for hit in result.hits]


def test_a_lora_is_nearest_to_the_single_file_that_it_was_merged_into(twins: Path) -> None:
    result = ask(twins, like=ORIGINAL)
    assert names(result)[0] == TWIN
    assert ORIGINAL not in names(result)
    assert len(result.hits) == len(STYLES)  # the other LoRAs, and the twin
    twin, second = result.hits[:2]
    assert twin.distance < second.distance / 20
    assert names(ask(twins, like=TWIN))[0] == ORIGINAL


def test_the_base_has_no_specification_to_be_near_to(hub: Path) -> None:
    done = CliRunner().invoke(search_app, ["--like", BASE, "--hub", str(hub)])
    assert done.exit_code == 1
    assert f"error: local:{BASE} has no specification" in done.stderr


def test_kindred_styles_are_near(hub: Path) -> None:
    """Two ways to draw a black glyph, of different artists."""
    assert names(ask(hub, like="icon-monotone"))[0] == "icon-fluent-contrast"
    assert names(ask(hub, like="icon-fluent-contrast"))[0] == "icon-monotone"


def test_a_style_is_found_by_words_that_the_encoder_knows(hub: Path) -> None:
    """Words of its own captions; a style that has no words would not be found by any."""
    first = {
        style.name: names(ask(hub, prompt=f"a banana, {style.words[0]}"))[0] for style in STYLES
    }
    right = [name for name, found in first.items() if found == f"icon-{name}"]
    assert len(right) >= len(STYLES) * 3 / 4


@pytest.mark.parametrize(
    ("picture", "style"),
    [("openmoji-rooster.png", "openmoji"), ("pixel-art-rose.png", "pixel-art")],
)
def test_an_unwanted_picture_moves_the_model_of_its_style_down(
    hub: Path, tmp_path: Path, picture: str, style: str
) -> None:
    both = sorted(QUERIES.glob("[op]*.png"))
    assert len(both) == 2
    turned = tmp_path / "turned.png"
    with Image.open(QUERIES / picture) as image:
        image.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(turned)
    before = names(ask(hub, *both)).index(f"icon-{style}")
    result = ask(hub, *both, not_like=[turned])
    assert names(result).index(f"icon-{style}") > before
    assert sum(hit.confidence or 0 for hit in result.hits) == pytest.approx(1)


def test_a_picture_against_itself_from_end_to_end(hub: Path) -> None:
    """Whoever made it is not wanted, and loses most of its chance to the others."""
    picture = str(QUERIES / "pixel-art-rose.png")
    arguments = [picture, "--hub", str(hub), "--top", "99", "--json"]
    plain = CliRunner().invoke(search_app, arguments)
    done = CliRunner().invoke(search_app, [*arguments, "--not-like", picture])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["query"]["not_like"] == [picture]
    found = {hit["model"]: hit["confidence"] for hit in document["results"]}
    before = {hit["model"]: hit["confidence"] for hit in json.loads(plain.stdout)["results"]}
    assert found.keys() == before.keys()
    assert len(found) == len(STYLES)
    first, *others = before
    assert found[first] < before[first] - 0.3
    assert all(found[model] >= before[model] for model in others)


def test_words_for_the_style_count_beside_a_picture(hub: Path) -> None:
    """A rose in pixel art; the other style's words bring its model nearer by its own measure."""
    picture = QUERIES / "pixel-art-rose.png"
    plain = ask(hub, picture)
    right = ask(hub, picture, style="pixel art")
    assert names(right)[0] == names(plain)[0] == "icon-pixel-art"
    assert (right.hits[0].confidence or 0) > (plain.hits[0].confidence or 0)
    sepia = names(ask(hub, picture, style="sepia photograph"))
    assert sepia.index("icon-sepia") < names(plain).index("icon-sepia")
