"""Ranks, ties, margins, and the prompts named as best."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.scoring.scores import (
    ascending,
    best_prompts,
    least,
    margins,
    mid_ranks,
    prompt_contributions,
    top_k_credit,
)

few_values = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=9).map(np.array)


def test_all_distances_equal_is_chance_and_not_perfection():
    distances, truth = np.ones((32, 16)), np.arange(32) % 16
    ranks = mid_ranks(distances)[np.arange(32), truth]
    assert ranks.mean() == 8.5
    for k in range(1, 17):
        assert top_k_credit(distances, truth, k).mean() == pytest.approx(k / 16)


@given(few_values)
def test_mid_ranks_are_the_mean_over_random_tie_breaks(distances):
    ranks = mid_ranks(distances)
    below = (distances[None, :] < distances[:, None]).sum(axis=1)
    equal = (distances[None, :] == distances[:, None]).sum(axis=1)
    np.testing.assert_array_equal(ranks, below + (equal + 1) / 2)
    assert ranks.sum() == len(ranks) * (len(ranks) + 1) / 2


@given(few_values)
def test_credit_over_all_places_is_the_mid_rank(distances):
    tasks = np.tile(distances, (len(distances), 1))
    truth = np.arange(len(distances))
    # The expected rank is Σ_k P(rank > k) from k = 0.
    missed = sum(1 - top_k_credit(tasks, truth, k) for k in range(len(distances)))
    np.testing.assert_allclose(missed, mid_ranks(distances))


@given(few_values, st.randoms(use_true_random=False))
def test_the_order_does_not_depend_on_the_order_of_the_models(distances, random):
    keys = [f"local:{chr(97 + i)}" for i in range(len(distances))]
    expected = [keys[i] for i in ascending(distances, keys.__getitem__)]
    shuffled = list(range(len(keys)))
    random.shuffle(shuffled)
    again = ascending(distances[shuffled], [keys[i] for i in shuffled].__getitem__)
    assert [keys[shuffled[i]] for i in again] == expected
    ordered = sorted(zip(distances, keys, strict=True))
    assert [key for _, key in ordered] == expected


def test_nan_has_no_place():
    with pytest.raises(ValueError, match="NaN"):
        ascending(np.array([1.0, np.nan]), ["a", "b"].__getitem__)
    with pytest.raises(ValueError, match="NaN"):
        mid_ranks(np.array([np.nan]))


def test_margins_are_gaps_to_the_next():
    np.testing.assert_allclose(margins(np.array([1.0, 1.5, 1.5, 4.0])), [0.5, 0, 2.5, np.nan])
    np.testing.assert_allclose(margins(np.array([1.0, np.inf, np.inf])), [np.inf, 0, np.nan])
    assert np.isnan(margins(np.array([3.0]))).all()
    assert len(margins(np.array([]))) == 0


def test_contributions_sum_to_the_cross_term_and_order_the_prompts():
    rng = np.random.default_rng(0)
    z, queries = rng.standard_normal((6, 3)), rng.standard_normal((2, 3))
    weights, rows = rng.uniform(0, 1, (2, 6)), np.array([0, 0, 1, 2, 2, 2])
    parts = prompt_contributions(z, weights, queries, rows, 4, 0.2)
    kernel = np.exp(-0.2 * ((z[None] - queries[:, None]) ** 2).sum(axis=-1))
    assert parts.sum() == pytest.approx((weights * kernel).sum() / 6 / 2)
    assert parts[3] == 0
    best = best_prompts(z, weights, queries, rows, 4, 0.2, count=9)
    assert [p for p, _ in best] == sorted(range(3), key=lambda p: -parts[p])
    assert [value for _, value in best] == [parts[p] for p, _ in best]


def test_best_prompts_survive_a_kernel_that_underflows():
    z = np.array([[300.0], [200.0], [100.0]])
    ones, rows = np.ones((1, 3)), np.arange(3)
    best = best_prompts(z, ones, np.zeros((1, 1)), rows, 3, 1.0, count=2)
    assert best == [(2, 0.0), (1, 0.0)]


@pytest.mark.parametrize("models", [5, 1000, 70_000, 300_000])
@pytest.mark.parametrize("kind", ["normal", "sorted", "equal", "lumps", "sixteenth", "nan"])
def test_the_least_are_found_among_very_many(models, kind):
    rng = np.random.default_rng(models)
    values = rng.standard_normal(models).astype(np.float32)
    if kind == "sorted":
        values = np.sort(values)[::-1].copy()
    elif kind == "equal":
        values[:] = 2
    elif kind == "lumps":
        # None of the least is where a sixteenth is looked at.
        values[::16] = 9
    elif kind == "sixteenth":
        # What is looked at is nearer than the rest, which is wanted too.
        values[::16] -= 99
    elif kind == "nan":
        values[::3] = np.nan
    for count in (1, 44, 4000, models // 10, models):
        found = least(values, count)
        assert len(found) == min(count, models)
        assert (np.diff(found) > 0).all()
        wanted = np.sort(values)[: len(found)]
        assert np.array_equal(np.sort(values[found]), wanted, equal_nan=True)
