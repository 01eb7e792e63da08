"""Prompt weights, and vectors that have no direction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.scoring.query import clamped, cosine_weights, uniform

PROMPTS = np.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [0.0, 0.0]], np.float32)


def test_weights_are_cosines_looked_up_by_image():
    rows = np.array([2, 0, 0, 1, 3], np.int32)
    weights = cosine_weights(PROMPTS, rows, np.array([5.0, 5.0], np.float32))
    root = np.sqrt(0.5)
    np.testing.assert_allclose(weights, [-root, root, root, root, 0], rtol=1e-6)
    assert weights.dtype == np.float32


@given(scale=st.sampled_from([1e-6, 1e-3, 1.0, 1e4, 1e30]), seed=st.integers(0, 2**32 - 1))
def test_weights_ignore_norms_and_stay_in_range(scale, seed):
    rng = np.random.default_rng(seed)
    prompts, query = rng.standard_normal((6, 5)).astype(np.float32), rng.standard_normal(5)
    query = query.astype(np.float32)
    rows = np.arange(6)
    weights = cosine_weights(prompts, rows, query)
    assert np.abs(weights).max() <= 1
    rescaled = cosine_weights(np.float32(scale) * prompts, rows, query / np.float32(scale))
    np.testing.assert_allclose(rescaled, weights, rtol=2e-5, atol=1e-6)
    assert cosine_weights(query[None], np.array([0]), query)[0] == pytest.approx(1, abs=1e-6)


def test_a_pseudo_prompt_of_norm_zero_says_nothing():
    weights = cosine_weights(PROMPTS, np.arange(4), np.zeros(2, np.float32))
    np.testing.assert_array_equal(weights, uniform(4))


def test_half_precision_norms_do_not_overflow():
    prompts = np.full((2, 300), 6e4, np.float16)
    weights = cosine_weights(prompts, np.array([0, 1]), prompts[0])
    np.testing.assert_allclose(weights, 1, rtol=1e-6)


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_outside_the_prompts_are_refused(row):
    with pytest.raises(IndexError, match=r"0\.\.3"):
        cosine_weights(PROMPTS, np.array([0, row]), np.ones(2, np.float32))


def test_clamped_weights_are_a_mean():
    np.testing.assert_allclose(clamped(np.array([0.5, -1, 1.5])), [0.25, 0, 0.75])
    rows = clamped(np.array([[1.0, 3.0], [-1.0, -2.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(rows, [[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]])
    assert rows.dtype == np.float32
