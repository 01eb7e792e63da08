"""Whether what the picked models make is like the query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.paper.folder import array_bytes, read_run, read_scored
from benchmarks.paper.studies import median_gamma, resemblance, squared_discrepancy
from gmi_registry.errors import InputError
from tests.support.embedded_run import benchmark_of, run_stage, write_embedded
from tests.support.report_run import perfect, write_summary

MODELS, SEEDS = 4, 6


def written(folder, **changes):
    """A scored run, and its test tasks of single images."""
    benchmark = benchmark_of(
        MODELS, test_seeds=tuple(range(SEEDS)), protocols=("images-1",), methods=("paper",)
    ).model_copy(update=changes)
    write_embedded(folder, benchmark)
    run_stage(folder, benchmark)
    write_summary(folder, benchmark.protocols, benchmark.methods)
    return read_scored(folder, "test", read_run(folder))[0]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resemblance")
    return folder, written(folder)


def found_for(run, **distances):
    folder, test = run
    found = resemblance(folder, replace(test, distances=distances))
    assert found is not None
    return found


def embeddings(folder):
    with np.load(folder / "embeddings" / "test.npz") as arrays:
        return dict(zip(arrays["images"].tolist(), arrays["image_embeddings"], strict=True))


def test_it_is_the_discrepancy_model_by_model(run) -> None:
    """Worked out once more for a method that takes each model for the next one."""
    folder, test = run
    shifted = perfect((test.truth + 1) % MODELS, MODELS)
    found = found_for(run, paper=shifted)
    known = embeddings(folder)
    drawn = {
        (int(m), task.prompts[0], task.seeds[0]): known[task.images[0]]
        for m, task in zip(test.truth, test.tasks.tasks, strict=True)
    }
    prompts = sorted({prompt for _, prompt, _ in drawn})
    gamma = median_gamma(np.stack(list(drawn.values())))
    assert found.gamma == pytest.approx(gamma, rel=1e-5)
    assert found.pictures == 3 * SEEDS // 2
    low, high = range(SEEDS // 2), range(SEEDS // 2, SEEDS)
    values = []
    for model in range(MODELS):
        for asked, made in ((low, high), (high, low)):
            x = np.stack([drawn[model, p, s] for p in prompts for s in asked])
            y = np.stack([drawn[(model + 1) % MODELS, p, s] for p in prompts for s in made])
            said = np.repeat(np.arange(len(prompts)), SEEDS // 2)
            values.append(squared_discrepancy(x, y, gamma, strata=(said, said)))
    assert found.methods[0].squared_mmd.value == pytest.approx(np.mean(values), abs=1e-6)


def test_the_right_answer_covers_all_of_the_way(run) -> None:
    _, test = run
    it = found_for(run, default=perfect(test.truth, MODELS))
    assert it.methods[0].squared_mmd == it.right
    assert it.methods[0].closed == 1.0
    assert it.right.value < 0.02 < it.random.value
    assert it.right.low <= it.right.value <= it.right.high


def test_equal_distances_are_chance_and_not_the_first_model(run) -> None:
    _, test = run
    it = found_for(run, paper=np.zeros((len(test.truth), MODELS)), default=test.distances["paper"])
    chance = next(each for each in it.methods if each.method == "paper")
    assert chance.closed is not None
    assert abs(chance.closed) < 0.25
    assert chance.squared_mmd.value == pytest.approx(it.random.value, rel=0.3)
    better = next(each for each in it.methods if each.method == "default")
    assert better.squared_mmd.value < chance.squared_mmd.value


def test_a_model_that_draws_the_same_is_as_good_as_the_right_one(run, tmp_path) -> None:
    """Accuracy would count every one of these answers as wrong."""
    test = written(tmp_path)
    path = tmp_path / "embeddings" / "test.npz"
    with np.load(path) as arrays:
        known = {name: arrays[name] for name in arrays.files}
    place = {name: row for row, name in enumerate(known["images"].tolist())}
    rows = {
        (int(m), task.prompts[0], task.seeds[0]): place[task.images[0]]
        for m, task in zip(test.truth, test.tasks.tasks, strict=True)
    }
    for (model, prompt, seed), row in rows.items():
        if model == 1:
            known["image_embeddings"][row] = known["image_embeddings"][rows[0, prompt, seed]]
    path.write_bytes(array_bytes(known))
    twins = np.where(test.truth < 2, 1 - test.truth, test.truth)
    found = resemblance(tmp_path, replace(test, distances={"paper": perfect(twins, MODELS)}))
    assert found is not None
    assert found.methods[0].closed == pytest.approx(1.0, abs=1e-6)


def test_the_same_run_gives_the_same_figures(run) -> None:
    _, test = run
    assert resemblance(*run) == resemblance(*run)
    odd = found_for(run, paper=np.zeros((len(test.truth), MODELS)))
    assert odd == found_for(run, paper=np.zeros((len(test.truth), MODELS)))


def test_an_odd_seed_is_left_over_and_one_seed_is_too_few(tmp_path) -> None:
    odd = written(tmp_path / "odd", seeds=benchmark_of(test_seeds=(0, 1, 2)).seeds)
    found = resemblance(tmp_path / "odd", odd)
    assert found is not None
    assert found.pictures == 3
    one = written(tmp_path / "one", seeds=benchmark_of(test_seeds=(0,)).seeds)
    assert resemblance(tmp_path / "one", one) is None


def test_embeddings_may_be_gone_but_not_damaged(tmp_path) -> None:
    test = written(tmp_path)
    path = tmp_path / "embeddings" / "test.npz"
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match="damaged"):
        resemblance(tmp_path, test)
    path.unlink()
    assert resemblance(tmp_path, test) is None
