"""Models that join after everything was fitted."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paper import folder, score
from benchmarks.paper.folder import ScoredTasks, Task, TaskFile, array_bytes, read_answers
from benchmarks.paper.score import HeldOut, held_out_choices, held_out_methods, read_held_out
from benchmarks.paper.studies import held_out_loss
from gmi_registry.errors import InputError
from tests.support.embedded_run import benchmark_of, run_stage, write_embedded
from tests.support.report_run import perfect, truth_of

MODELS, TASKS = 8, 96


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    benchmark = benchmark_of(MODELS)
    write_embedded(folder, benchmark)
    assert run_stage(folder, benchmark)
    return folder


def test_everybody_is_late_equally_often() -> None:
    late = held_out_choices(16)
    assert late.shape == (8, 4)
    assert np.bincount(late.ravel()).tolist() == [2] * 16
    assert all(len(set(four)) == 4 for four in late.tolist())
    assert np.array_equal(late, held_out_choices(16))
    assert len({tuple(four) for four in held_out_choices(65).tolist()}) == 8
    assert len(held_out_choices(7)) == 0


def test_what_pools_nothing_cannot_be_late() -> None:
    assert held_out_methods(("paper", "modelverse", "paper-fitted")) == ()
    assert held_out_methods(("paper", "default")) == ("default", "default-fitted")
    assert held_out_methods(("default-fitted", "default-none")) == (
        "default-none",
        "default-fitted",
    )


def test_with_nobody_late_it_is_the_method_itself(finished) -> None:
    found = read_held_out(finished, TASKS, MODELS)
    assert found is not None
    assert found.late.shape == (8, 4)
    with np.load(finished / "scores" / "test" / "images-1.npz") as scores:
        for method in ("default", "default-none"):
            np.testing.assert_allclose(
                found.distances[method][0], scores[method], rtol=1e-9, atol=1e-9
            )


def test_late_models_teach_nothing_and_are_chosen_from(tmp_path, finished) -> None:
    """Other pictures in the late models' specifications change distances to them alone."""
    before = read_held_out(finished, TASKS, MODELS)
    benchmark = benchmark_of(MODELS)
    write_embedded(tmp_path, benchmark)
    assert before is not None
    late = before.late[0]
    path = tmp_path / "embeddings" / "specs.npz"
    with np.load(path) as arrays:
        changed = {name: arrays[name] for name in arrays.files}
    changed["image_embeddings"][late] *= 3
    path.write_bytes(array_bytes(changed))
    run_stage(tmp_path, benchmark)
    after = read_held_out(tmp_path, TASKS, MODELS)
    assert after is not None
    early = np.setdiff1d(np.arange(MODELS), late)
    for method in ("default", "default-none", "default-fitted"):
        old, new = before.distances[method], after.distances[method]
        np.testing.assert_allclose(new[1][:, early], old[1][:, early], rtol=1e-9, atol=1e-9)
        assert not np.allclose(new[1][:, late], old[1][:, late])
        assert not np.allclose(new[0][:, early], old[0][:, early])


def test_the_answers_of_test_are_not_read(tmp_path, finished, monkeypatch) -> None:
    asked = []

    def labels(folder, split):
        asked.append(split)
        return read_answers(folder, split)

    for module in (folder, score):
        monkeypatch.setattr(module, "read_answers", labels)
    benchmark = benchmark_of(MODELS)
    write_embedded(tmp_path, benchmark)
    for path in (tmp_path / "labels" / "test").iterdir():
        path.unlink()
    run_stage(tmp_path, benchmark)
    assert set(asked) == {"dev"}
    name = "scores/late.npz"
    assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()


def test_it_is_kept_until_something_changes(tmp_path) -> None:
    benchmark = benchmark_of(MODELS, protocols=("images-1",))
    write_embedded(tmp_path, benchmark)
    assert run_stage(tmp_path, benchmark)
    assert not run_stage(tmp_path, benchmark)
    (tmp_path / "scores" / "late.npz").write_bytes(b"cut sh")
    assert run_stage(tmp_path, benchmark)
    assert read_held_out(tmp_path, TASKS, MODELS) is not None
    assert run_stage(tmp_path, benchmark.model_copy(update={"methods": ("paper",)}))
    assert read_held_out(tmp_path, TASKS, MODELS) is None


@pytest.mark.parametrize(
    "arrays",
    [
        {"default": np.zeros((9, TASKS, MODELS))},
        {"late": np.full((1, 4), MODELS), "default": np.zeros((2, TASKS, MODELS))},
        {"late": np.zeros((1, 4), np.int64), "default": np.zeros((1, TASKS, MODELS))},
        {"late": np.zeros((1, 4), np.int64), "default": np.full((2, TASKS, MODELS), np.nan)},
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, arrays) -> None:
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "late.npz").write_bytes(array_bytes(arrays))
    with pytest.raises(InputError, match="is damaged") as caught:
        read_held_out(tmp_path, TASKS, MODELS)
    assert "python -m benchmarks.paper run" in str(caught.value.hint)


def lost(late, distances):
    """The losses on two tasks a model."""
    truth = truth_of(MODELS, 2, 1)
    task = Task(prompts=("p",), seeds=(0,), images=("images/0.png",), group="1")
    names = tuple(f"m{number}" for number in range(MODELS))
    test = ScoredTasks("images-1", TaskFile(models=names, tasks=(task,) * len(truth)), truth, {})
    return held_out_loss(test, HeldOut(np.array(late, np.int64), {"default": distances(truth)}))


def test_what_is_lost_is_counted_where_it_is_lost() -> None:
    """The first choice loses every task of its late models, the second none."""

    def distances(truth):
        right = perfect(truth, MODELS)
        return np.stack([right, np.where(truth[:, None] < 4, 1 - right, right), right])

    found = lost([[0, 1, 2, 3], [0, 4, 5, 6]], distances)
    assert found is not None
    assert found.choices == [["m0", "m1", "m2", "m3"], ["m0", "m4", "m5", "m6"]]
    assert found.tasks == 14
    it = found.methods[0]
    assert it.top_1.value == 1.0
    # Of seven models that were ever late, three lost all and one every other time.
    assert it.lost_late.value == pytest.approx(3.5 / 7, abs=1e-6)
    assert it.late.value == pytest.approx(1 - 3.5 / 7, abs=1e-6)
    # Half of the tasks, in one of two choices.
    assert it.lost.value == 0.25
    assert it.lost.low < 0.25 < it.lost.high


def test_nothing_is_lost_where_nothing_changes() -> None:
    found = lost([[0, 1, 2, 3]], lambda truth: np.stack([perfect(truth, MODELS)] * 2))
    assert found is not None
    assert found.methods[0].lost.model_dump() == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert lost(np.empty((0, 4)), lambda truth: perfect(truth, MODELS)[None]) is None
