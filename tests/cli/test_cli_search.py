import json
import shutil
import sys
from typing import get_args

import pytest
from PIL import Image

from gmi_registry.cli.document import SearchDocument
from gmi_registry.cli.main import app
from gmi_registry.cli.search import InterrogatorChoice, KindChoice
from gmi_registry.cli.search import app as search_app
from gmi_registry.hubs.local import LocalHub
from gmi_registry.interrogators import MODES
from gmi_registry.model import Kind
from gmi_registry.spec import ModelRef
from tests.support.cli_hub import draw_picture, refused
from tests.support.publishing import publish


@pytest.fixture(scope="module")
def published(unpublished, tmp_path_factory):
    from gmi_registry.generation import RecipeOverrides

    folder = tmp_path_factory.mktemp("search")
    hub = LocalHub(shutil.copytree(unpublished, folder / "hub"), folder / "cache")
    (folder / "work").mkdir()
    for name in ("base", "ink", "oil"):
        ref = ModelRef("local", name)
        publish(ref, hub, work=folder / "work", overrides=RecipeOverrides(steps=1))
    return hub.root


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """A hub of three published models, the default one of the environment."""
    copy = shutil.copytree(published, tmp_path / "hub")
    monkeypatch.setenv("GMI_HUB", str(copy))
    return copy


@pytest.fixture
def picture(tmp_path):
    return draw_picture(tmp_path / "circle.png")


def test_a_ranking(call, hub, picture):
    done = call(search_app, picture)
    assert done.exit_code == 0, done.stderr
    header, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert header[:3] == ["rank", "model", "distance"]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert {row[1].split("@")[0] for row in rows} == {"local:base", "local:ink", "local:oil"}
    distances = [float(row[2]) for row in rows]
    assert distances == sorted(distances)
    assert done.stderr.endswith("3 models searched, 3 matched\n")


def test_json_keeps_to_its_schema(call, hub, picture):
    done = call(app, "search", picture, "--json", "--tag", "TINY", "--kind", "lora")
    assert done.exit_code == 0, done.stderr
    document = SearchDocument.model_validate_json(done.stdout, strict=True)
    assert document.query.images == [str(picture)]
    assert document.query.tags == ["TINY"]
    assert document.query.kind == "lora"
    assert document.query.hub == str(hub)
    assert document.score == "default"
    assert [part.rank for part in document.results] == [1, 2]
    assert document.results[0].margin == pytest.approx(
        document.results[1].distance - document.results[0].distance
    )
    assert document.results[1].margin is None
    assert len(document.results[0].best_prompts) >= 1
    assert document.looked_at == 2
    assert (document.offline, document.requests, document.catalogue_age) == (False, None, None)
    assert [part.stale for part in document.results] == [None, None]
    assert document.groups[0].members == 2
    assert {"query", "score", "results", "skipped"} <= SearchDocument.model_json_schema()[
        "properties"
    ].keys()


def test_the_schema_is_printed(start):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "gmi_registry.cli.document"], capture_output=True, check=True
    )
    assert json.loads(done.stdout) == SearchDocument.model_json_schema()


def test_names_alone(call, hub, picture):
    done = call(search_app, picture, "-q", "--top", "2")
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(str(ModelRef.parse(line)) == line for line in lines)
    assert done.stderr == ""


def test_several_images_with_a_prompt(call, hub, picture, tmp_path):
    other = draw_picture(tmp_path / "other.webp", "blue")
    done = call(search_app, picture, other, "--prompt", "a ball", "--score", "paper", "--json")
    document = json.loads(done.stdout)
    assert document["query"]["pseudo_prompts"] == ["a ball", "a ball"]
    assert document["query"]["interrogator"] == "prompt"
    assert document["score"] == "paper"


def test_filters(call, hub, picture):
    ids = ("-q", "--hub", hub)
    assert call(search_app, picture, *ids, "-t", "outline").stdout.startswith("local:ink@")
    only = call(search_app, picture, *ids, "--not-tag", "outline", "--base-model", "base").stdout
    assert only.startswith("local:oil@")
    assert len(only.splitlines()) == 1


def test_nothing_matches(call, hub, picture):
    done = call(search_app, picture, "--tag", "tiny", "--tag", "absent")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert done.stderr.endswith("no model matches; 3 searched\n")
    document = json.loads(call(search_app, picture, "--tag", "absent", "--json").stdout)
    assert document["results"] == []
    assert document["looked_at"] == 3


def test_a_broken_specification_is_skipped(call, hub, picture):
    tensors = hub / "models" / "oil" / "gmi" / "spec.tensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    done = call(search_app, picture)
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 3
    assert "1 skipped; -v says why" in done.stderr
    done = call(search_app, picture, "-v")
    assert "skipped local:oil" in done.stderr
    assert "spec.json names" in done.stderr


def test_a_second_search_reads_nothing_again(call, hub, picture):
    assert json.loads(call(search_app, picture, "--json").stdout)["read"] == 3
    assert json.loads(call(search_app, picture, "--json").stdout)["read"] == 0


def test_a_page(call, hub, picture, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("typer.launch", opened.append)
    page = tmp_path / "out" / "report.html"
    page.parent.mkdir()
    (hub / "models" / "ink" / "gmi" / "preview.webp").write_bytes(b"not a picture")
    (hub / "models" / "base" / "gmi" / "preview.webp").unlink()
    done = call(search_app, picture, "--html", page, "--open", "--tag", "tiny", "-q")
    assert done.exit_code == 0, done.stderr
    assert done.stderr == f"report: {page}\n"
    assert opened == [page.as_uri()]
    text = page.read_text(encoding="utf-8")
    assert text.count("<img") == 2  # the query, and the one sheet that is in order
    assert "is not a WebP picture" in text
    assert "this model has no contact sheet" in text
    assert "circle.png" in text
    assert str(tmp_path) not in text.replace(str(hub), "")


def test_a_page_that_cannot_be_written(call, hub, picture, tmp_path):
    done = call(search_app, picture, "--html", tmp_path / "none" / "report.html")
    assert "the report cannot be written" in refused(done)


@pytest.mark.parametrize(
    ("name", "reason"), [("notes.txt", "not an image"), ("none.png", "no such file")]
)
def test_images_that_cannot_be_used(call, hub, tmp_path, name, reason):
    (tmp_path / "notes.txt").write_text("no pixels")
    assert reason in refused(call(search_app, tmp_path / name))


def test_an_empty_folder_as_hub(call, picture, tmp_path):
    (tmp_path / "empty").mkdir()
    done = call(search_app, picture, "--hub", tmp_path / "empty")
    assert "empty" in refused(done)
    assert "hint: " in done.stderr
    assert list((tmp_path / "empty").iterdir()) == []


def test_an_unknown_score(call, hub, picture):
    done = call(search_app, picture, "--score", "best")
    assert "no score named 'best'" in refused(done)
    assert "hint: choose one of: default, paper" in done.stderr


def test_an_empty_prompt(call, hub, picture):
    assert "the prompt is empty" in refused(call(search_app, picture, "--prompt", " "))


def test_an_interrupt(call, hub, picture, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["gmi_registry.search.run"], "search", interrupt)
    done = call(search_app, picture)
    assert done.exit_code == 130
    assert done.stderr == "interrupted\n"


def test_choices_are_those_of_the_package():
    assert {choice.value for choice in KindChoice} == set(get_args(Kind))
    assert tuple(choice.value for choice in InterrogatorChoice) == MODES


def test_as_a_process(start, hub, picture):
    done = start("search_main", picture, "--json")
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["results"]) == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["[bold]\x1b[31m.png", "\udcff.png", "two\nlines.png"])
def test_names_that_are_no_plain_text(call, hub, tmp_path, name):
    path = tmp_path / name
    try:
        Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(path)
    except OSError:
        if sys.platform.startswith("linux"):
            raise
        pytest.skip("this system takes no such name, so nobody can search with one")
    page = tmp_path / "report.html"
    done = call(search_app, path, "--html", page, "--json")
    assert done.exit_code == 0, done.stderr
    assert "\x1b" not in done.output
    SearchDocument.model_validate_json(done.stdout, strict=True)
    assert ".png" in page.read_text(encoding="utf-8")
    done = call(search_app, tmp_path / ("no" + name))
    assert done.exit_code == 1
    assert "\x1b" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error" in line]) == 1
