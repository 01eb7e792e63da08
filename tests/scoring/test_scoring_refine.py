"""The nearest by a score that reads images, found by what means say of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.scoring.kernels import rbf
from gmi_registry.scoring.prefilter import (
    Care,
    estimates_of,
    log_kernels,
    refine,
    refine_by_line,
    sample_rows,
)

MODELS = 3000
CARE = Care(64, 4)


class Asked:
    """Distances that count for how many models they were asked, and that it was in order."""

    def __init__(self, distances):
        self.distances = distances
        self.rows = []

    def __call__(self, rows):
        assert (np.diff(rows) > 0).all()
        self.rows += rows.tolist()
        return self.distances[rows]


def hub(seed, noise, scale=1.0, level=0.0, models=MODELS):
    rng = np.random.default_rng(seed)
    estimates = rng.standard_normal(models)
    distances = level + scale * estimates + noise * rng.standard_normal(models)
    return estimates, Asked(distances.astype(np.float32))


def first(distances, count):
    return np.argsort(distances, kind="stable")[:count].tolist()


def nearest(found, count):
    """Of those whose distance is exact."""
    return first(np.where(found.exact, found.distances, np.inf), count)


def same(found, asked):
    """Whether what is called exact is."""
    return np.array_equal(
        found.distances[found.exact], asked.distances[found.exact], equal_nan=True
    )


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("level", [0.0, -50.0])
def test_the_nearest_are_found_whatever_units_estimates_have(scale, level):
    looked_at = []
    for seed in range(20):
        estimates, asked = hub(seed, 0.1 * scale, scale, level)
        found = refine_by_line(estimates, asked, 10, CARE)
        assert found.distances.dtype == np.float32
        assert same(found, asked)
        assert nearest(found, 10) == first(asked.distances, 10)
        assert len(asked.rows) == len(set(asked.rows)) == found.exact.sum()
        looked_at.append(found.exact.sum())
    assert max(looked_at) < MODELS / 3


def test_the_others_are_about_as_far_as_they_are():
    estimates, asked = hub(0, 0.1, 3.0, -5.0)
    found = refine_by_line(estimates, asked, 10, CARE)
    # The line is known from the nearest alone, so its slope is known to a fifth.
    np.testing.assert_allclose(found.distances, asked.distances, atol=3.0)
    assert found.limit == np.partition(asked.distances, 9)[9]
    assert found.distances[~found.exact].min() > found.limit
    assert 0.05 < found.deviation < 0.3


@given(st.integers(0, 1000), st.floats(0, 3), st.integers(1, 30), st.integers(1, 400))
def test_no_estimate_is_wrong_enough_to_break_it(seed, noise, count, models):
    estimates, asked = hub(seed, noise, models=models)
    found = refine_by_line(estimates, asked, min(count, models), Care(8, 2))
    assert same(found, asked)
    assert found.exact.sum() >= min(count, models)


@pytest.mark.parametrize(
    "estimates",
    [np.zeros(MODELS), np.random.default_rng(1).standard_normal(MODELS), np.full(MODELS, np.nan)],
    ids=["all alike", "of something else", "no numbers"],
)
def test_estimates_that_say_nothing_have_all_looked_at(estimates):
    _, asked = hub(0, 1.0)
    assert refine_by_line(estimates, asked, 10, CARE).exact.all()


def test_estimates_that_are_upside_down_have_all_looked_at():
    estimates, asked = hub(0, 0.1)
    assert refine_by_line(-estimates, asked, 10, CARE).exact.all()


def test_what_is_near_for_another_reason_is_found_by_those_that_are_drawn():
    """A tenth of the models is near though their estimates are not."""
    estimates, asked = hub(0, 0.1)
    asked.distances[::10] -= 10
    found = refine_by_line(estimates, asked, 10, CARE)
    assert nearest(found, 10) == first(asked.distances, 10)


def test_what_is_no_number_is_handed_on():
    estimates, asked = hub(0, 0.1)
    asked.distances[np.argmin(estimates)] = np.nan
    assert np.isnan(refine_by_line(estimates, asked, 10, CARE).distances).any()


@pytest.mark.parametrize("way", [refine, refine_by_line])
def test_nothing_is_wanted(way):
    estimates, asked = hub(0, 0.1)
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        way(estimates, asked, 0)


@pytest.mark.parametrize("count", [1, 10])
def test_estimates_in_the_units_of_distances(count):
    looked_at = []
    for seed in range(20):
        estimates, asked = hub(seed, 0.1)
        found = refine(estimates, asked, count, CARE)
        assert same(found, asked)
        assert np.array_equal(found.distances[~found.exact], estimates[~found.exact])
        assert found.limit == np.sort(asked.distances)[count - 1]
        assert found.deviation == pytest.approx(0.1, rel=0.3)
        looked_at.append(found.exact.sum())
    assert max(looked_at) < MODELS / 3


def test_all_are_asked_for_where_estimates_say_nothing():
    _, asked = hub(0, 1.0, models=10_000)
    found = refine(np.random.default_rng(1).standard_normal(10_000), asked, 5)
    assert found.exact.all()
    assert found.distances.tolist() == asked.distances.tolist()
    few = refine(np.zeros(7), Asked(asked.distances), 3)
    assert few.distances.tolist() == asked.distances[:7].tolist()


def test_equal_estimates_are_no_trouble():
    exact = np.arange(20_000)[::-1].astype(np.float32)
    found = refine(np.zeros(20_000, np.float32), Asked(exact), 3)
    assert nearest(found, 3) == [19_999, 19_998, 19_997]


def test_rows_are_drawn_and_not_counted_off():
    rows = sample_rows(10_000, 1000)
    assert np.array_equal(rows, sample_rows(10_000, 1000))
    assert (np.diff(rows) > 0).all()
    assert len(set(rows % 10)) == 10
    assert len(set(np.diff(rows))) > 20
    assert np.array_equal(sample_rows(7, 7), np.arange(7))


@pytest.mark.parametrize("images", [1, 3])
def test_kernels_of_means(images):
    rng = np.random.default_rng(0)
    means, queries = rng.standard_normal((50, 8)), rng.standard_normal((images, 8))
    logs = log_kernels(means, queries, 0.1)
    kernels = rbf(means, queries, 0.1).sum(axis=1)
    np.testing.assert_allclose(logs, np.log(kernels), rtol=1e-9)
    np.testing.assert_allclose(estimates_of(logs), -kernels / kernels.max(), rtol=1e-9)


def test_means_that_are_far_away_have_an_order_too():
    means = 1e4 * np.arange(1, 6, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    logs = log_kernels(means, np.zeros((2, 4), np.float32), 0.1)
    assert (np.diff(logs) < 0).all()
    assert estimates_of(logs).tolist() == [-1, 0, 0, 0, 0]


def test_no_means():
    assert estimates_of(np.empty(0, np.float32)).shape == (0,)
