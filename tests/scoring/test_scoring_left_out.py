"""What is left out has the chances that it would have had."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.scoring.confidence import TailMass, _log_normal


def group(size, level, deviation, limit):
    return TailMass(np.array([float(size)]), np.array([level]), np.array([deviation]), limit)


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("level", [5.0, 20.0, 60.0])
def test_a_group_weighs_what_its_models_weigh(beta, level):
    rng = np.random.default_rng(0)
    drawn = level + 8 * rng.standard_normal(4_000_000)
    beyond = drawn[drawn > 10]
    (distance,) = group(1000, level, 8.0, 10.0).distances(beta)
    # Where a little nearer means much, few of those that are drawn count.
    slack = 0.02 if 8 * beta < 2 else 0.3
    assert math.exp(-beta * distance) == pytest.approx(
        1000 * np.exp(-beta * beyond).mean(), rel=slack
    )


def test_without_a_deviation_it_is_the_level():
    assert group(1, 50.0, 0.0, 10.0).distances(0.3) == pytest.approx([50])
    assert group(8, 50.0, 0.0, 10.0).distances(0.5) == pytest.approx([50 - 2 * math.log(8)])


def test_groups_without_models_say_nothing():
    assert TailMass.nobody().distances(1.0).shape == (0,)
    both = group(0, 20.0, 1.0, 10.0).joined(group(3, 20.0, 1.0, math.inf))
    assert both.limit == 10
    assert both.distances(1.0).shape == (1,)


@given(
    level=st.floats(-1e4, 1e4),
    deviation=st.floats(0, 1e3),
    above=st.floats(-50, 1e3),
    beta=st.floats(1e-4, 1e2),
)
def test_it_is_a_number_and_hardly_within_the_limit(level, deviation, above, beta):
    limit = level - above
    (distance,) = group(1, level, deviation, limit).distances(beta)
    assert math.isfinite(distance)
    assert distance >= limit - 1e-3 - 1e-5 * (abs(limit) + abs(above) + deviation)


def test_the_logarithm_of_the_normal_distribution():
    values = np.concatenate([np.linspace(-5, 9, 400), [-30.0]])
    known = [math.log(math.erfc(-value / math.sqrt(2)) / 2) for value in values]
    assert _log_normal(values) == pytest.approx(known, rel=1e-5, abs=1e-6)
    # Where erfc is nothing.
    assert _log_normal(np.array([-1e3])) == pytest.approx([-5e5 - math.log(1e3 * 2.5066)], rel=1e-9)
    assert _log_normal(np.array([1e3, np.inf])) == pytest.approx([0, 0], abs=1e-9)
