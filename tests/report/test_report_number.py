import math

import pytest

from gmi_registry.report.number import number, percent


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
