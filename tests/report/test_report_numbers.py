import math

import pytest

from gmi_registry.report.figures import number, percent, strip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0000"),
        (0.12345, "0.1235"),
        (-0.5, "-0.5000"),
        (1.0, "1.000"),
        (12.3456, "12.35"),
        (999.96, "1000.0"),
        (123456.7, "123457"),
        (0.00001234, "1.23e-05"),
        (12345678.0, "1.23e+07"),
        (math.inf, "infinite"),
        (-math.inf, "-infinite"),
        (math.nan, "unknown"),
    ],
)
def test_number(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("chance", "text"),
    [
        (None, ""),
        (0.0, "< 1 %"),
        (0.0099, "< 1 %"),
        (0.01, "1 %"),
        (0.5, "50 %"),
        (0.994, "99 %"),
        (0.995, "> 99 %"),
        (1.0, "> 99 %"),
    ],
)
def test_percent(chance, text):
    assert percent(chance) == text


def test_nearest_is_left_and_farthest_right():
    distances = [0.1, 0.2, 0.5]
    near, middle, far = (strip(value, distances) for value in distances)
    assert near.own == near.inset
    assert far.own == far.end
    assert near.inset < middle.own < far.end
    assert near.others == (near.own, middle.own, far.own)


def test_one_model_and_ties_stand_at_the_left():
    assert strip(0.3, [0.3]).own == strip(0.3, [0.3, 0.3]).own == strip(0.3, [0.3]).inset


def test_what_is_not_finite_stands_at_the_far_end():
    line = strip(math.inf, [0.1, math.inf, math.nan])
    assert line.own == line.end
    assert line.others == (line.inset, line.end, line.end)
    assert strip(math.inf, [math.inf]).own == line.end
