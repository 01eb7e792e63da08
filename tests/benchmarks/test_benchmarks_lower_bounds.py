"""The first few without the rest: always those of the full ranking, whatever the hub looks like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.speed.lower_bounds import LowerBounds, nearest_models
from gmi_registry.scoring.kernels import grams
from gmi_registry.scoring.paper import Equation, Invariants, paper_distances
from tests.support.hostile_hubs import KINDS, WIDTH, hub


def check(z, weights, queries, gamma, *, count, directions):
    known = grams(z, gamma)
    everything = paper_distances(z, weights, queries, gamma, model_grams=known).mean(axis=0)
    order = np.lexsort((np.arange(len(z)), everything))[:count]
    bounds = LowerBounds.of(z, known, directions=directions)
    for kept in (None, Invariants.of(z, known)):
        got = nearest_models(
            z,
            weights,
            queries,
            gamma,
            model_grams=known,
            lower_bounds=bounds,
            count=count,
            invariants=kept,
        )
        assert got.rows.tolist() == order.tolist()
        assert np.array_equal(got.distances, everything[order])
    least = bounds.of_query(Equation.of(z, weights, queries, gamma))
    assert (least <= everything).all()
    return got


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("directions", [1, 8, WIDTH])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ten_are_those_of_the_full_pass(kind, directions, dtype):
    z, weights, queries, gamma = hub(kind, dtype=dtype)
    check(z, weights, queries, gamma, count=10, directions=directions)
    check(z, weights[:1], queries[:1], gamma, count=3, directions=directions)


@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    gamma=st.floats(1e-6, 10),
    count=st.integers(1, 400),
    models=st.integers(1, 300),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_asked(seed, kind, gamma, count, models):
    z, weights, queries, _ = hub(kind, seed, max(models, 9))
    check(z[:models], weights, queries, gamma, count=count, directions=6)


def test_where_content_has_few_directions_most_models_are_never_looked_at():
    rng = np.random.default_rng(1)
    fading = 2 * np.arange(1, 65) ** -1.5
    contents = 4 * fading * rng.standard_normal((7, 64))
    styles = rng.standard_normal((4000, 1, 64))
    z = contents + styles + fading * rng.standard_normal((4000, 7, 64))
    query = contents[3] + styles[1234] + fading * rng.standard_normal((1, 64))
    single = [array.astype(np.float32) for array in (z, np.ones((1, 7)), query)]
    got = check(*single, 0.02, count=10, directions=16)
    assert got.rescored < 400


def test_bounds_of_all_directions_leave_no_doubt_where_images_count_alike():
    z, weights, queries, gamma = hub("random")
    known = grams(z, gamma)
    everything = paper_distances(
        z, np.full_like(weights, 0.7), queries, gamma, model_grams=known
    ).mean(axis=0)
    bounds = LowerBounds.of(z, known, directions=WIDTH)
    even = np.full_like(weights, 0.7)
    least = bounds.of_query(Equation.of(z, even, queries, gamma))
    np.testing.assert_allclose(least, everything, atol=3e-4)


def test_what_does_not_fit_is_refused():
    z, weights, queries, gamma = hub("random")
    known = grams(z, gamma)
    bounds = LowerBounds.of(z, known)
    with pytest.raises(ValueError, match="count"):
        nearest_models(z, weights, queries, gamma, model_grams=known, lower_bounds=bounds, count=0)
    with pytest.raises(ValueError, match="lower bounds"):
        nearest_models(
            z[1:], weights, queries, gamma, model_grams=known[1:], lower_bounds=bounds, count=1
        )
    with pytest.raises(ValueError, match="gamma"):
        nearest_models(z, weights, queries, -1.0, model_grams=known, lower_bounds=bounds, count=1)
    with pytest.raises(ValueError, match="weights have shape"):
        nearest_models(
            z, weights[:1], queries, gamma, model_grams=known, lower_bounds=bounds, count=1
        )
