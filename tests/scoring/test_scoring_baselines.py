"""Modelverse against its formulas written out, and the download order."""

from __future__ import annotations

import numpy as np
import pytest

from gmi_registry.scoring.scores import (
    download_distances,
    first_moment_distances,
    monte_carlo_distances,
    second_moment_distances,
)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((70, 6, 4)) + 1, rng.standard_normal((2, 4)) + 1


def test_modelverse_is_its_formulas(arrays):
    z, queries = arrays
    beta = 3.0
    first = first_moment_distances(z, queries)
    second = second_moment_distances(z, queries, logit_scale=beta)
    sampled = monte_carlo_distances(z, queries, logit_scale=beta)
    assert first.shape == second.shape == sampled.shape == (2, 70)
    for m in (0, 63, 64, 69):
        rows = unit(z[m])
        mean, covariance = rows.mean(axis=0), np.cov(rows.T, bias=True)
        for b, query in enumerate(unit(queries)):
            assert first[b, m] == pytest.approx(1 - query @ mean / np.linalg.norm(mean))
            likelihood = beta * query @ mean + beta**2 / 2 * query @ covariance @ query
            assert second[b, m] == pytest.approx(-likelihood)
            assert sampled[b, m] == pytest.approx(-np.log(np.exp(beta * rows @ query).mean()))


def test_norms_do_not_matter_and_zeros_do_not_divide(arrays):
    z, queries = arrays
    for distances in (first_moment_distances, second_moment_distances, monte_carlo_distances):
        np.testing.assert_allclose(distances(1e4 * z, queries), distances(z, queries), atol=1e-6)
        assert np.isfinite(distances(0 * z, queries)).all()


def test_monte_carlo_does_not_overflow_at_clip_scale(arrays):
    z, queries = (a.astype(np.float32) for a in arrays)
    distances = monte_carlo_distances(z, queries)
    assert np.isfinite(distances).all()
    assert (distances >= -100.001).all()


def test_most_downloaded_first_and_unknown_last():
    distances = download_distances(np.array([10, np.nan, 3000, 0]))
    assert list(np.argsort(distances)) == [2, 0, 3, 1]
    assert np.isfinite(distances).all()
