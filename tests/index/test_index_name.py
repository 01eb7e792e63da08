"""Whose a reference as text is, and rows less those of a model."""

from __future__ import annotations

import pytest

from gmi_registry.index.groups import identity_of, rows_without
from gmi_registry.spec import ModelRef

NAMES = sorted(
    [
        "civitai:1@2",
        "civitai:1@20",
        "civitai:10@2",
        "hf:o/m",
        "hf:o/m-b@0123456789ab",
        "hf:o/m/file.safetensors@0123456789ab",
        "hf:o/m@0123456789ab",
        "hf:o/m@ffffffffffff",
        "hf:o/mm@0123456789ab",
        "local:m",
    ]
)


@pytest.mark.parametrize("name", NAMES)
def test_identities_are_those_of_references(name):
    assert identity_of(name) == str(ModelRef.parse(name).identity)


@pytest.mark.parametrize("rows", [range(len(NAMES)), [0, 2, 4, 6, 7], range(0), [5]])
@pytest.mark.parametrize(
    "identities", [[], *([str(ModelRef.parse(name).identity)] for name in NAMES), ["hf:o/n"]]
)
def test_rows_of_other_models_are_left(rows, identities):
    left = rows_without(rows, NAMES, identities)
    assert list(left) == [row for row in rows if identity_of(NAMES[row]) not in identities]


def test_rows_of_several_models():
    kept = rows_without(range(len(NAMES)), NAMES, ["hf:o/m", "local:m", "civitai:1@2"])
    assert [NAMES[row] for row in kept] == [
        "civitai:10@2",
        "civitai:1@20",
        "hf:o/m-b@0123456789ab",
        "hf:o/m/file.safetensors@0123456789ab",
        "hf:o/mm@0123456789ab",
    ]


def test_rows_that_stay_are_the_same_object():
    rows = range(4)
    assert rows_without(rows, NAMES, ["local:m"]) is rows
