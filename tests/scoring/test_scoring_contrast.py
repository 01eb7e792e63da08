"""Pictures of what is not wanted: which models move, by how much, and which do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gmi_registry.scoring.confidence import confidences, distances_with_unwanted, log_innocence

distances = arrays(np.float64, 7, elements=st.floats(0, 200))
pictures = arrays(np.float64, (3, 7), elements=st.floats(0, 200))


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


@given(distances, pictures, st.integers(1, 8), st.floats(0.25, 64))
def test_no_model_comes_nearer_and_none_goes_to_infinity(wanted, unwanted, images, temperature):
    innocent = log_innocence(unwanted, temperature=temperature)
    found = distances_with_unwanted(wanted, innocent, images, temperature=temperature)
    assert (found >= wanted).all()
    assert (found - wanted <= len(unwanted) * 56 * temperature / images).all()


@given(pictures)
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


def test_a_model_alone_is_suspected_of_nothing():
    np.testing.assert_array_equal(log_innocence(np.array([[3.0]]), temperature=1), [0.0])


@pytest.mark.parametrize(("images", "temperature"), [(0, 1.0), (1, 0.0)])
def test_nothing_may_be_zero(images, temperature):
    with pytest.raises(ValueError, match="at least one image and T > 0"):
        distances_with_unwanted(np.ones(2), np.zeros(2), images, temperature=temperature)
