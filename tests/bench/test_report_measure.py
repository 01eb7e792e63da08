"""Figures of score arrays whose outcome is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paper.folder import ScoredTasks, Task, TaskFile
from benchmarks.paper.results import measure
from gmi_registry.scoring.confidence import TEMPERATURE
from tests.support.report_run import noisy, perfect, truth_of

MODELS = 12


def scored(distances, *, protocol="images-1", prompts=3, seeds=2):
    """One protocol in which the tasks' groups are the prompts."""
    truth = truth_of(MODELS, prompts, seeds)
    tasks = tuple(
        Task(
            prompts=("p",),
            seeds=(0,),
            images=("images/0.png",),
            group=str(1 + number // seeds % prompts),
        )
        for number in range(len(truth))
    )
    names = tuple(f"m{number}" for number in range(MODELS))
    return ScoredTasks(protocol, TaskFile(models=names, tasks=tasks), truth, distances)


TRUTH = truth_of(MODELS, 3, 2)


def test_equal_distances_are_chance_and_not_perfection() -> None:
    result = measure(scored({"paper": np.zeros((len(TRUTH), MODELS))}), None)
    it = result.methods[0]
    assert [top.value for top in it.top] == pytest.approx(
        [k / MODELS for k in range(1, 9)], abs=1e-6
    )
    assert it.rank.value == (MODELS + 1) / 2
    assert it.picked == pytest.approx([1 / MODELS] * MODELS, abs=1e-6)
    assert it.top[0].low == it.top[0].high == it.top[0].value


def test_a_perfect_method_is_always_right() -> None:
    it = measure(scored({"default": perfect(TRUTH, MODELS)}), None).methods[0]
    assert [top.value for top in it.top] == [1.0] * 8
    assert (it.rank.value, it.rank.low, it.rank.high) == (1.0, 1.0, 1.0)
    assert it.confusion == np.eye(MODELS).tolist()
    assert it.rank_by_model == [1.0] * MODELS


def test_a_method_that_always_names_one_model_fills_one_column() -> None:
    distances = np.tile(np.arange(MODELS, dtype=float), (len(TRUTH), 1))
    it = measure(scored({"download": distances}), None).methods[0]
    assert it.top[0].value == pytest.approx(1 / MODELS, abs=1e-6)
    assert it.rank.value == (MODELS + 1) / 2
    assert it.rank_by_model == [float(rank) for rank in range(1, MODELS + 1)]
    assert it.confusion is not None
    assert {row[0] for row in it.confusion} == {1.0}


def test_a_tie_for_the_first_place_is_half_right() -> None:
    distances = perfect(TRUTH, MODELS)
    distances[np.arange(len(TRUTH)), (TRUTH + 1) % MODELS] = 0
    it = measure(scored({"paper": distances}), None).methods[0]
    assert [top.value for top in it.top[:2]] == [0.5, 1.0]
    assert it.rank.value == 1.5


def test_the_interval_holds_what_infinitely_many_tasks_would_give() -> None:
    many = truth_of(MODELS, 500, 2)
    every = noisy(many, MODELS, 1.5, seed=8)
    right = float((every.argmin(axis=1) == many).mean())
    few = measure(scored({"paper": noisy(truth_of(MODELS, 10, 2), MODELS, 1.5)}, prompts=10), None)
    top = few.methods[0].top[0]
    assert top.low < right < top.high
    assert top.high - top.low < 0.15


def test_a_difference_to_eq_9_is_paired() -> None:
    paper = noisy(TRUTH, MODELS, 1.0)
    same = measure(scored({"paper": paper, "default": paper.copy()}), None).method("default")
    assert same is not None
    assert same.versus_paper is not None
    assert same.versus_paper.top_1.model_dump() == {"value": 0.0, "low": 0.0, "high": 0.0}
    result = measure(scored({"paper": paper, "default": perfect(TRUTH, MODELS)}), None)
    better, reference = result.method("default"), result.method("paper")
    assert better is not None
    assert reference is not None
    assert better.versus_paper is not None
    assert reference.versus_paper is None
    assert better.versus_paper.top_1.value == pytest.approx(1 - reference.top[0].value, abs=2e-6)
    assert better.versus_paper.rank.value == pytest.approx(1 - reference.rank.value, abs=2e-6)


def test_groups_are_parts_of_the_tasks() -> None:
    result = measure(scored({"paper": noisy(TRUTH, MODELS, 1.0)}), None)
    assert [(part.group, part.tasks) for part in result.groups] == [("1", 24), ("2", 24), ("3", 24)]
    parts = [part.methods[0].top[0].value for part in result.groups]
    assert np.mean(parts) == pytest.approx(result.methods[0].top[0].value, abs=2e-6)


def test_confidence_is_fitted_on_dev_and_measured_on_test() -> None:
    dev = scored({"paper": noisy(truth_of(MODELS, 20, 2), MODELS, 1.5, seed=1)}, prompts=20)
    test = scored({"paper": noisy(truth_of(MODELS, 40, 2), MODELS, 1.5, seed=2)}, prompts=40)
    sure = measure(test, dev).methods[0].confidence
    assert sure is not None
    assert sure.dev_tasks == 480
    assert sure.error < 0.1
    assert sum(part.tasks for part in sure.bins) == 960
    assert sure.search_error is None
    assert measure(test, None).methods[0].confidence is None


def test_the_chance_that_a_search_shows_is_measured_too() -> None:
    """Of Gaussian queries: distances T times as long have the true chance at temperature T."""
    rng = np.random.default_rng(3)
    truth = truth_of(MODELS, 40, 2)
    means = rng.normal(size=(MODELS, 6))
    queries = means[truth] + rng.normal(size=(len(truth), 6))
    distances = TEMPERATURE * ((queries[:, None] - means) ** 2).sum(-1)
    both = scored({"default": distances, "modelverse": distances}, prompts=40)
    sure = {it.method: it.confidence for it in measure(both, both).methods}
    assert sure["default"] is not None
    assert sure["default"].search_error == pytest.approx(0, abs=0.04)
    assert sure["modelverse"] is not None
    assert sure["modelverse"].search_error is None


def test_only_single_images_have_a_confusion_matrix() -> None:
    one = measure(scored({"paper": noisy(TRUTH, MODELS, 1.0)}, protocol="images-4"), None)
    assert one.methods[0].confusion is None
