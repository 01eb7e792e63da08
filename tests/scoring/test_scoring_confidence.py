"""Chances from distances: a softmax whose limits and invariants are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gmi_registry.scoring.confidence import TEMPERATURE, confidences

DISTANCES = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 1e4))


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
