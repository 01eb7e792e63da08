"""Eq. 9 against an independent slow implementation, its invariants, and the paper's example."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.scoring.kernels import gram, grams
from gmi_registry.scoring.paper import (
    concatenated,
    paper_distance,
    paper_distances,
    reduced_distances,
    reduced_point,
    rkme_distance,
)
from gmi_registry.scoring.query import cosine_weights, uniform


def slow_distance(z_rows, weights, z, gamma):
    """‖(1/N) Σ w_i k(z_i,·) - k(z,·)‖² as a double loop over the inner products of its terms."""

    def k(x, y):
        return math.exp(-gamma * sum((float(a) - float(b)) ** 2 for a, b in zip(x, y, strict=True)))

    terms = [(float(w) / len(z_rows), row) for w, row in zip(weights, z_rows, strict=True)]
    terms.append((-1.0, z))
    return math.fsum(a * b * k(x, y) for a, x in terms for b, y in terms)


def problem(seed, models=1, rows=5, dimensions=4, images=1, scale=1.0):
    rng = np.random.default_rng(seed)
    return (
        scale * rng.standard_normal((models, rows, dimensions)),
        rng.uniform(-1, 1, (images, rows)),
        scale * rng.standard_normal((images, dimensions)),
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 7),
    dimensions=st.integers(1, 6),
    images=st.integers(1, 4),
    gamma=st.sampled_from([1e-4, 0.02, 0.5, 20.0]),
)
@settings(max_examples=40, deadline=None)
def test_distance_is_eq_9(seed, rows, dimensions, images, gamma):
    z, weights, queries = problem(seed, 1, rows, dimensions, images)
    expected = np.mean(
        [slow_distance(z[0], w, q, gamma) for w, q in zip(weights, queries, strict=True)]
    )
    assert paper_distance(z[0], weights, queries, gamma) == pytest.approx(expected, abs=1e-12)
    single = [a.astype(np.float32) for a in (z[0], weights, queries)]
    known = gram(single[0], gamma)
    assert paper_distance(*single, gamma) == pytest.approx(expected, abs=1e-5)
    assert paper_distance(*single, gamma, model_gram=known) == pytest.approx(expected, abs=1e-5)
    assert expected > -1e-12


@given(seed=st.integers(0, 2**32 - 1), models=st.integers(1, 6), images=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_batched_equals_single_and_models_do_not_touch_each_other(seed, models, images):
    z, weights, queries = problem(seed, models, 6, 5, images)
    batched = paper_distances(z, weights, queries, 0.1, model_grams=grams(z, 0.1))
    assert batched.shape == (images, models)
    for m in range(models):
        for b in range(images):
            alone = paper_distance(z[m], weights[b], queries[b], 0.1)
            assert batched[b, m] == pytest.approx(alone, abs=1e-12)
    order = np.random.default_rng(seed).permutation(models)
    np.testing.assert_allclose(
        paper_distances(z[order], weights, queries, 0.1), batched[:, order], atol=1e-12
    )


@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_images_with_their_prompts_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((8, 5)).astype(np.float32)
    prompts = rng.standard_normal((3, 4)).astype(np.float32)
    rows = rng.integers(0, 3, 8)
    query, pseudo = rng.standard_normal((2, 5)), rng.standard_normal(4)
    before = paper_distance(z, cosine_weights(prompts, rows, pseudo), query[0], 0.1)
    images, renamed = rng.permutation(8), rng.permutation(3)
    shuffled = cosine_weights(prompts[renamed], np.argsort(renamed)[rows][images], pseudo)
    assert paper_distance(z[images], shuffled, query[0], 0.1) == pytest.approx(before, abs=1e-6)


@given(seed=st.integers(0, 2**32 - 1), shift=st.sampled_from([0.0, 3.0, 1e4]))
def test_distance_survives_translation_and_rotation_of_the_embedding_space(seed, shift):
    z, weights, queries = problem(seed, 1, 6, 5, 2)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))
    before = paper_distance(z[0], weights, queries, 0.1)
    after = paper_distance(z[0] @ turn + shift, weights, queries @ turn + shift, 0.1)
    assert after == pytest.approx(before, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 1e4]))
def test_gamma_and_scale_are_one_parameter(seed, scale):
    z, weights, queries = problem(seed, 1, 6, 5)
    before = paper_distance(z[0], weights, queries, 0.1)
    after = paper_distance(scale * z[0], weights, scale * queries, 0.1 / scale**2)
    assert after == pytest.approx(before, abs=1e-9)


@given(seed=st.integers(0, 2**32 - 1), norm=st.sampled_from([0.0, 1.0, 1e4]))
def test_a_model_of_one_image_is_at_distance_zero_from_that_image(seed, norm):
    z = (norm * np.random.default_rng(seed).standard_normal((1, 64))).astype(np.float16)
    assert paper_distance(z, uniform(1), z[0], 0.02) == 0
    assert rkme_distance(z, z, 0.02) == 0


def test_identical_models_tie_exactly():
    z, weights, queries = problem(3, 1, 9, 6, 2)
    both = paper_distances(np.concatenate([z, z, z]), weights, queries, 0.1)
    assert np.array_equal(both[:, 0], both[:, 1])
    assert np.array_equal(both[:, 0], both[:, 2])


def test_weights_of_zero_leave_only_the_query():
    z, weights, queries = problem(4, 2, 9, 6, 3)
    np.testing.assert_array_equal(paper_distances(z, 0 * weights, queries, 0.1), np.ones((3, 2)))


def test_a_repeated_prompt_counts_as_often_as_it_stands_there():
    z, weights, queries = problem(5, 1, 4, 6)
    twice = paper_distance(np.tile(z[0], (2, 1)), np.tile(weights, 2), queries, 0.1)
    assert twice == pytest.approx(paper_distance(z[0], weights, queries, 0.1), abs=1e-12)


def test_float16_specs_are_widened_before_any_arithmetic():
    z, weights, queries = problem(6, 3, 55, 768, 1, scale=100.0)
    half = z.astype(np.float16)
    expected = paper_distances(half.astype(np.float64), weights, queries, 1e-7)
    got = paper_distances(half, weights.astype(np.float32), queries.astype(np.float32), 1e-7)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_weights_of_the_wrong_shape_are_refused():
    z, _, queries = problem(7, 2, 4, 3, 2)
    with pytest.raises(ValueError, match="weights have shape"):
        paper_distances(z, np.ones((1, 4)), queries, 0.1)


def test_example_2_1_unweighted_ties_two_generators_that_weights_separate():
    prompts = np.linspace(-1, 1, 41)[:-1]
    first = np.stack([np.cos(prompts * np.pi), np.sin(prompts * np.pi)], axis=1)
    second = first[:, ::-1]
    # Prompts as directions, so that a cosine says how near two of them are.
    directions = np.stack([np.cos(prompts * np.pi), np.sin(prompts * np.pi)], axis=1)
    wanted = np.array([0.1, 0.2, 0.4])
    queries = np.stack([np.cos(wanted * np.pi), np.sin(wanted * np.pi)], axis=1)
    unweighted, weighted = [], []
    for z in (first, second):
        unweighted.append(rkme_distance(z, queries, 1.0))
        weights = np.stack([cosine_weights(directions, np.arange(40), q) for q in queries])
        weighted.append(paper_distance(z, weights, queries, 1.0))
    assert unweighted[0] == pytest.approx(unweighted[1], abs=1e-9)
    assert weighted[0] < weighted[1] - 0.05


def test_rkme_concat_is_the_product_of_two_kernels():
    rng = np.random.default_rng(8)
    z, q = rng.standard_normal((2, 5, 4)), rng.standard_normal((5, 3))
    both = concatenated(z, q)
    assert both.shape == (2, 5, 7)
    np.testing.assert_allclose(gram(both[0], 0.3), gram(z[0], 0.3) * gram(q, 0.3), atol=1e-12)


def test_the_reduced_point_of_one_image_is_the_image():
    z = np.random.default_rng(9).standard_normal((1, 5))
    point, beta = reduced_point(z, 0.5)
    np.testing.assert_allclose(point, z[0])
    assert beta == pytest.approx(1)
    assert reduced_distances(point[None], np.array([beta]), z, 0.5)[0, 0] == pytest.approx(0)


@pytest.mark.parametrize("gamma", [1e-3, 0.1, 5.0, 1e4])
def test_the_reduced_point_beats_every_row_and_the_mean(gamma):
    rng = np.random.default_rng(10)
    z = np.concatenate([rng.standard_normal((6, 3)), 8 + 0.3 * rng.standard_normal((9, 3))])
    point, beta = reduced_point(z, gamma)

    def gap(x, scale):
        """‖(1/N) Σ k(z_i,·) - scale k(x,·)‖²"""
        return gram(z, gamma).mean() - 2 * scale * reach(x) + scale**2

    def reach(x):
        return np.exp(-gamma * ((z - x) ** 2).sum(axis=1)).mean()

    assert beta == pytest.approx(reach(point), abs=1e-6)
    for other in (*z, z.mean(axis=0)):
        assert gap(point, beta) <= gap(other, reach(other)) + 1e-9
