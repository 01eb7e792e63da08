"""The pictures of the report: what was drawn of the pseudo-prompts, and what stands in for it."""

from __future__ import annotations

import html
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.paper.folder import read_run, read_scored
from benchmarks.paper.generate import chosen_tasks, read_drawn
from benchmarks.paper.report import examples, write_report
from gmi_registry.report.figures import embed
from tests.support.report_run import noisy, perfect, put, truth_of, write_split, write_summary

MODELS = 4
NAMES = [f"model-{number:02d}" for number in range(MODELS)]
METHODS = ("download", "paper", "default")


@pytest.fixture
def folder(tmp_path):
    """A run whose models all drew what was guessed of every third picture and of the rest not."""
    folder = tmp_path / "run"
    truth = truth_of(MODELS, 3, 2)
    scores = {
        "download": np.tile(np.arange(MODELS, dtype=float), (len(truth), 1)),
        "paper": noisy(truth, MODELS, 1.0),
        "default": perfect(truth, MODELS),
    }
    write_split(folder, "test", "images-1", MODELS, truth, scores, draw=True)
    write_summary(folder, ["images-1"], METHODS)
    said = {f"images/{task:04d}.png": guess(task) for task in range(len(truth))}
    put(folder / "pseudo" / "test.json", json.dumps(said).encode())
    (folder / "drawn").mkdir()
    pictures = []
    for model in range(MODELS):
        for task in range(0, len(truth), 3):
            name = f"drawn/{model}-{task}.png"
            colour(model, task).save(folder / name)
            pictures.append({"model": NAMES[model], "prompt": guess(task), "image": name})
    write_list(folder, pictures=pictures)
    return folder


def guess(task):
    """The pseudo-prompt; none of every third from the second."""
    return None if task % 3 == 1 else f"something <b>like</b> {task}"


def colour(model, task):
    return Image.new("RGB", (8, 8), (40 * model, 255 - 10 * task, 90))


def write_list(folder, **changes):
    content = {"format": {"name": "gmi-bench-drawn", "version": 1}, "seed": 2}
    place = folder / "drawn" / "drawn.json"
    if place.exists():
        content = json.loads(place.read_bytes())
    place.write_text(json.dumps(content | changes))


def shown(folder):
    """(task, example) pairs."""
    found = examples(folder, read_scored(folder, "test", read_run(folder))[0])
    return list(zip(chosen_tasks(6 * MODELS), found, strict=True))


def test_each_pick_is_shown_with_what_it_made_of_the_guess(folder):
    kinds = set()
    for task, it in shown(folder):
        kinds.add(task % 3)
        assert it.guessed == guess(task)
        for pick in it.picks:
            assert pick.picture is not None
            assert pick.guessed == (task % 3 == 0)
            theirs = embed(colour(NAMES.index(pick.model), task), side=224)
            assert (pick.picture == theirs) == pick.guessed
    # Or nothing was looked at.
    assert kinds == {0, 1, 2}


def test_the_page_says_which_prompt_made_a_picture(folder):
    page = write_report(folder).page.read_text(encoding="utf-8")
    tasks = chosen_tasks(6 * MODELS)
    unlike = sum(task % 3 != 0 for task in tasks)
    assert page.count("of the true prompt</span>") == len(METHODS) * unlike
    assert page.count("on the true prompt") == len(METHODS) * unlike
    assert page.count("on the pseudo-prompt") == len(METHODS) * (len(tasks) - unlike)
    assert page.count("none was guessed") == sum(task % 3 == 1 for task in tasks)
    assert "Where nothing was guessed, or nothing drawn of it" in page
    for task, it in shown(folder):
        assert ">wrong</span>" in page
        assert it.picks[-1].right
        if it.guessed is not None:
            # Whoever guesses, what he says is text and no markup.
            assert f"<dd><q>something &lt;b&gt;like&lt;/b&gt; {task}</q></dd>" in page
    assert "<b>" not in page


def test_the_page_does_not_explain_what_is_not_there(folder):
    pictures = json.loads((folder / "drawn" / "drawn.json").read_bytes())["pictures"]
    said = {f"images/{task:04d}.png": guess(0) for task in range(6 * MODELS)}
    put(folder / "pseudo" / "test.json", json.dumps(said).encode())
    write_list(folder, pictures=pictures)
    page = html.unescape(write_report(folder).page.read_text(encoding="utf-8"))
    assert "true prompt</dt>" in page
    assert "of the true prompt" not in page
    assert "Where nothing was guessed" not in page
    assert "nothing was drawn of pseudo-prompts" not in page
    write_list(folder, pictures=[])
    page = html.unescape(write_report(folder).page.read_text(encoding="utf-8"))
    assert "nothing was drawn of pseudo-prompts" in page
    assert "Where nothing was guessed" not in page
    assert "makes of the pseudo-prompt" not in page


@pytest.mark.parametrize("content", [None, b"no picture", b"", "elsewhere"])
def test_a_picture_that_is_gone_is_replaced_and_said_to_be(folder, content):
    """Nor is one shown that lies elsewhere, where a link leads to it."""
    secret = folder.parent / "secret.png"
    colour(0, 0).save(secret)

    def spoil(room):
        for path in (folder / room).glob("*.png"):
            path.unlink()
            if content == "elsewhere":
                path.symlink_to(secret)
            elif content is not None:
                path.write_bytes(content)

    spoil("drawn")
    picks = [pick for _, it in shown(folder) for pick in it.picks]
    assert len(picks) == 8 * len(METHODS)
    assert not any(pick.guessed for pick in picks)
    assert all(pick.picture is not None for pick in picks)
    spoil("images")
    found = [it for _, it in shown(folder)]
    assert len(found) == 8
    assert {it.picture for it in found} == {None}
    assert {pick.picture for it in found for pick in it.picks} == {None}


@pytest.mark.parametrize(
    "change",
    [
        {"format": {"name": "gmi-bench-drawn", "version": 2}},
        {"format": {"name": "gmi-bench-tasks", "version": 1}},
        {"pictures": [{"model": NAMES[0], "prompt": guess(0), "image": "../secret.png"}]},
        {"pictures": [{"model": NAMES[0], "prompt": guess(0), "image": "/secret.png"}]},
        {"pictures": [{"model": 0, "prompt": None, "image": "drawn/0-0.png"}]},
        {"pictures": {}},
    ],
)
def test_a_list_of_something_else_is_not_read(folder, change):
    assert len(read_drawn(folder)) == MODELS * 8
    write_list(folder, **change)
    assert read_drawn(folder) == {}
    assert not any(pick.guessed for _, it in shown(folder) for pick in it.picks)


@pytest.mark.parametrize(
    "content", ["[]", '{"images/0000.png": 5}', "{", '{"images/0000.png": " "}']
)
def test_guesses_that_are_none(folder, content):
    put(folder / "pseudo" / "test.json", content.encode())
    assert {it.guessed for _, it in shown(folder)} == {None}
