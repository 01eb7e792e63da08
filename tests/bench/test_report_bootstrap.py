"""Intervals from drawing tasks anew."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from benchmarks.paper import results
from benchmarks.paper.results import CONFIDENCE, RESAMPLES, SEED, interval, resampled_means


@pytest.mark.parametrize("block", [results._RESAMPLE_BLOCK, 137 * 7])
def test_means_and_intervals_are_those_of_scipy(monkeypatch, block) -> None:
    """The same draws for all columns, whatever is drawn at a time; scipy takes seven times as long
    for the 2,880 tasks and 144 columns of a protocol."""
    monkeypatch.setattr(results, "_RESAMPLE_BLOCK", block)
    generator = np.random.default_rng(4)
    values = np.concatenate([generator.normal(size=(137, 2)), generator.random((137, 1)) < 0.4], 1)
    expected = bootstrap(
        (values.T,),
        np.mean,
        axis=-1,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    means = resampled_means(values)
    assert pytest.approx(expected.bootstrap_distribution, rel=1e-12) == means.T
    low, high = interval(means)
    assert low == pytest.approx(expected.confidence_interval.low, rel=1e-12)
    assert high == pytest.approx(expected.confidence_interval.high, rel=1e-12)
    assert not np.array_equal(means, resampled_means(values, seed=5))


def test_no_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task"):
        resampled_means(np.empty((0, 3)))
