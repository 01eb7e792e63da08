"""The programs in ``examples/`` do what their first lines say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from tests.support.cli_hub import draw_picture, make_hub

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Run an example as a program, and give what it prints."""

    def program(name, *arguments):
        patch = pytest.MonkeyPatch()
        printed = []
        with patch.context() as place:
            place.setenv("GMI_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
            place.setattr(sys, "argv", [name, *map(str, arguments)])
            place.setattr("builtins.print", lambda *words, file=None: printed.append((words, file)))
            runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return [" ".join(map(str, words)) for words, file in printed if file is None]

    return program


@pytest.fixture(scope="module")
def hub(tmp_path_factory, run):
    """A hub of two models that the example has published."""
    root = make_hub(tmp_path_factory.mktemp("examples") / "hub")
    for name in ("ink", "oil"):
        said = run("publish_with_own_prompts", name, root, "a hot pepper", "a palm tree")
        assert said == [f"published: {root / 'models' / name / 'gmi'}"]
    return root


def test_own_prompts_stand_beside_the_default_ones(hub):
    from gmi_registry import load_spec

    sets = load_spec(hub / "models" / "ink").manifest.prompt_sets
    assert [block.name for block in sets] == [sets[0].name, "mine"]
    assert sets[1].prompts == ("a hot pepper", "a palm tree")


def test_a_hub_is_searched_by_a_picture(hub, run, tmp_path):
    picture = draw_picture(tmp_path / "circle.png")
    lines = run("search_a_hub", picture, hub)
    assert [line.split()[0] for line in lines] == ["1", "2"]
    assert {line.split()[2].partition("@")[0] for line in lines} == {"local:ink", "local:oil"}
    assert run("search_a_hub", picture, hub, "painted")[0].split()[2].startswith("local:oil")


def test_a_model_is_nearest_to_its_own_image(hub, run):
    lines = run("rank_in_memory", hub / "models" / "oil", hub / "models" / "ink")
    assert [line.split()[1] for line in lines] == ["Oil", "Ink"]


def test_a_place_of_ones_own_is_searched(hub, run, tmp_path):
    picture = draw_picture(tmp_path / "circle.png")
    own = run("own_hub", picture, hub / "models", hub / "encoders")
    assert [line.split()[:2] for line in own] == [
        line.split()[:2] for line in run("search_a_hub", picture, hub)
    ]


def test_the_readme_names_every_example():
    text = (EXAMPLES / "README.md").read_text()
    programs = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert len(programs) == 4
    assert all(text.count(name) >= 3 for name in programs)
