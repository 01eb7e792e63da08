"""The kernel against the plain formula, and where float32 would go wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.scoring.kernels import gram, grams, rbf, squared_distances


def slow_squared_distances(x, y):
    return np.array(
        [[sum((float(a) - float(b)) ** 2 for a, b in zip(u, v, strict=True)) for v in y] for u in x]
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 6),
    m=st.integers(1, 6),
    dimensions=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 1e2, 1e4]),
    offset=st.sampled_from([0.0, 1.0, 1e4]),
)
def test_kernel_is_the_formula_at_every_scale(seed, n, m, dimensions, scale, offset):
    rng = np.random.default_rng(seed)
    x = (offset + scale * rng.standard_normal((n, dimensions))).astype(np.float32)
    y = (offset + scale * rng.standard_normal((m, dimensions))).astype(np.float32)
    gamma = 0.3 / scale**2
    expected = np.exp(-gamma * slow_squared_distances(x, y))
    kernel = rbf(x, y, gamma)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(kernel, expected, atol=3e-5)
    np.testing.assert_allclose(rbf(x.astype(float), y.astype(float), gamma), expected, atol=1e-9)


def test_equal_points_of_huge_norm_are_exactly_one_apart_from_nothing():
    rng = np.random.default_rng(0)
    far = (1e4 + rng.standard_normal((20, 768))).astype(np.float32)
    assert np.array_equal(squared_distances(far, far).diagonal(), np.zeros(20))
    assert np.array_equal(rbf(far, far.copy(), 50.0).diagonal(), np.ones(20))


def test_a_small_difference_between_huge_vectors_survives_float32():
    x = np.full((3, 512), 1e4, np.float32)
    y = x[:2] + np.float32(0.25)
    expected = np.exp(-0.02 * 512 * 0.25**2)
    np.testing.assert_allclose(rbf(x, y, 0.02), expected, rtol=1e-5)


def test_values_beyond_the_dtype_are_far_not_nan():
    x = np.array([[1e30, 0.0], [0.0, 0.0]], np.float32)
    y = np.array([[-1e30, 1.0], [0.0, 0.0], [1e30, 0.0]], np.float32)
    kernel = rbf(x, y, 1.0)
    np.testing.assert_array_equal(kernel, [[0, 0, 1], [0, 1, 0]])


def test_blocks_do_not_change_the_result():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((5000, 400)).astype(np.float16)
    y = rng.standard_normal((3, 400)).astype(np.float32)
    kernel = rbf(x, y, 1e-3)
    for start in (0, 2600, 4999):
        np.testing.assert_allclose(kernel[start], rbf(x[start : start + 1], y, 1e-3)[0], rtol=1e-5)


def test_dtype_is_float32_unless_one_input_is_float64():
    half = np.ones((2, 3), np.float16)
    assert rbf(half, half, 1.0).dtype == np.float32
    assert rbf(half, half.astype(np.float64), 1.0).dtype == np.float64


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(ValueError, match="gamma"):
        rbf(np.ones((1, 1)), np.ones((1, 1)), gamma)


def test_gram_is_symmetric_with_unit_diagonal_and_positive_semidefinite():
    z = np.random.default_rng(2).standard_normal((2, 55, 64)).astype(np.float16)
    both = grams(z, 0.01)
    assert both.shape == (2, 55, 55)
    for m in range(2):
        assert np.array_equal(both[m], both[m].T)
        assert np.array_equal(both[m].diagonal(), np.ones(55))
        assert np.linalg.eigvalsh(both[m].astype(float)).min() > -1e-5
        np.testing.assert_array_equal(both[m], gram(z[m], 0.01))
