"""Intervals from drawing tasks anew."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paper.measure import interval, resampled_means


def test_an_interval_of_95_percent_covers_the_truth_about_that_often() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        sample = (generator.random((150, 1)) < 0.4).astype(float)
        low, high = interval(resampled_means(sample, resamples=400))
        covered += bool(low[0] <= 0.4 <= high[0])
    assert 180 <= covered <= 198


def test_its_width_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(2).normal(size=(900, 1))
    low, high = interval(resampled_means(values))
    expected = 2 * 1.96 * values.std() / np.sqrt(900)
    assert high[0] - low[0] == pytest.approx(expected, rel=0.08)


def test_columns_are_drawn_together_so_that_a_difference_is_paired() -> None:
    values = np.random.default_rng(3).normal(size=(80, 1))
    means = resampled_means(np.concatenate([values, values + 1], axis=1), resamples=50)
    assert np.allclose(means[:, 1] - means[:, 0], 1)


def test_the_same_seed_draws_the_same_whatever_is_drawn_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(4).normal(size=(37, 2))
    whole = resampled_means(values, resamples=60)
    assert np.array_equal(whole, resampled_means(values, resamples=60))
    assert not np.array_equal(whole, resampled_means(values, resamples=60, seed=5))
    monkeypatch.setattr("benchmarks.paper.measure._RESAMPLE_BLOCK", 37 * 7)
    assert np.allclose(whole, resampled_means(values, resamples=60))


def test_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task"):
        resampled_means(np.empty((0, 3)))
