"""The constants are the paper's tables, written down a second time as the paper prints them."""

from __future__ import annotations

import pytest

from benchmarks.paper import tables

TABLE_1 = """
Download 0.062 0.125 0.188 0.250 0.312 0.375 0.438 0.500
RKME-Basic 0.062 0.125 0.188 0.250 0.312 0.375 0.438 0.500
RKME-CLIP 0.419 0.576 0.688 0.770 0.832 0.870 0.905 0.934
Proposal 0.455 0.614 0.734 0.812 0.863 0.899 0.922 0.943
"""
TABLE_2 = """
Download 0.062 0.125 8.500
RKME-Basic 0.062 0.125 8.500
RKME-CLIP 0.419 0.576 3.130
RKME-Concat 0.433 0.602 2.938
Proposal 0.455 0.614 2.852
"""
TABLE_4 = """
1 0.455 0.614 0.734 0.812
2 0.578 0.743 0.840 0.908
3 0.658 0.791 0.883 0.950
4 0.709 0.854 0.929 0.969
5 0.755 0.873 0.946 0.979
"""
TABLE_5 = """
1 0.455 0.614 0.734 0.812
2 0.442 0.609 0.729 0.810
3 0.460 0.617 0.732 0.808
"""
TABLE_6 = """
Size=1 0.434 0.592 0.707 0.789
Proposal 0.455 0.614 0.734 0.812
"""
NAMES = {"Proposal": "paper", "Size=1": "size-1"}


def printed(text: str) -> dict[str, tuple[float, ...]]:
    rows = [line.split() for line in text.strip().splitlines()]
    return {NAMES.get(head, head.lower()): tuple(map(float, values)) for head, *values in rows}


@pytest.mark.parametrize(
    ("constant", "text"),
    [
        (tables.TABLE_1, TABLE_1),
        (tables.TABLE_2, TABLE_2),
        (tables.TABLE_4, TABLE_4),
        (tables.TABLE_5, TABLE_5),
        (tables.TABLE_6, TABLE_6),
    ],
)
def test_a_constant_is_what_the_paper_prints(constant, text) -> None:
    assert {str(key): value for key, value in constant.items()} == printed(text)


def test_the_tables_agree_where_they_speak_of_the_same() -> None:
    for name, figures in tables.TABLE_2.items():
        if name in tables.TABLE_1:
            assert tables.TABLE_1[name][:2] == figures[:2]
    assert tables.TABLE_4[1] == tables.TABLE_5[1] == tables.TABLE_6["paper"]
    assert tables.TABLE_1["paper"][:4] == tables.TABLE_4[1]
