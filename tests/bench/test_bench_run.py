"""Stages over the paper's two functions: what they write, what they redo, what they may read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import folder, score
from benchmarks.paper.definition import load_benchmark
from benchmarks.paper.folder import read_answers, read_tasks
from benchmarks.paper.run import run_benchmark
from gmi_registry.errors import InputError
from gmi_registry.scoring import top_k_credit
from tests.support.circle_bench import METHODS, contents, write_file


def run(folder, last="score", **changes):
    benchmark = load_benchmark(write_file(folder, **changes))
    return run_benchmark(benchmark, folder / "out", last=last)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run; tests only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder / "out"


def test_files_of_a_finished_run(finished):
    summary = json.loads((finished / "bench.json").read_bytes())
    assert summary["format"] == {"name": "gmi-bench", "version": 1}
    assert (summary["name"], summary["methods"]) == ("circle", METHODS)
    assert set(summary["seconds"]) == {"generate", "embed", "interrogate", "fit", "score"}
    for split, count in (("test", 4 * 2 * 2), ("dev", 3 * 2 * 2)):
        for protocol, size in (("images-1", 1), ("images-2", 2)):
            found = read_tasks(finished, split, protocol)
            assert found.models == ("f1", "f2")
            assert len(found.tasks) == count
            assert {len(task.images) for task in found.tasks} == {size}
            with np.load(finished / "scores" / split / f"{protocol}.npz") as scores:
                assert scores.files == METHODS
                for method in METHODS:
                    assert scores[method].shape == (count, 2)
                    assert scores[method].dtype == np.float64


def test_example_is_told_apart_by_its_prompt_alone(finished):
    truth = np.array(read_answers(finished, "test")["images-1"])
    assert sorted(truth) == [0] * 8 + [1] * 8
    with np.load(finished / "scores" / "test" / "images-1.npz") as scores:
        accuracy = {name: top_k_credit(scores[name], truth, 1).mean() for name in scores.files}
    assert accuracy["paper-ground-truth"] == accuracy["default-ground-truth"] == 1
    assert accuracy["rkme-clip"] == accuracy["paper-none"] == 0.5


def test_images_of_a_task_differ_in_prompt_and_share_a_seed(finished):
    found = read_tasks(finished, "test", "images-2").tasks
    assert all(len(set(task.prompts)) == 2 for task in found)
    assert all(len(set(task.seeds)) == 1 for task in found)
    singles = {task.images for task in read_tasks(finished, "test", "images-1").tasks}
    assert {task.images[:1] for task in found} == singles
    groups = {task.prompts[0]: task.group for task in found}
    assert groups == {"0.05": "1", "0.15": "1", "0.35": "2", "0.45": "3"}


def test_neither_names_nor_places_of_tasks_tell_the_model(finished):
    found = read_tasks(finished, "test", "images-1").tasks
    for task in found:
        assert all(Path(image).parent.name == "images" for image in task.images)
        assert all(len(Path(image).stem) == 32 for image in task.images)
    assert [task.images for task in found] == sorted(task.images for task in found)
    text = (finished / "tasks" / "test" / "images-1.json").read_text()
    assert "truth" not in text
    assert set(json.loads(text)["tasks"][0]) == {"prompts", "seeds", "images", "group"}


def test_nothing_is_redone_and_the_bytes_stay(tmp_path, finished):
    first = run(tmp_path)
    assert all(first.made.values())
    before = contents(tmp_path / "out")
    assert before == contents(finished)
    again = run(tmp_path)
    assert not any(again.made.values())
    assert again.seconds == first.seconds
    assert contents(tmp_path / "out") == before


CHANGES = [
    ({"methods": METHODS[:2]}, [False, False, False, True]),
    ({"protocols": ["images-1"]}, [False, False, False, False]),
    ({"evaluation": ["0.05", "0.15", "0.35"]}, [True, True, True, True]),
]


@pytest.mark.parametrize(("changes", "made"), CHANGES)
def test_a_change_redoes_what_depends_on_it(tmp_path, changes, made):
    run(tmp_path)
    changed = run(tmp_path, **changes)
    assert list(changed.made.values()) == made
    fresh = tmp_path / "fresh"
    run(fresh, **changes)
    ours = {name: data for name, data in contents(tmp_path / "out").items() if "stages" not in name}
    theirs = {name: data for name, data in contents(fresh / "out").items() if "stages" not in name}
    leftover = ours.keys() - theirs.keys()
    assert all(name.startswith("images/") for name in leftover)
    assert {name: data for name, data in ours.items() if name not in leftover} == theirs


def test_a_damaged_file_is_made_again(tmp_path, finished):
    run(tmp_path)
    out = tmp_path / "out"
    (out / "embeddings" / "test.npz").write_bytes(b"cut sh")
    next((out / "images").iterdir()).write_bytes(b"\x89PNG")
    (out / "stages" / "score" / "test-images-1.json").write_text("{")
    again = run(tmp_path)
    assert again.made["generate"]
    assert again.made["embed"]
    assert again.made["score"]
    assert contents(out) == contents(finished)


def test_stages_before_the_last_leave_no_summary(tmp_path):
    assert list(run(tmp_path, last="embed").made) == ["generate", "embed"]
    assert not (tmp_path / "out" / "bench.json").exists()
    run(tmp_path)
    assert (tmp_path / "out" / "bench.json").exists()
    run(tmp_path, last="generate", evaluation=["0.05", "0.15"])
    assert not (tmp_path / "out" / "bench.json").exists()


@pytest.mark.parametrize("fatal", [1, 3, 5, 8, 13, 21, 34, 45])
def test_stopped_at_a_write_and_run_again(tmp_path, monkeypatch, finished, fatal):
    """Whatever write is the last that succeeds, the next run ends with the same bytes."""
    replace, count = Path.replace, 0

    def stop(self, target):
        nonlocal count
        count += 1
        if count > fatal:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert not (tmp_path / "out" / "bench.json").exists()
    run(tmp_path)
    assert contents(tmp_path / "out") == contents(finished)


def test_killed_and_run_again(tmp_path, finished):
    path = write_file(tmp_path)
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.paper.definition import load_benchmark\n"
        "from benchmarks.paper.run import run_benchmark\n"
        "run_benchmark(load_benchmark(sys.argv[1]), Path(sys.argv[2]), last='score')\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(out)])
    deadline = time.monotonic() + 300
    # The process is to die unprepared, so it cannot be the one to say how far it is.
    while not (out / "stages" / "generate").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it drew nothing"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (out / "bench.json").exists()
    run(tmp_path)
    assert contents(out) == contents(finished)


def test_scoring_never_reads_the_answers_of_test(tmp_path, monkeypatch):
    """Neither through the one function that may, nor by opening a file that holds them."""
    asked, opened = [], []
    known, read_bytes, open_file = read_answers, Path.read_bytes, Path.open

    def labels(folder, split):
        asked.append(split)
        return known(folder, split)

    run(tmp_path, last="interrogate", methods=["paper", "paper-fitted", "default-fitted"])
    for module in (folder, score):
        monkeypatch.setattr(module, "read_answers", labels)
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read_bytes(self))
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: opened.append(self) or open_file(self, *a, **k)
    )
    made = run(tmp_path, methods=["paper", "paper-fitted", "default-fitted"]).made
    assert made == {"generate": False, "embed": False, "interrogate": False, "score": True}
    assert asked == ["dev"]
    names = {path.relative_to(tmp_path / "out").as_posix() for path in opened if "out" in str(path)}
    assert "labels/dev/images-1.json" in names
    assert not any(name.startswith("labels/test") and "/." not in name for name in names)


def test_scores_are_the_same_without_the_answers_of_test(tmp_path, finished):
    run(tmp_path, last="interrogate")
    out = tmp_path / "out"
    for path in (out / "labels" / "test").iterdir():
        path.unlink()
    from benchmarks.paper.folder import StageCache

    benchmark = load_benchmark(write_file(tmp_path))
    assert score.score_stage(benchmark, StageCache(out), lambda done, total: None)
    for protocol in ("images-1", "images-2"):
        name = f"scores/test/{protocol}.npz"
        assert (out / name).read_bytes() == (finished / name).read_bytes()


def test_fitted_values_come_from_dev_alone(tmp_path):
    run(tmp_path, methods=["paper-fitted", "default-fitted", "paper"])
    fitted = json.loads((tmp_path / "out" / "fitted.json").read_bytes())
    assert (fitted["split"], fitted["protocol"]) == ("dev", "images-1")
    assert fitted["fit"]["gamma"] in score.GAMMAS
    assert fitted["fit"]["shrinkage"] in score.SHRINKAGES
    assert len(fitted["top_1"]["gamma"]) == len(score.GAMMAS)
    labels = tmp_path / "out" / "labels" / "test" / "images-1.json"
    labels.write_bytes(labels.read_bytes().replace(b"0", b"1"))
    (tmp_path / "out" / "fitted.json").unlink()
    (tmp_path / "out" / "stages" / "score" / "test-images-1.json").unlink()
    run(tmp_path, methods=["paper-fitted", "default-fitted", "paper"])
    assert json.loads((tmp_path / "out" / "fitted.json").read_bytes()) == fitted


def test_halves_of_the_default_prompts(tmp_path):
    """Each half is what a benchmark of these prompts alone would be."""
    path = write_file(tmp_path, protocols=["images-1", "split-2", "split-3"])
    run_benchmark(load_benchmark(path), tmp_path / "both", last="score")
    for half, prompts in (("split-2", '"-1", "-0.5", "0", "0.5"'), ("split-3", None)):
        prompts = prompts or '"-0.75", "-0.25", "0.25", "0.75"'
        alone = write_file(tmp_path / half, protocols=["images-1"])
        text = alone.read_text()
        before = next(line for line in text.splitlines() if line.startswith("default_prompts"))
        alone.write_text(text.replace(before, f"default_prompts = [{prompts}]"))
        run_benchmark(load_benchmark(alone), tmp_path / half / "out", last="score")
        with (
            np.load(tmp_path / "both" / "scores" / "test" / f"{half}.npz") as ours,
            np.load(tmp_path / half / "out" / "scores" / "test" / "images-1.npz") as theirs,
        ):
            for method in METHODS:
                np.testing.assert_allclose(ours[method], theirs[method], atol=1e-9)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds something else than a benchmark's results"):
        run(tmp_path)
    assert contents(out) == {"thesis.txt": b"years of work"}


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (None, "holds circle version 1, and this is circle version 2"),
        (
            {"format": {"name": "gmi-bench-run", "version": 2}},
            "another version of this benchmark",
        ),
        (
            {"format": {"name": "gmi-bench-run", "version": 1}},
            "another version of this benchmark",
        ),
        ([], "another version of this benchmark"),
    ],
)
def test_results_of_another_version_are_left_alone(tmp_path, finished, mark, message):
    run(tmp_path, last="generate")
    out = tmp_path / "out"
    if mark is not None:
        (out / "run.json").write_text(json.dumps(mark))
    before = contents(out)
    with pytest.raises(InputError) as caught:
        run(tmp_path, version=2 if mark is None else 1)
    assert message in caught.value.message
    assert caught.value.hint
    assert contents(out) == before


def test_a_limited_run_does_not_replace_a_whole_one(tmp_path):
    run(tmp_path, last="generate")
    benchmark = load_benchmark(write_file(tmp_path)).limited(2)
    with pytest.raises(InputError, match="this is circle version 1 with --limit 2"):
        run_benchmark(benchmark, tmp_path / "out")
    run_benchmark(benchmark, tmp_path / "quick", last="score")
    assert len(read_tasks(tmp_path / "quick", "test", "images-1").tasks) == 2 * 2 * 2


def test_a_model_that_the_example_lacks(tmp_path):
    path = write_file(tmp_path)
    path.write_text(path.read_text().replace('"f2"', '"f3"'))
    with pytest.raises(InputError, match="the paper's example has no model 'f3'"):
        run_benchmark(load_benchmark(path), tmp_path / "out")


def test_unfinished_results_say_what_to_run(tmp_path):
    with pytest.raises(InputError, match="holds no answers for test") as caught:
        read_answers(tmp_path, "test")
    assert caught.value.hint == "python -m benchmarks.paper run"
    with pytest.raises(InputError, match="cannot be read"):
        read_tasks(tmp_path, "test", "images-1")
    (tmp_path / "labels" / "test").mkdir(parents=True)
    (tmp_path / "labels" / "test" / "images-1.json").write_text('{"truth": [-1]}')
    with pytest.raises(InputError, match="is damaged"):
        read_answers(tmp_path, "test")
