"""The whitened distance: its formula, its statistics, and cases with too little to learn from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.scoring.default import whitened_distances
from gmi_registry.scoring.scatter import WithinScatter, bounded_weights, model_weights


def hub(seed, models=12, rows=20, dimensions=10, style=0.5, content=5.0):
    """Models that add a style of their own, in any direction, to a large content in three."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0]
    contents = content * rng.standard_normal((rows, 3)) @ directions[:3]
    styles = style * rng.standard_normal((models, 1, dimensions))
    noise = 0.3 * rng.standard_normal((models, rows, dimensions))
    unseen = content * rng.standard_normal((models, 3)) @ directions[:3]
    images = unseen + styles[:, 0] + 0.3 * rng.standard_normal((models, dimensions))
    return contents + styles + noise, images


def test_distance_is_the_formula():
    z, queries = hub(0, models=4)
    weights = np.random.default_rng(1).uniform(-0.5, 1, (4, 20))
    within = np.mean([np.cov(m.T, bias=True) for m in z], axis=0) * 20 / 19
    precision = np.linalg.inv(within + np.trace(within) / 10 * np.eye(10))
    got = whitened_distances(z, weights, queries)
    for b in range(4):
        positive = np.maximum(weights[b], 0)
        for m in range(4):
            share = positive / positive.sum()
            difference = queries[b] - share @ z[m]
            excess = np.trace(precision @ within) * (share @ share)
            assert got[b, m] == pytest.approx(difference @ precision @ difference - excess)


def test_fewer_images_make_a_model_neither_nearer_nor_farther():
    rng = np.random.default_rng(9)
    few, many = (rng.standard_normal((400, rows, 6)) for rows in (5, 80))
    scatter = WithinScatter.of(many)
    query = rng.standard_normal((1, 6))
    means = [
        whitened_distances(z, np.ones((1, z.shape[1])), query, scatter=scatter).mean()
        for z in (few, many)
    ]
    assert means[0] == pytest.approx(means[1], rel=0.1)
    # It is the estimate of a distance, and no longer the length of anything.
    at_home = whitened_distances(few, np.ones((1, 5)), few[0].mean(axis=0)[None], scatter=scatter)
    assert at_home.min() < 0


@given(seed=st.integers(0, 2**32 - 1), shrinkage=st.floats(0.01, 10))
@settings(max_examples=30)
def test_spread_is_the_trace_of_what_is_whitened(seed, shrinkage):
    scatter = WithinScatter.of(hub(seed, models=3)[0])
    factor = scatter.whitening(shrinkage)
    expected = np.trace(factor.T @ (scatter.scatter / scatter.freedom) @ factor)
    assert scatter.spread(shrinkage) == pytest.approx(expected)
    assert 0 < scatter.spread(shrinkage) < 10


def test_whitening_finds_style_under_content():
    z, queries = hub(2)
    ones = np.ones((12, 20))
    whitened = whitened_distances(z, ones, queries).argmin(axis=1) == np.arange(12)
    plain = ((queries[:, None] - z.mean(axis=1)) ** 2).sum(axis=-1).argmin(axis=1) == np.arange(12)
    assert whitened.mean() > plain.mean()


def quadratic(scatter, direction):
    """xᵀ(S + λI)x along a direction of length 1."""
    covariance = scatter.scatter / scatter.freedom
    return direction @ covariance @ direction + np.trace(covariance) / len(covariance)


CHEATS = {
    "noise": lambda rng, z: 9000 * rng.standard_normal(z.shape[1:]),
    "one direction": lambda rng, z: 9000 * rng.choice([-1, 1], (len(z[0]), 1)) * np.eye(10)[0],
    "somebody's rows, longer": lambda rng, z: 30 * z[1],
    "a little longer": lambda rng, z: (
        z[1] + 5 * rng.choice([-1, 1], (len(z[0]), 1)) * np.eye(10)[0]
    ),
    "all alike": lambda rng, z: np.ones(z.shape[1:]),
    "nearly all alike": lambda rng, z: 1 + 1e-6 * rng.standard_normal(z.shape[1:]),
}


@given(seed=st.integers(0, 2**32 - 1), models=st.integers(5, 20), cheat=st.sampled_from([*CHEATS]))
@settings(max_examples=60, deadline=None)
def test_no_model_moves_the_statistics_of_the_others(seed, models, cheat):
    z, _ = hub(seed, models=models)
    rng = np.random.default_rng(seed)
    before = WithinScatter.of(z)
    after = WithinScatter.of(np.concatenate([z, CHEATS[cheat](rng, z)[None]]))
    directions = np.concatenate([np.eye(10), rng.standard_normal((50, 10))])
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    ratios = [quadratic(after, it) / quadratic(before, it) for it in directions]
    # One of 4 has more to say than one of 20.
    most = 1 + 15 / models
    assert 1 / most < min(ratios)
    assert max(ratios) < most


def test_honest_models_all_count_alike():
    z, _ = hub(1)
    assert (model_weights(z)[0] == 1).all()
    centred = z - z.mean(axis=1, keepdims=True)
    plain = np.einsum("mnd,mne->de", centred, centred)
    np.testing.assert_allclose(WithinScatter.of(z).scatter, plain)


@pytest.mark.parametrize("sizes", [[0, 0], [5], [1, 900], [0, 0, 2, 9000], [1, 2, 3]])
def test_weights_bring_sizes_within_reach_of_the_median(sizes):
    weights = bounded_weights(np.array(sizes, float))
    assert ((weights > 0) & (weights <= 1)).all()
    known = sorted(size for size in sizes if size)
    limit = 3 * known[(len(known) - 1) // 2] if known else 0
    assert (weights * sizes).tolist() == pytest.approx([min(size, limit) for size in sizes])


def test_shrinkage_must_be_positive():
    with pytest.raises(ValueError, match="shrinkage"):
        WithinScatter.empty(3).whitening(0.0)
    with pytest.raises(ValueError, match="shrinkage must be positive"):
        WithinScatter.empty(3).spread(-1.0)


@pytest.mark.parametrize("models", [1, 3])
def test_one_image_a_model_falls_back_to_the_plain_squared_distance(models):
    rng = np.random.default_rng(3)
    z, queries = rng.standard_normal((models, 1, 5)), rng.standard_normal((2, 5))
    expected = ((queries[:, None] - z[:, 0]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(whitened_distances(z, np.ones((2, 1)), queries), expected)


def test_equal_images_and_a_single_model_are_no_trouble():
    z = np.ones((3, 4, 5), np.float16)
    np.testing.assert_allclose(whitened_distances(z, np.ones((1, 4)), np.zeros((1, 5))), 5)
    one, queries = hub(4, models=1)
    assert np.isfinite(whitened_distances(one, np.ones((1, 20)), queries)).all()


def test_fewer_rows_than_dimensions_and_huge_norms_stay_finite():
    rng = np.random.default_rng(5)
    z = (1e4 + rng.standard_normal((2, 2, 300))).astype(np.float32)
    distances = whitened_distances(z, np.ones((1, 2), np.float32), z[0, :1])
    assert np.isfinite(distances).all()
    assert distances.argmin() == 0


def test_outside_statistics_are_used_for_a_filtered_set():
    z, queries = hub(6)
    ones = np.ones((12, 20))
    everything = whitened_distances(z, ones, queries)
    kept = [1, 4, 7]
    filtered = whitened_distances(z[kept], ones, queries, scatter=WithinScatter.of(z))
    np.testing.assert_allclose(filtered, everything[:, kept])


def test_permuting_models_permutes_distances_and_scale_cancels():
    z, queries = hub(7)
    ones = np.ones((12, 20))
    distances = whitened_distances(z, ones, queries)
    np.testing.assert_allclose(whitened_distances(z[::-1], ones, queries), distances[:, ::-1])
    np.testing.assert_allclose(whitened_distances(50 * z, ones, 50 * queries), distances)


def test_many_models_are_sampled_for_the_statistics_alone():
    z = np.random.default_rng(8).standard_normal((600, 2, 3))
    assert WithinScatter.of(z).freedom == 256
    assert whitened_distances(z, np.ones((1, 2)), np.zeros((1, 3))).shape == (1, 600)
