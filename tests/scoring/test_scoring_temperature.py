"""The temperature that specifications tell of themselves."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmi_registry.scoring.confidence import TEMPERATURE, confidences, fitted_temperature
from gmi_registry.scoring.default import whitened_distances

PROMPTS = np.arange(60)


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
