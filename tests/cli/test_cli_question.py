"""``gmi search`` by a model, by words alone, and against pictures."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import gmi_registry.encoders
from gmi_registry.cli.document import SearchDocument
from gmi_registry.cli.search import app as search_app
from tests.support.hub_builder import HubBuilder, ProjectionEncoder, picture

COLOURS = {"blue": (20, 30, 230), "green": (30, 200, 40), "red": (240, 20, 10)}


class JointEncoder(ProjectionEncoder):
    """Words lie where a picture of the first colour that they name would."""

    logit_scale = 100.0

    def __init__(self):
        super().__init__("joint")
        self.ref = self.ref.model_copy(update={"text_dim": self.ref.image_dim})

    def encode_texts(self, texts):
        return self.encode_images(
            [Image.new("RGB", (8, 8), [*_named(text), "white"][0]) for text in texts]
        )


def _named(text):
    return [name for name in COLOURS if name in text.split()]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Three models that paint in one colour each; its encoder comes without torch."""
    encoder = JointEncoder()
    built = HubBuilder(tmp_path / "hub", tmp_path / "cache", encoder)
    for name, colour in COLOURS.items():
        built.publish(name, colour)
    built.publish("crimson", (225, 20, 20))
    monkeypatch.setenv("GMI_HUB", str(built.root))
    monkeypatch.setattr(gmi_registry.encoders, "load_encoder", lambda *_, **__: encoder)
    return built


@pytest.fixture
def red(tmp_path):
    return saved(tmp_path / "red.png")


def saved(path):
    """A picture of the colour that the file is named after."""
    picture(COLOURS[path.stem], 9).save(path)
    return path


def first(done):
    assert done.exit_code == 0, done.stderr
    return done.stdout.splitlines()[0].split("@")[0]


def document(done):
    assert done.exit_code == 0, done.stderr
    return SearchDocument.model_validate_json(done.stdout, strict=True)


def test_models_near_a_model(call, hub):
    done = call(search_app, "--like", "red", "-q")
    assert first(done) == "local:crimson"
    assert len(done.stdout.splitlines()) == 3
    assert "local:red@" not in done.stdout
    found = document(call(search_app, "--like", hub.folder("red"), "--json"))
    assert found.query.like.startswith("local:red@")
    assert (found.score, found.query.images, found.query.text) == ("like", [], None)
    assert (found.looked_at, found.matched) == (4, 3)
    assert found.results[0].distance < found.results[1].distance


def test_words_alone(call, hub):
    assert first(call(search_app, "--prompt", "something green", "-q")) == "local:green"
    found = document(call(search_app, "--prompt", "something green", "--json"))
    assert (found.score, found.query.text, found.query.like) == ("text", "something green", None)
    assert found.query.interrogator == "prompt"


def test_pictures_of_what_is_not_wanted(call, hub, red, tmp_path):
    blue = saved(tmp_path / "blue.png")
    assert first(call(search_app, red, "-q", "--top", "1")).split(":")[1] in ("red", "crimson")
    options = ("--not-like", red, "--not-like", red)
    found = document(call(search_app, red, blue, *options, "--json"))
    assert found.results[0].model.startswith("local:blue@")
    assert found.query.not_like == [str(red), str(red)]
    assert found.query.not_like_prompts == [None, None]
    assert sum(part.confidence for part in found.results) == pytest.approx(1)


def test_a_picture_with_words_for_its_style(call, hub, red, tmp_path):
    blue = saved(tmp_path / "blue.png")
    found = document(call(search_app, red, blue, "--style", "so blue", "--json"))
    assert found.results[0].model.startswith("local:blue@")
    assert (found.query.style, found.score, found.query.text) == ("so blue", "default", None)
    assert document(call(search_app, red, "--json")).query.style is None
    page = tmp_path / "answer.html"
    assert call(search_app, red, "--style", "so <b>", "--html", page).exit_code == 0
    assert "so &lt;b&gt;" in page.read_text("utf-8")


def test_a_page_for_each_kind_of_question(call, hub, red, tmp_path):
    sheet = hub.folder("red") / "gmi" / "preview.webp"
    Image.new("RGB", (30, 20), "red").save(sheet)
    page = tmp_path / "answer.html"

    def written(*arguments):
        done = call(search_app, *arguments, "--html", page, "-q")
        assert done.exit_code == 0, done.stderr
        return page.read_text("utf-8")

    text = written("--like", "red")
    assert "<h1>Models near local:red</h1>" in text
    assert text.count("<img") == 1  # the sheet of the model in question
    assert 'alt="Query image 1: local:red"' in text
    assert "<dt>prompts by</dt>" not in text
    assert "Models near " in written("--like", hub.folder("red"))
    assert page.read_text("utf-8").count("<img") == 1
    text = written("--prompt", "a green <i>")
    assert "<h1>Models for “a green &lt;i&gt;”</h1>" in text
    assert '<blockquote class="asked">a green &lt;i&gt;</blockquote>' in text
    text = written(red, "--not-like", red)
    assert "<h1>Models that make images like red.png, and unlike red.png</h1>" in text
    assert 'alt="Unwanted image 1: red.png"' in text


def test_a_sheet_that_is_a_link_is_not_shown(call, hub, tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "secret.webp")
    (hub.folder("red") / "gmi" / "preview.webp").symlink_to(tmp_path / "secret.webp")
    page = tmp_path / "answer.html"
    done = call(search_app, "--like", hub.folder("red"), "--html", page, "-q")
    assert done.exit_code == 0, done.stderr
    assert "<img" not in page.read_text("utf-8")
    assert "cannot be shown" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to search with: name an IMAGE, or give --prompt TEXT or --like MODEL"),
        (["a.png", "--like", "red"], "cannot be combined with an IMAGE"),
        (["--like", "red", "--prompt", "x"], "cannot be combined with --prompt"),
        (["--style", "x"], "--style says how an IMAGE like yours should look"),
        (["a.png", "--style", "x", "--score", "paper"], "not with --score paper"),
        (["--not-like", "a.png"], "--not-like says what is not wanted"),
        (["--prompt", "x", "--interrogator", "phrases"], "--interrogator guesses what an IMAGE"),
        (["--prompt", "x", "--score", "paper"], "--score paper measures from an IMAGE"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(call, hub, arguments, message):
    done = call(search_app, *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Usage:" in done.stderr
    assert done.stdout == ""


def test_a_model_without_a_specification(call, hub):
    hub.add_lora("new")
    done = call(search_app, "--like", "new")
    assert done.exit_code == 1
    assert "error: local:new has no specification" in done.stderr
    assert "hint: gmi-publish local:new --hub " in done.stderr


def test_towers_of_two_widths(call, tmp_path, monkeypatch):
    encoder = ProjectionEncoder()
    built = HubBuilder(tmp_path / "other", tmp_path / "cache", encoder)
    built.publish("red", COLOURS["red"])
    monkeypatch.setattr(gmi_registry.encoders, "load_encoder", lambda *_, **__: encoder)
    done = call(search_app, "--prompt", "red", "--hub", built.root)
    assert done.exit_code == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert line.endswith("projection/seed-0 gives texts 5 values and images 6")


def test_the_document_is_ascii(call, hub, red):
    done = call(search_app, "--prompt", "größer", "--json")
    assert done.stdout.isascii()
    assert json.loads(done.stdout)["query"]["text"] == "größer"
