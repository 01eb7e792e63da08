"""Canonical JSON: the spellings of RFC 8785, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmi_registry.spec.canonical import (
    MAX_DEPTH,
    MAX_NUMBER,
    canonical_digest,
    canonical_json,
    parse_json,
)

NUMBERS = st.integers(-MAX_NUMBER, MAX_NUMBER) | st.floats(
    -MAX_NUMBER, MAX_NUMBER, allow_nan=False, allow_infinity=False
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (7.0, "7"),
        (-0.0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.25e-10, "1.25e-10"),
        (5e-324, "5e-324"),
        (-0.25, "-0.25"),
        (4503599627370495.5, "4503599627370495.5"),
        (9007199254740991, "9007199254740991"),
        (True, "true"),
        (None, "null"),
        ((), "[]"),
        ({}, "{}"),
        ([1, [2, {}]], "[1,[2,{}]]"),
        ({"b": 1, "a": 2, "": 3}, '{"":3,"a":2,"b":1}'),
        ({"\ufb33": 1, "😀": 2}, '{"😀":2,"\ufb33":1}'),
        ('"\\/\b\f\n\r\t\x01\x7fé', '"\\"\\\\/\\b\\f\\n\\r\\t\\u0001\x7fé"'),
    ],
)
def test_spelling(value: Any, spelled: str) -> None:
    assert canonical_json(value).decode() == spelled


@given(VALUES)
def test_what_is_written_is_read_back_equal_and_written_the_same(value: Any) -> None:
    written = canonical_json(value)
    assert parse_json(written) == value
    assert canonical_json(parse_json(written)) == written
    assert json.loads(written) == value


@given(st.floats(-MAX_NUMBER, MAX_NUMBER))
def test_numbers_keep_their_value_to_the_last_bit(value: float) -> None:
    assert float(canonical_json(value)) == value


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, 2**53, -(2.0**53), object(), {1: 2}, b"", {"a": {3}}, "\ud83e"],
)
def test_values_that_have_no_spelling(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- each has words of its own
        canonical_json(value)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_depth_is_judged_alike_in_reading_and_writing() -> None:
    deepest = canonical_json(nested(MAX_DEPTH))
    assert parse_json(deepest) == nested(MAX_DEPTH)
    with pytest.raises(ValueError, match="nested"):
        canonical_json(nested(MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="nested"):
        parse_json(b"[" + deepest + b"]")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b'{"a":1,"a":1}', "'a' appears twice"),
        (b'{"x":{"b":1,"c":2,"b":1}}', "'b' appears twice"),
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1" * 20, "2\\^53"),
        (b"[" * 100_000, "nested"),
        (b"[" + b"0," * 10_000 + b"0]", "10,000 values"),
    ],
)
def test_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(data)


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_digest({"a": 1, "b": 2.0}) == canonical_digest({"b": 2, "a": 1})
    assert canonical_digest({}) == (
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    )
