import math

from gmi_registry.report.strip import strip


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
