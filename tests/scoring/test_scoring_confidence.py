"""Chances from distances, the temperature that makes them believable, the mass of the tail, and
images that are not wanted."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gmi_registry.scoring.confidence import (
    TEMPERATURE,
    _log_normal,
    confidences,
    distances_with_unwanted,
    fitted_temperature,
    log_innocence,
    tail_distances,
)
from gmi_registry.scoring.default import whitened_distances

PROMPTS = np.arange(60)
DISTANCES = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1e4))
WANTED = hnp.arrays(np.float64, 7, elements=st.floats(0, 200))
UNWANTED = hnp.arrays(np.float64, (3, 7), elements=st.floats(0, 200))


@given(DISTANCES, st.integers(1, 8))
def test_chances_add_up_and_keep_the_order(distances: np.ndarray, images: int) -> None:
    chances = confidences(distances, images)
    assert chances.sum() == pytest.approx(1)
    assert ((chances >= 0) & (chances <= 1)).all()
    order = np.argsort(distances, kind="stable")
    assert (np.diff(chances[order]) <= 0).all()


@given(DISTANCES, st.floats(-1e3, 1e3))
def test_what_is_added_to_all_distances_changes_nothing(distances: np.ndarray, more: float) -> None:
    np.testing.assert_allclose(
        confidences(distances + more, 1), confidences(distances, 1), atol=1e-6
    )


def test_two_models_by_hand() -> None:
    distances = np.array([3.0, 3.0 + 2 * TEMPERATURE * np.log(4)])
    np.testing.assert_allclose(confidences(distances, 1), [0.8, 0.2])
    # Two images that agree: the odds are squared.
    np.testing.assert_allclose(confidences(distances, 2), [16 / 17, 1 / 17])


def test_the_same_distance_to_all_is_chance() -> None:
    np.testing.assert_allclose(confidences(np.full((3, 4), 7.0), 1), np.full((3, 4), 0.25))


def test_a_gaussian_query_is_right_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(size=(6, 3))
    truth = rng.integers(6, size=20_000)
    queries = means[truth] + rng.normal(size=(20_000, 3))
    distances = ((queries[:, None] - means) ** 2).sum(-1)
    chances = confidences(distances, 1, temperature=1)
    right = chances.argmax(1) == truth
    for low in np.arange(0.2, 1, 0.1):
        chosen = (chances.max(1) >= low) & (chances.max(1) < low + 0.1)
        assert abs(chances.max(1)[chosen].mean() - right[chosen].mean()) < 0.03


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([np.inf, 1.0, np.inf], [0, 1, 0]),
        ([np.inf, np.inf], [0.5, 0.5]),
        ([np.nan, 1.0], [0.5, 0.5]),
        ([5.0], [1]),
        ([], []),
    ],
)
def test_odd_distances(distances: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(confidences(np.array(distances), 1), expected)


@pytest.mark.parametrize(("images", "temperature"), [(0, 1), (1, 0), (1, -1), (1, np.nan)])
def test_no_image_or_no_temperature_is_refused(images: int, temperature: float) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        confidences(np.ones(3), images, temperature=temperature)


def hub(seed, *, models=12, dimensions=20, style=0.7, tails=np.inf):
    """Specifications, and 2,000 queries with their models. Images spread around their model's mean
    as Student's t has it: as Gauss has it where ``tails`` is infinite, else with rare far ones."""
    rng = np.random.default_rng(seed)
    means = style * rng.standard_normal((models, dimensions))

    def images(shape):
        noise = rng.standard_normal((*shape, dimensions))
        if np.isfinite(tails):
            noise /= np.sqrt(rng.chisquare(tails, (*shape, 1)) / tails)
        return noise

    truth = rng.integers(models, size=2000)
    return means[:, None] + images((models, len(PROMPTS))), means[truth] + images((2000,)), truth


def calibration_error(images, queries, truth, temperature):
    ones = np.ones((len(queries), images.shape[1]))
    chances = confidences(whitened_distances(images, ones, queries), 1, temperature=temperature)
    first, right = chances.max(1), chances.argmax(1) == truth
    parts = np.array_split(np.argsort(first), 10)
    return sum(len(p) * abs(first[p].mean() - right[p].mean()) for p in parts) / len(truth)


@pytest.mark.parametrize(("dimensions", "style"), [(5, 1.2), (20, 0.7), (200, 0.35)])
def test_chances_of_gaussian_embeddings_can_be_believed(dimensions, style):
    images, queries, truth = hub(1, dimensions=dimensions, style=style)
    temperature = fitted_temperature(images, PROMPTS)
    assert calibration_error(images, queries, truth, temperature) < 0.05


@pytest.mark.parametrize("tails", [4.0, 2.5])
@pytest.mark.parametrize(("dimensions", "style"), [(5, 1.2), (200, 0.35)])
def test_chances_of_others_can_be_believed_more_than_with_a_constant(dimensions, style, tails):
    images, queries, truth = hub(1, dimensions=dimensions, style=style, tails=tails)
    temperature = fitted_temperature(images, PROMPTS)
    fitted, constant = (
        calibration_error(images, queries, truth, it) for it in (temperature, TEMPERATURE)
    )
    assert fitted < 0.65 * constant


def test_embeddings_with_many_dimensions_need_a_higher_one():
    """There a mean of few images and a covariance of few rows make distances too sure."""
    found = [
        fitted_temperature(hub(2, dimensions=size, style=3 / np.sqrt(size))[0], PROMPTS)
        for size in (5, 400)
    ]
    assert found[0] < found[1]


def test_only_the_models_that_it_looks_at_matter_and_neither_order_nor_scale():
    images, _, _ = hub(3)
    temperature = fitted_temperature(images, PROMPTS)
    assert fitted_temperature(images[::-1], PROMPTS) == temperature
    assert fitted_temperature((8 * images).astype(np.float32), PROMPTS) == temperature
    many = np.concatenate([images] * 20)
    assert 0.25 <= fitted_temperature(many, PROMPTS) <= 64


@pytest.mark.parametrize(
    ("models", "prompts"), [(1, np.arange(9)), (5, np.zeros(9, int)), (0, np.arange(9))]
)
def test_without_anything_to_ask_the_usual_one_stands(models, prompts):
    images = np.random.default_rng(4).standard_normal((models, 9, 4)).astype(np.float16)
    assert fitted_temperature(images, prompts) == TEMPERATURE


def test_images_that_are_all_the_same_are_no_trouble():
    assert 0.25 <= fitted_temperature(np.ones((3, 9, 4), np.float16), np.arange(9)) <= 64


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["noise", "far", "mixed"]))
@settings(max_examples=20, deadline=None)
def test_one_model_moves_the_temperature_little(seed, kind):
    images = hub(seed)[0].astype(np.float32)
    rng = np.random.default_rng(seed)
    rows = {
        "noise": 9000 * rng.standard_normal(images.shape[1:]),
        "far": 30 * images[3],
        "mixed": images[rng.integers(0, 12, images.shape[1]), np.arange(images.shape[1])],
    }
    before = fitted_temperature(images, PROMPTS)
    after = fitted_temperature(np.concatenate([images, rows[kind][None]]), PROMPTS)
    assert before / 1.5 < after < before * 1.5


@pytest.mark.parametrize("models", [2, 3])
@pytest.mark.parametrize("size", [5, 900])
def test_of_few_models_those_that_are_spread_as_no_other_have_no_say(models, size):
    """By their number alone they would have it: all chances were alike for one such of three."""
    images = hub(5, models=models, dimensions=100)[0].astype(np.float32)
    others = size * np.random.default_rng(5).standard_normal((models - 1, *images.shape[1:]))
    before = fitted_temperature(images, PROMPTS)
    after = fitted_temperature(np.concatenate([images, others.astype(np.float32)]), PROMPTS)
    assert before / 1.5 < after < before * 1.5


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("level", [5.0, 20.0, 60.0])
def test_many_models_weigh_what_they_would_weigh_each(beta, level):
    rng = np.random.default_rng(0)
    drawn = level + 8 * rng.standard_normal(4_000_000)
    beyond = drawn[drawn > 10]
    (distance,) = tail_distances(np.full(1000, level), 8.0, 10.0, beta)
    # Where a little nearer means much, few of those that are drawn count.
    slack = 0.02 if 8 * beta < 2 else 0.3
    assert math.exp(-beta * distance) == pytest.approx(
        1000 * np.exp(-beta * beyond).mean(), rel=slack
    )


@pytest.mark.parametrize("beta", [0.05, 0.3])
def test_classes_lose_little(beta):
    levels = 30 + 10 * np.random.default_rng(0).random(20_000)
    found = tail_distances(levels, 0.5, 0.0, beta)
    assert len(found) < 1100
    wanted = np.exp(-beta * levels + (beta * 0.5) ** 2 / 2).sum()
    assert np.exp(-beta * found).sum() == pytest.approx(wanted, rel=0.01)


def test_without_a_deviation_it_is_the_estimate():
    assert tail_distances(np.array([50.0]), 0.0, 10.0, 0.3) == pytest.approx([50])
    eight = tail_distances(np.full(8, 50.0), 0.0, 10.0, 0.5)
    assert eight == pytest.approx([50 - 2 * math.log(8)])


@pytest.mark.parametrize("estimates", [[], [np.nan], [np.inf, np.inf]])
def test_models_without_an_estimate_say_nothing(estimates):
    assert tail_distances(np.array(estimates), 1.0, 10.0, 1.0).shape == (0,)


def test_what_is_far_away_says_nothing_and_hides_nothing():
    near = tail_distances(np.linspace(50, 60, 11), 1.0, 10.0, 0.3)
    far = tail_distances(np.append(np.linspace(50, 60, 11), [1e9, np.nan]), 1.0, 10.0, 0.3)
    assert np.array_equal(near, far)


@given(
    level=st.floats(-1e4, 1e4),
    deviation=st.floats(0, 1e3),
    above=st.floats(-50, 1e3),
    beta=st.floats(1e-4, 1e2),
)
def test_it_is_a_number_and_hardly_within_the_limit(level, deviation, above, beta):
    limit = level - above
    (distance,) = tail_distances(np.array([level]), deviation, limit, beta)
    assert math.isfinite(distance)
    assert distance >= limit - 1e-3 - 1e-5 * (abs(limit) + abs(above) + deviation)


def test_the_logarithm_of_the_normal_distribution():
    values = np.concatenate([np.linspace(-5, 9, 400), [-30.0]])
    known = [math.log(math.erfc(-value / math.sqrt(2)) / 2) for value in values]
    assert _log_normal(values) == pytest.approx(known, rel=1e-5, abs=1e-6)
    # Where erfc is nothing.
    assert _log_normal(np.array([-1e3])) == pytest.approx([-5e5 - math.log(1e3 * 2.5066)], rel=1e-9)
    assert _log_normal(np.array([1e3, np.inf])) == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("images", [1, 4])
def test_the_chance_that_is_left_is_a_product(images):
    rng = np.random.default_rng(0)
    wanted, unwanted = 5 * rng.random(9), 5 * rng.random((2, 9))
    suspected = confidences(unwanted, 1, temperature=1.7)
    product = confidences(wanted, images, temperature=1.7) * np.prod(1 - suspected, axis=0)
    innocent = log_innocence(unwanted, temperature=1.7)
    found = confidences(
        distances_with_unwanted(wanted, innocent, images, temperature=1.7), images, temperature=1.7
    )
    np.testing.assert_allclose(found, product / product.sum(), rtol=1e-9)


@given(WANTED, UNWANTED, st.integers(1, 8), st.floats(0.25, 64))
def test_no_model_comes_nearer_and_none_goes_to_infinity(wanted, unwanted, images, temperature):
    innocent = log_innocence(unwanted, temperature=temperature)
    found = distances_with_unwanted(wanted, innocent, images, temperature=temperature)
    assert (found >= wanted).all()
    assert (found - wanted <= len(unwanted) * 56 * temperature / images).all()


@given(UNWANTED)
def test_the_likelier_suspect_moves_farther(unwanted):
    moved = -log_innocence(unwanted[:1], temperature=2)
    order = np.argsort(unwanted[0], kind="stable")
    assert (np.diff(moved[order]) <= 1e-12).all()


def test_a_model_that_is_not_suspected_stays_where_it_is():
    unwanted = np.array([[0.0, 300.0, 300.0]])
    innocent = log_innocence(unwanted, temperature=1)
    assert innocent[0] < -20
    np.testing.assert_array_equal(innocent[1:], [0, 0])


def test_two_pictures_of_two_models_count_against_both():
    unwanted = np.array([[0.0, 80.0, 80.0], [80.0, 0.0, 80.0]])
    innocent = log_innocence(unwanted, temperature=1)
    assert (innocent[:2] < -20).all()
    assert innocent[2] > -1e-9


def test_models_that_repeat_each_other_are_suspected_by_the_nearest_of_them():
    innocent = log_innocence(np.array([[80.0, 0.0, 80.0]]), temperature=1, repeats=[[0, 1]])
    assert (innocent[:2] < -20).all()
    assert innocent[2] > -1e-9


def test_a_model_alone_is_suspected_of_nothing():
    np.testing.assert_array_equal(log_innocence(np.array([[3.0]]), temperature=1), [0.0])


@pytest.mark.parametrize(("images", "temperature"), [(0, 1.0), (1, 0.0)])
def test_nothing_may_be_zero(images, temperature):
    with pytest.raises(ValueError, match="at least one image and T > 0"):
        distances_with_unwanted(np.ones(2), np.zeros(2), images, temperature=temperature)
