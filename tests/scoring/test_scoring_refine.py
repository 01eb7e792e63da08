"""The nearest by a score that reads images, found by what means say of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.scoring.kernels import rbf
from gmi_registry.scoring.refine import Care, estimates_of, log_kernels, refine_by_line

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


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("level", [0.0, -50.0])
def test_the_nearest_are_found_whatever_units_estimates_have(scale, level):
    looked_at = []
    for seed in range(20):
        estimates, asked = hub(seed, 0.1 * scale, scale, level)
        found = refine_by_line(estimates, asked, 10, CARE)
        assert found.distances.dtype == np.float32
        assert found.distances.tolist() == asked.distances[found.places].tolist()
        nearest = found.places[first(found.distances, 10)].tolist()
        assert nearest == first(asked.distances, 10)
        assert len(asked.rows) == len(set(asked.rows)) == len(found.places)
        looked_at.append(len(found.places))
    assert max(looked_at) < MODELS / 3


def test_the_others_are_about_as_far_as_they_are():
    estimates, asked = hub(0, 0.1, 3.0, -5.0)
    found = refine_by_line(estimates, asked, 10, CARE)
    others = np.delete(asked.distances, found.places)
    assert found.others.shape == others.shape
    # The line is known from the nearest alone, so its slope is known to a fifth.
    np.testing.assert_allclose(found.others, others, atol=3.0)
    assert found.others.min() > np.partition(asked.distances, 9)[9]


@given(st.integers(0, 1000), st.floats(0, 3), st.integers(1, 30), st.integers(1, 400))
def test_no_estimate_is_wrong_enough_to_break_it(seed, noise, count, models):
    estimates, asked = hub(seed, noise, models=models)
    found = refine_by_line(estimates, asked, min(count, models), Care(8, 2))
    assert (np.diff(found.places) > 0).all()
    assert found.distances.tolist() == asked.distances[found.places].tolist()
    assert len(found.places) >= min(count, models)


@pytest.mark.parametrize(
    "estimates",
    [np.zeros(MODELS), np.random.default_rng(1).standard_normal(MODELS), np.full(MODELS, np.nan)],
    ids=["all alike", "of something else", "no numbers"],
)
def test_estimates_that_say_nothing_have_all_looked_at(estimates):
    _, asked = hub(0, 1.0)
    found = refine_by_line(estimates, asked, 10, CARE)
    assert found.places.tolist() == list(range(MODELS))


def test_estimates_that_are_upside_down_have_all_looked_at():
    estimates, asked = hub(0, 0.1)
    assert len(refine_by_line(-estimates, asked, 10, CARE).places) == MODELS


def test_what_is_near_for_another_reason_is_found_by_those_that_are_drawn():
    """A tenth of the models is near though their estimates are not."""
    estimates, asked = hub(0, 0.1)
    asked.distances[::10] -= 10
    found = refine_by_line(estimates, asked, 10, CARE)
    nearest = found.places[first(found.distances, 10)].tolist()
    assert nearest == first(asked.distances, 10)


def test_what_is_no_number_is_handed_on():
    estimates, asked = hub(0, 0.1)
    asked.distances[np.argmin(estimates)] = np.nan
    assert np.isnan(refine_by_line(estimates, asked, 10, CARE).distances).any()


def test_nothing_is_wanted():
    estimates, asked = hub(0, 0.1)
    with pytest.raises(ValueError, match="count must be positive, got 0"):
        refine_by_line(estimates, asked, 0)


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
