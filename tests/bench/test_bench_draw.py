"""What the picked models make of the pseudo-prompts: drawn by a stage, shown by the report."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.paper import folder
from benchmarks.paper.__main__ import app
from benchmarks.paper.definition import load_benchmark
from benchmarks.paper.folder import StageCache, read_run, read_scored, read_tasks
from benchmarks.paper.generate import SHOWN, chosen_tasks, draw_stage, guesses, read_drawn
from benchmarks.paper.generators import DiffusionGenerator, Order
from benchmarks.paper.methods import METHODS
from benchmarks.paper.report import examples, write_report
from benchmarks.paper.run import run_benchmark
from gmi_registry import generation
from gmi_registry.errors import GenerationError, InputError
from gmi_registry.generation import BatchCache, RecipeOverrides
from gmi_registry.hubs import HubAccess
from gmi_registry.hubs.local import LocalHub
from gmi_registry.images import load_image
from gmi_registry.scoring.scores import ascending
from tests.support import circle_bench, tiny_bench
from tests.support.circle_bench import contents
from tests.support.tiny_bench import interrupted, write_file

SEED = 2
"""The smallest that is none of the benchmark's 0 and 1 (test), 7 (dev)."""


def run(hub, out, *, last="draw", **changes):
    return tiny_bench.run(hub, out, last=last, **changes)


@pytest.fixture(scope="module")
def finished(hub, scored):
    """An undisturbed run; tests only look at it."""
    out = hub.parent / "finished"
    shutil.copytree(scored, out)
    made = run(hub, out).made
    assert made == dict.fromkeys(("generate", "embed", "interrogate", "score"), False) | {
        "draw": True
    }
    return out


def picks(folder):
    """(model, pseudo-prompt) of each shown task and method, worked out from the files alone."""
    file = read_tasks(folder, "test", "images-1")
    said = json.loads((folder / "pseudo" / "test.json").read_bytes())
    found = []
    with np.load(folder / "scores" / "test" / "images-1.npz") as distances:
        for number in chosen_tasks(len(file.tasks)):
            for method in SHOWN:
                first = int(ascending(distances[method][number], file.models.__getitem__)[0])
                found.append((first, said[file.tasks[number].images[0]]))
    return found


def drawn(folder):
    """(model, pseudo-prompt) to the picture file."""
    names = read_tasks(folder, "test", "images-1").models
    return {
        (names.index(model), text): image for (model, text), image in read_drawn(folder).items()
    }


def test_every_pick_has_a_picture_and_nothing_else_has(finished):
    wanted = picks(finished)
    assert len(wanted) == 8 * len(SHOWN)
    document = json.loads((finished / "drawn" / "drawn.json").read_bytes())
    assert document["seed"] == SEED
    assert drawn(finished).keys() == set(wanted)
    assert len(document["pictures"]) == len(set(wanted))
    names = {f"drawn/{path.name}" for path in (finished / "drawn").glob("*.png")}
    assert set(drawn(finished).values()) == names
    assert set(json.loads((finished / "bench.json").read_bytes())["seconds"]) >= {"draw", "score"}


def test_a_picture_is_what_the_model_draws_of_the_guess(hub, finished):
    """Drawn anew without any stage of the benchmark."""
    models = [LocalHub(hub, hub.parent / "again").fetch_model(ref) for ref in _refs(finished)]
    said = drawn(finished)
    checked = 0
    for number, model in enumerate(models):
        prompts = sorted(prompt for picked, prompt in said if picked == number)
        if not prompts:
            continue
        pipeline = generation.load_pipeline(model, device="cpu")
        wanted = RecipeOverrides(steps=2, batch_size=3, seeds=(SEED,))
        recipe = generation.default_recipe(pipeline, model, wanted)
        cache = BatchCache(hub.parent / f"anew-{number}", model, recipe)
        for prompt, picture in zip(
            prompts, generation.generate(pipeline, prompts, recipe, cache=cache), strict=True
        ):
            with Image.open(finished / said[number, prompt]) as kept:
                np.testing.assert_array_equal(np.asarray(kept), np.asarray(picture))
            checked += 1
    assert checked == len(said)


def test_a_guess_may_be_longer_than_what_the_model_reads(hub, tmp_path):
    """Nobody can be told to shorten it, as he is told of a prompt of his own."""
    benchmark = load_benchmark(write_file(hub))
    generator = DiffusionGenerator(
        benchmark, tmp_path, device="cpu", access=HubAccess(hub.parent / "cache")
    )
    long = " ".join(f"word{number}" for number in range(60))
    with pytest.raises(InputError, match="tokens, but the model reads 16"):
        generator.generate([Order("test", 0, (long,), (0,))], lambda done: None)
    ((path,),) = generator.generate([Order("guessed", 0, (long,), (0,))], lambda done: None)
    with Image.open(path) as picture:
        assert len(picture.getcolors(10_000)) > 10


def _refs(folder):
    from gmi_registry.spec import ModelRef

    models = json.loads((folder / "specs.json").read_bytes())["models"]
    return [ModelRef.parse(model["model"]) for model in models]


def test_each_model_is_loaded_once(hub, scored, tmp_path, monkeypatch):
    out, loaded, load = tmp_path / "out", [], generation.load_pipeline
    shutil.copytree(scored, out)

    def counted(model, **settings):
        loaded.append(str(model.ref))
        return load(model, **settings)

    monkeypatch.setattr(generation, "load_pipeline", counted)
    told = []
    benchmark = load_benchmark(write_file(hub))
    run_benchmark(
        benchmark,
        out,
        last="draw",
        device="cpu",
        access=HubAccess(hub.parent / "cache"),
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    refs = [str(ref) for ref in _refs(out)]
    assert loaded == [refs[number] for number in sorted({model for model, _ in picks(out)})]
    counts = [(done, total) for stage, done, total in told if stage == "draw"]
    pictures = len(set(picks(out)))
    assert counts[0] == (0, pictures)
    assert counts[-1] == (pictures, pictures)
    assert counts == sorted(counts)


def test_nothing_is_drawn_again_and_the_bytes_stay(hub, scored, finished, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    shutil.rmtree(out / "work")
    run(hub, out)
    assert contents(out) == contents(finished)
    monkeypatch.setattr(generation, "load_pipeline", None)
    assert not any(run(hub, out).made.values())
    assert contents(out) == contents(finished)


def test_interrupted_while_drawing(hub, scored, finished, tmp_path):
    """The distances are there all the while, and the next run ends with the same bytes.

    So it does where what was drawn before is damaged.
    """
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    with interrupted(kept=1):
        run(hub, out)
    assert not (out / "drawn" / "drawn.json").exists()
    assert {pick.guessed for it in shown(out) for pick in it.picks} == {False}
    run(hub, out)
    assert contents(out) == contents(finished)
    (out / next(iter(drawn(out).values()))).write_bytes(b"\x89PNG")
    assert run(hub, out).made["draw"]
    assert contents(out) == contents(finished)


def test_a_model_that_fails_leaves_a_report_to_be_had(hub, scored, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(scored, out)

    def fail(*_, **__):
        raise GenerationError("no memory", hint="give a smaller batch size")

    with monkeypatch.context() as patch:
        patch.setattr(generation, "generate", fail)
        with pytest.raises(GenerationError):
            run(hub, out)
    page = html.unescape(write_report(out).page.read_text(encoding="utf-8"))
    assert page.count("of the true prompt</span>") == 8 * len(SHOWN)


def test_drawing_never_reads_the_answers_of_test(hub, scored, finished, tmp_path, monkeypatch):
    """Neither through the one function that may, nor by opening a file that holds them."""
    out, opened = tmp_path / "out", []
    shutil.copytree(scored, out)
    benchmark = load_benchmark(write_file(hub))
    generator = DiffusionGenerator(
        benchmark, out / "work", device="cpu", access=HubAccess(hub.parent / "cache")
    )
    read_bytes, open_file = Path.read_bytes, Path.open

    def refuse(folder, split):
        raise AssertionError(f"the answers of {split} were asked for")

    monkeypatch.setattr(folder, "read_answers", refuse)
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read_bytes(self))
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: opened.append(self) or open_file(self, *a, **k)
    )
    assert draw_stage(benchmark, generator, StageCache(out), lambda done, total: None)
    names = {path.relative_to(out).as_posix() for path in opened if path.is_relative_to(out)}
    assert "tasks/test/images-1.json" in names
    assert not any(name.startswith(("labels/", "stages/generate/")) for name in names)
    monkeypatch.undo()
    shutil.rmtree(out / "drawn")
    shutil.rmtree(out / "labels")
    shutil.rmtree(out / "stages")
    assert draw_stage(benchmark, generator, StageCache(out), lambda done, total: None)
    for path in (finished / "drawn").iterdir():
        assert (out / "drawn" / path.name).read_bytes() == path.read_bytes()


def test_a_changed_card_redraws_its_model(hub, finished, tmp_path, monkeypatch):
    """And what was drawn before is shown no more, not even before it is drawn anew."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    number = min({model for model, _ in picks(out)} - {0})
    name = _refs(out)[number].id
    card, asked, draw = hub / "models" / name / "README.md", [], DiffusionGenerator.generate
    before = card.read_text()

    def watched(self, orders, progress):
        asked.extend((order.part, order.model) for order in orders)
        return draw(self, orders, progress)

    monkeypatch.setattr(DiffusionGenerator, "generate", watched)
    card.write_text(before.replace("base_model", "instance_prompt: ink\nbase_model"))
    try:
        run(hub, out, last="score")
        assert read_drawn(out) == {}
        run(hub, out)
    finally:
        card.write_text(before)
    assert {model for part, model in asked if part != "guessed"} == {number}
    assert ("guessed", number) in asked
    assert drawn(out).keys() == set(picks(out))


def shown(folder):
    return examples(folder, read_scored(folder, "test", read_run(folder))[0])


def test_the_report_shows_what_was_drawn(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    said, wanted = drawn(out), picks(out)
    names = read_tasks(out, "test", "images-1").models
    found = shown(out)
    assert [(pick.model, it.guessed) for it in found for pick in it.picks] == [
        (names[model], prompt) for model, prompt in wanted
    ]
    for pick, pair in zip((pick for it in found for pick in it.picks), wanted, strict=True):
        assert pick.guessed
        assert pick.picture is not None
        kept = np.asarray(load_image(out / said[pair], max_pixels=10_000), float)
        seen = Image.open(io.BytesIO(base64.b64decode(pick.picture.uri.partition(",")[2])))
        # The page's copy is compressed.
        assert np.abs(np.asarray(seen.convert("RGB"), float) - kept).mean() < 30
    page = html.unescape(write_report(out).page.read_text(encoding="utf-8"))
    for it in found:
        assert f"<dd><q>{it.prompt}</q></dd>" in page
        assert f"<dd><q>{it.guessed}</q></dd>" in page
    verdicts = re.findall(r'<span class="verdict">(\w+)</span>', page)
    assert verdicts == ["right" if pick.right else "wrong" for it in found for pick in it.picks]
    assert set(verdicts) == {"right", "wrong"}
    assert "of the true prompt" not in page


def test_nothing_is_drawn_where_nothing_was_guessed(hub, scored, tmp_path):
    out = tmp_path / "out"
    # The pictures are the same, whoever guesses.
    for part in ("images", "stages/generate"):
        shutil.copytree(scored / part, out / part)
    methods = tuple(method for method in METHODS if method != "rkme-concat")
    made = run(hub, out, last="report", interrogator="none", methods=methods).made
    assert (made["generate"], made["draw"]) == (False, False)
    assert guesses(out) == drawn(out) == {}
    page = html.unescape((out / "report" / "report.html").read_text(encoding="utf-8"))
    assert page.count("<dd>none was guessed</dd>") == 8
    assert page.count("of the true prompt</span>") == 8 * len(SHOWN)
    assert {pick.picture is None for it in shown(out) for pick in it.picks} == {False}


def test_who_cannot_draw_any_prompt_skips_the_stage(tmp_path):
    benchmark = load_benchmark(circle_bench.write_file(tmp_path))
    out = tmp_path / "out"
    before = run_benchmark(benchmark, out, last="score")
    kept, told = contents(out), []
    made = run_benchmark(benchmark, out, last="draw", progress=lambda *it: told.append(it)).made
    assert made == dict.fromkeys((*before.made, "draw"), False)
    assert "draw" not in {stage for stage, _, _ in told}
    assert contents(out) == kept


def test_the_command_stops_after_drawing(hub, scored, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(scored, out)
    monkeypatch.setenv("GMI_CACHE_DIR", str(hub.parent / "cache"))
    path = str(write_file(hub))
    arguments = ["run", path, "--out", str(out), "--stage", "draw", "--device", "cpu"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    pictures = len(set(picks(out)))
    assert f"generating with the picked models ({pictures})" in done.stderr
    assert "draw: done, " in done.stderr
    assert not (out / "report").exists()
    again = CliRunner().invoke(app, [*arguments, "--json"])
    last = json.loads(again.stdout)["stages"][-1]
    assert (last["name"], last["made"]) == ("draw", False)
