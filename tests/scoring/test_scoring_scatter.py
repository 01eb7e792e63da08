"""Lengths under a matrix are those of the formula, block by block or not."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.scoring.scatter import Mahalanobis, WithinScatter


@pytest.mark.parametrize("dimensions", [1, 2, 3, 4, 5, 37, 130])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-12)])
def test_lengths_are_the_formula(dimensions, dtype, tolerance):
    rng = np.random.default_rng(dimensions)
    factor = rng.standard_normal((dimensions, dimensions))
    rows = rng.standard_normal((20, dimensions)).astype(dtype)
    lengths = Mahalanobis.of(factor, np.dtype(dtype))
    wide = rows.astype(np.float64)
    expected = np.einsum("ni,ij,nj->n", wide, factor @ factor.T, wide)
    got = lengths.squared(rows)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=tolerance)
    assert lengths.squared(rows[:0]).shape == (0,)


def test_half_of_the_products_are_not_there():
    lengths = Mahalanobis.of(np.eye(96), np.dtype(np.float32))
    kept = sum(block.size for _, block in lengths.blocks)
    assert kept == 96 * 96 * 5 // 8


def test_a_scatter_keeps_what_it_worked_out():
    scatter = WithinScatter.of(np.random.default_rng(0).standard_normal((5, 9, 6)))
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    assert scatter.mahalanobis(1.0, single) is scatter.mahalanobis(1.0, single)
    assert scatter.mahalanobis(1.0, single) is not scatter.mahalanobis(1.0, double)
    assert scatter.mahalanobis(2.0, double) is not scatter.mahalanobis(1.0, double)
    with pytest.raises(ValueError, match="shrinkage must be positive"):
        scatter.mahalanobis(0.0, single)
