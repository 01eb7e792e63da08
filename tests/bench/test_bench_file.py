"""What a benchmark file may say, and the one line for what it may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.paper.definition import load_benchmark
from benchmarks.paper.generators import orders_of
from benchmarks.paper.methods import METHODS
from gmi_registry.errors import InputError
from gmi_registry.generation import prompt_set_named
from tests.support.circle_bench import write_file
from zoo.names import evaluation_prompts, held_out, prompt
from zoo.styles import STYLES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

REFUSED = [
    ({"methods": ["paper", "magic"]}, "there is no method named 'magic'", "one of download, "),
    ({"methods": ["paper", "paper"]}, "the method 'paper' stands there twice", None),
    ({"protocols": ["images-9"]}, "there is no protocol named 'images-9'", "one of images-1"),
    ({"evaluation": ["0.1", "0.25"]}, "'0.25' is among the default prompts", "replace one"),
    ({"evaluation": ["0.1", " 0.22"]}, "begins or ends with white space", None),
    ({"evaluation": ["0.1", "0.22"]}, "'0.22' is among the evaluation prompts too", "must not"),
    ({"evaluation": ["0.1", "0.1"]}, "the evaluation prompt '0.1' stands there twice", None),
    ({"protocols": ["images-1", "own-prompts"]}, "f1 lacks them", "add own = "),
    ({"protocols": ["own-prompts"]}, "no protocol is left to fit on", "images-1"),
    ({"methods": ["rkme-basic"]}, "'rkme-basic' needs pictures", None),
    ({"methods": ["rkme-concat"]}, "'rkme-concat' needs a pseudo-prompt", "phrases"),
    ({"version": 0}, "version: Input should be greater than or equal to 1", None),
    ({"evaluation": ["0.1"], "protocols": ["images-5"]}, "needs more images of a model", "add"),
]


@pytest.mark.parametrize(("changes", "message", "hint"), REFUSED)
def test_refused_with_one_line(tmp_path, changes, message, hint):
    path = write_file(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_benchmark(path)
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert hint is None or hint in caught.value.hint


def test_a_seed_of_both_splits(tmp_path):
    path = write_file(tmp_path)
    path.write_text(path.read_text().replace("dev = [1, 2]", "dev = [1, 3]"))
    with pytest.raises(InputError, match="seed 3 belongs to dev and to test"):
        load_benchmark(path)


def test_words_are_as_many_for_every_model(tmp_path):
    path = write_file(tmp_path)
    named = path.read_text().replace('model = "f1"', 'model = "f1"\nwords = ["round", "thin"]')
    path.write_text(named)
    with pytest.raises(InputError, match="as many words as the others") as caught:
        load_benchmark(path)
    assert caught.value.hint
    path.write_text(named.replace('model = "f2"', 'model = "f2"\nwords = ["a", "a"]'))
    with pytest.raises(InputError, match="the words 'a' stands there twice"):
        load_benchmark(path)
    path.write_text(named.replace('model = "f2"', 'model = "f2"\nwords = ["flat", "thick"]'))
    assert load_benchmark(path).models[1].words == ("flat", "thick")


def test_an_unknown_field(tmp_path):
    path = write_file(tmp_path)
    path.write_text("colour = 1\n" + path.read_text())
    with pytest.raises(InputError, match="colour: Extra inputs are not permitted"):
        load_benchmark(path)


@pytest.mark.parametrize(
    ("content", "message"), [(b"name = ", "is no TOML"), (b"\xff", "is no TOML"), (None, "No such")]
)
def test_a_file_that_is_none(tmp_path, content, message):
    path = tmp_path / "b.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_benchmark(path)


@pytest.mark.parametrize(("name", "more"), [("sd15-gmi16", 51), ("sd15-cgi65", 92)])
def test_templates_ask_to_be_filled_in(name, more):
    with pytest.raises(InputError) as caught:
        load_benchmark(BENCHMARKS / f"{name}.toml")
    assert f"evaluation_prompts[0], and {more} more fields must be filled in" in str(caught.value)
    assert caught.value.hint == "copy the file and replace every 'FILL IN'"


@pytest.mark.parametrize(
    ("name", "models", "tasks"), [("sd15-gmi16", 16, 2880), ("sd15-cgi65", 65, 9100)]
)
def test_filled_templates(tmp_path, name, models, tasks):
    lines = (BENCHMARKS / f"{name}.toml").read_text().splitlines()
    filled = [
        line if line.startswith("#") else line.replace("FILL IN", f"hf:a/b{number}")
        for number, line in enumerate(lines)
    ]
    path = tmp_path / "filled.toml"
    path.write_text("\n".join(filled))
    benchmark = load_benchmark(path)
    assert len(benchmark.models) == models
    assert models * len(benchmark.evaluation_prompts) * len(benchmark.seeds.test) == tasks
    assert len(benchmark.defaults) == 55


def test_zoo16_is_the_papers_protocol():
    benchmark = load_benchmark(BENCHMARKS / "zoo16.toml")
    assert benchmark.defaults == prompt_set_named("icons-v1").prompts
    assert benchmark.evaluation_prompts == evaluation_prompts()
    assert [entry.label for entry in benchmark.models] == [style.name for style in STYLES]
    tasks = len(benchmark.models) * len(benchmark.evaluation_prompts) * len(benchmark.seeds.test)
    assert (len(benchmark.defaults), tasks) == (55, 2880)
    unseen = {prompt(name) for name in held_out()}
    assert set(benchmark.dev_prompts) <= unseen - set(benchmark.evaluation_prompts)
    asked = [text for entry in benchmark.models for text in (*entry.own, *entry.asked)]
    assert not set(asked) & {*benchmark.evaluation_prompts, *benchmark.dev_prompts}
    assert {len(entry.own) for entry in benchmark.models} == {5}
    worded = [(*style.words, ", ".join(style.tags)) for style in STYLES]
    assert [entry.words for entry in benchmark.models] == worded
    assert set(benchmark.methods) <= set(METHODS)
    assert sum(map(len, orders_of(benchmark))) == 16 * (60 + 54 + 180 + 20)


def test_example21_draws_one_circle_twice():
    benchmark = load_benchmark(BENCHMARKS / "example21.toml")
    assert [entry.model for entry in benchmark.models] == ["f1", "f2"]
    assert all(0 < float(text) < 0.5 for text in benchmark.evaluation_prompts)


def test_comments_do_not_make_another_benchmark(tmp_path):
    path = write_file(tmp_path)
    before = load_benchmark(path).digest
    path.write_text("# said otherwise\n" + path.read_text())
    assert load_benchmark(path).digest == before
    assert load_benchmark(write_file(tmp_path, version=2)).digest != before


def test_a_limit_keeps_models_and_default_prompts(tmp_path):
    whole = load_benchmark(write_file(tmp_path))
    small = whole.limited(1)
    assert small.evaluation_prompts == ("0.05",)
    assert small.seeds.test == (0,)
    assert (small.defaults, small.models) == (whole.defaults, whole.models)
    assert small.protocols == ("images-1",)
    assert small.digest != whole.digest
    assert whole.limited(None) is whole
    two = load_benchmark(write_file(tmp_path, protocols=["images-2"]))
    with pytest.raises(InputError, match="a limit of 1 leaves no protocol of circle"):
        two.limited(1)
