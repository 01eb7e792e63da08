"""Confidence from margins."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paper.results import first_margins, fit_calibration, reliability


def drawn(tasks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Margins, and answers that are right with the chance 1 - exp(-margin)."""
    generator = np.random.default_rng(seed)
    margins = generator.exponential(size=tasks)
    right = generator.random(tasks) < 1 - np.exp(-margins)
    return margins, right.astype(float)


def test_a_confidence_fitted_on_dev_is_right_on_test() -> None:
    curve = fit_calibration(*drawn(2000, 1))
    margins, right = drawn(3000, 2)
    assert reliability(curve.confidence(margins), right).error < 0.06
    assert curve.confidence(np.array([1.0]))[0] == pytest.approx(1 - np.exp(-1), abs=0.1)


def test_the_scale_of_the_distances_does_not_matter() -> None:
    margins, right = drawn(600, 3)
    asked = np.linspace(0, 3, 20)
    small = fit_calibration(margins * 1e-9, right).confidence(asked * 1e-9)
    assert np.allclose(small, fit_calibration(margins, right).confidence(asked))


def test_a_wider_margin_is_never_less_sure_and_equal_margins_are_equally_sure() -> None:
    generator = np.random.default_rng(4)
    curve = fit_calibration(generator.random(500), generator.integers(0, 2, 500).astype(float))
    assert (np.diff(curve.chances) >= 0).all()
    assert (np.diff(curve.margins) > 0).all()
    flat = fit_calibration(np.zeros(300), np.array([1.0, 0.0, 0.0] * 100))
    assert flat.confidence(np.array([0.0, 7.0])).tolist() == pytest.approx([1 / 3, 1 / 3])


def test_the_error_is_the_mean_gap_between_saying_and_being() -> None:
    sure = reliability(np.full(200, 0.9), np.array([1.0, 0.0] * 100))
    assert sure.error == pytest.approx(0.4)
    assert sure.tasks.sum() == 200


def test_a_margin_is_the_gap_to_the_runner_up_and_0_for_ties() -> None:
    distances = np.array([[3.0, 1.0, 1.5], [2.0, 2.0, 9.0], [np.inf, np.inf, np.inf]])
    assert first_margins(distances).tolist() == [0.5, 0.0, 0.0]


def test_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task"):
        fit_calibration(np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="no task"):
        reliability(np.empty(0), np.empty(0))
